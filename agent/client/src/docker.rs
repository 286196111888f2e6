//! Docker as a place to load images into: on this machine, or on another one.
//!
//! Through ssh it is reached as the docker command does it: `ssh HOST docker system dial-stdio`, with the user's own
//! ssh and its configuration.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

pub use self::tls::DockerTls;
use crate::{DockerConfig, Error, Sink};

mod tls;

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
const PIPE: usize = 1 << 20;

/// Where Docker's API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerEngine {
    /// On a socket.
    Unix(PathBuf),
    /// On a port, with TLS or without.
    Tcp(String, Option<DockerTls>),
    /// On a machine that is reached by ssh: `[user@]host[:port]`, and its socket's path if it isn't the usual one.
    Ssh(String),
}

/// An image on its way into Docker.
#[derive(Debug)]
pub struct Loading(JoinHandle<Result<Vec<String>, Error>>);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl DockerEngine {
    /// What the docker command would use: `DOCKER_HOST`, the current context, the default socket.
    pub fn locate() -> Result<Self, Error> {
        let own = DockerConfig::default_dir();
        let host = std::env::var("DOCKER_HOST");
        if let Some(host) = host.ok().filter(|host| !host.is_empty()) {
            let tls = DockerTls::of_environment(&host, own.as_deref())?;
            return Ok(Self::parse(&host)?.with_tls(tls));
        }
        if let Some(own) = own
            && let Some((id, endpoint)) = context(&own)
            && let Some(host) = endpoint["Host"].as_str()
        {
            let tls = DockerTls::of_context(host, &own, &id, &endpoint)?;
            return Ok(Self::parse(host)?.with_tls(tls));
        }
        Ok(Self::Unix(DEFAULT_SOCKET.into()))
    }

    /// Sockets and ssh have no need of it. Without a port it is that of Docker.
    fn with_tls(self, tls: Option<DockerTls>) -> Self {
        let Self::Tcp(address, _) = self else {
            return self;
        };
        let has_port = address
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let port = if tls.is_some() { 2376 } else { 2375 };
        let address = match has_port {
            true => address,
            false => format!("{address}:{port}"),
        };
        Self::Tcp(address, tls)
    }

    /// Reads `unix:///path` or `tcp://host:port`.
    pub fn parse(host: &str) -> Result<Self, Error> {
        match host.split_once("://") {
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http", address)) => {
                let address = address.trim_end_matches('/').to_owned();
                Ok(Self::Tcp(address, None))
            }
            // What begins with a dash would be an option of ssh.
            Some(("ssh", address)) if !address.is_empty() && !address.starts_with('-') => {
                Ok(Self::Ssh(address.to_owned()))
            }
            _ => Err(Error::Docker {
                address: host.to_owned(),
                reason: "want unix:///PATH, tcp://HOST:PORT or ssh://[USER@]HOST".to_owned(),
            }),
        }
    }

    fn failed(&self, reason: impl Into<String>) -> Error {
        Error::Docker {
            address: self.to_string(),
            reason: reason.into(),
        }
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, Error> {
        let stream: std::io::Result<Box<dyn Stream>> = match self {
            Self::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(error),
            },
            Self::Tcp(address, tls) => match (TcpStream::connect(address).await, tls) {
                (Ok(stream), None) => Ok(Box::new(stream)),
                (Ok(stream), Some(tls)) => match tls.connect(address, stream).await {
                    Ok(stream) => Ok(Box::new(stream)),
                    Err(error) => Err(error),
                },
                (Err(error), _) => Err(error),
            },
            Self::Ssh(address) => match ssh(address) {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(error),
            },
        };
        stream.map_err(|error| self.broken("no Docker answers there", &error))
    }

    /// A failure of the connection, and what to look at.
    fn broken(&self, what: &str, error: &(dyn std::error::Error + 'static)) -> Error {
        let advice = match self {
            Self::Tcp(_, Some(tls)) => tls.advice(error),
            _ => None,
        };
        let advice = advice.map_or_else(String::new, |advice| format!("; {advice}"));
        let mut text = error.to_string();
        if let Some(cause) = error.source().map(ToString::to_string)
            && !text.contains(&cause)
        {
            text = format!("{text}: {cause}");
        }
        self.failed(format!("{what}: {text}{advice}"))
    }

    /// The version of Docker's engine; fails where none answers.
    pub async fn ping(&self) -> Result<String, Error> {
        let body = http_body_util::Empty::<Bytes>::new();
        let request = http::Request::get("/version")
            .header("host", "docker")
            .body(body);
        let request = request.map_err(|error| self.failed(error.to_string()))?;
        let answer = self.send(request).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
        Ok(answer["Version"].as_str().unwrap_or_default().to_owned())
    }

    /// Begins to load: what is written to the sink must be an archive of `docker save` or an OCI
    /// layout. Fails at once where no Docker answers.
    pub async fn load(&self) -> Result<(Sink, Loading), Error> {
        self.ping().await?;
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Frame<Bytes>>>(4);
        tokio::spawn(async move {
            let mut theirs = theirs;
            loop {
                let mut piece = bytes::BytesMut::with_capacity(256 << 10);
                let sent = match theirs.read_buf(&mut piece).await {
                    Ok(0) => return,
                    Ok(_) => sender.send(Ok(Frame::data(piece.freeze()))).await,
                    Err(error) => sender.send(Err(error)).await,
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        let request = http::Request::post("/images/load?quiet=1")
            .header("host", "docker")
            .header("content-type", "application/x-tar")
            .body(StreamBody::new(ReceiverStream::new(receiver)));
        let request = request.map_err(|error| self.failed(error.to_string()))?;
        let engine = self.clone();
        let work = tokio::spawn(async move { engine.loaded(&engine.send(request).await?) });
        Ok((Box::pin(ours), Loading(work)))
    }

    async fn send<B>(&self, request: http::Request<B>) -> Result<Bytes, Error>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let failed = |error: hyper::Error| self.broken("the connection broke", &error);
        let io = TokioIo::new(self.dial().await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(failed)?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(failed)?;
            let status = answer.status();
            let body = answer
                .into_body()
                .collect()
                .await
                .map_err(failed)?
                .to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let text = String::from_utf8_lossy(&body);
            let message = json["message"].as_str().unwrap_or(text.trim());
            let advice = match message.contains("HTTP request to an HTTPS server") {
                true => {
                    " It wants TLS: set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the certificates."
                }
                false => "",
            };
            Err(self.failed(format!("{status}: {message}{advice}")))
        };
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(failed(error)),
            },
        }
    }

    /// Docker answers with success and tells failures in the stream.
    fn loaded(&self, answer: &[u8]) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for line in serde_json::Deserializer::from_slice(answer).into_iter::<serde_json::Value>() {
            let Ok(line) = line else { break };
            if let Some(error) = line["error"].as_str() {
                return Err(self.failed(error));
            }
            let text = line["stream"].as_str().unwrap_or_default().trim();
            if let Some((_, name)) = text.split_once(": ") {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

impl Loading {
    /// Waits until Docker has the image; the names that it tells.
    pub async fn finish(self) -> Result<Vec<String>, Error> {
        self.0.await.unwrap_or(Err(Error::SessionEnded))
    }
}

impl std::fmt::Display for DockerEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address, _) => write!(f, "tcp://{address}"),
            Self::Ssh(address) => write!(f, "ssh://{address}"),
        }
    }
}

/// The docker command of another machine, which passes bytes to its Docker. It ends with its stream.
fn ssh(address: &str) -> std::io::Result<Command> {
    let (host, socket) = match address.split_once('/') {
        Some((host, socket)) => (host, format!("/{socket}")),
        None => (address, String::new()),
    };
    let mut arguments = vec!["-T", "-o", "ConnectTimeout=30"];
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None => (host, ""),
    };
    if !port.is_empty() {
        arguments.extend(["-p", port]);
    }
    arguments.extend(["--", host, "docker"]);
    let socket = (socket.len() > 1).then(|| format!("unix://{socket}"));
    if let Some(socket) = &socket {
        arguments.extend(["--host", socket]);
    }
    arguments.extend(["system", "dial-stdio"]);
    let mut child = tokio::process::Command::new("ssh")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What ssh says of itself is for the user.
        .kill_on_drop(true)
        .spawn()?;
    let missing = || std::io::Error::other("ssh without its streams");
    Ok(Command {
        stdin: child.stdin.take().ok_or_else(missing)?,
        stdout: child.stdout.take().ok_or_else(missing)?,
        _child: child,
    })
}

/// A command as a stream.
struct Command {
    stdin: ChildStdin,
    stdout: ChildStdout,
    _child: Child,
}

impl AsyncRead for Command {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Command {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}

/// The current context of the docker command: its id, and where its Docker is.
fn context(directory: &Path) -> Option<(String, serde_json::Value)> {
    let json = |path: PathBuf| {
        serde_json::from_slice::<serde_json::Value>(&std::fs::read(path).ok()?).ok()
    };
    let name = match std::env::var("DOCKER_CONTEXT") {
        Ok(name) if !name.is_empty() => name,
        _ => json(directory.join("config.json"))?["currentContext"]
            .as_str()?
            .to_owned(),
    };
    if name == "default" {
        return None;
    }
    let id = kiln_oci::Digest::of(name.as_bytes()).hex();
    let meta = json(directory.join("contexts/meta").join(&id).join("meta.json"))?;
    Some((id, meta["Endpoints"]["docker"].clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_name_their_hosts() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        std::fs::write(at.join("config.json"), r#"{"currentContext": "mine"}"#).unwrap();
        assert_eq!(context(at), None);
        let id = kiln_oci::Digest::of(b"mine").hex();
        let meta = at.join("contexts/meta").join(&id);
        std::fs::create_dir_all(&meta).unwrap();
        let json = r#"{"Name": "mine", "Endpoints": {"docker": {"Host": "unix:///x.sock"}}}"#;
        std::fs::write(meta.join("meta.json"), json).unwrap();
        let (found, endpoint) = context(at).unwrap();
        assert_eq!(
            (found.as_str(), &endpoint["Host"]),
            (id.as_str(), &"unix:///x.sock".into())
        );
        let tls = |endpoint| DockerTls::of_context("tcp://x", at, &id, &endpoint);
        assert_eq!(tls(endpoint.clone()).unwrap(), None);
        std::fs::create_dir_all(at.join("contexts/tls").join(&id).join("docker")).unwrap();
        assert!(tls(endpoint).unwrap().is_some());
        let careless = tls(serde_json::json!({"SkipTLSVerify": true})).unwrap_err();
        assert!(careless.to_string().contains("with a CA"), "{careless}");
    }

    #[test]
    fn ports_are_dockers_where_none_is_named() {
        let own = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(own.path().join("contexts/tls/x/docker")).unwrap();
        let tls = || DockerTls::of_context("", own.path(), "x", &serde_json::Value::Null).unwrap();
        for (host, tls, shown) in [
            ("tcp://there", None, "tcp://there:2375"),
            ("tcp://there", tls(), "tcp://there:2376"),
            ("tcp://[::1]/", tls(), "tcp://[::1]:2376"),
            ("tcp://there:1", tls(), "tcp://there:1"),
            ("unix:///x", tls(), "unix:///x"),
        ] {
            let engine = DockerEngine::parse(host).unwrap().with_tls(tls);
            assert_eq!(engine.to_string(), shown, "{host}");
        }
    }

    #[test]
    fn answers_of_a_load_are_read() {
        let engine = DockerEngine::Unix("/x".into());
        let answer =
            b"{\"stream\":\"Loaded image: a:latest\\n\"}\n{\"stream\":\"Loaded image: b:1\\n\"}";
        assert_eq!(engine.loaded(answer).unwrap(), ["a:latest", "b:1"]);
        let failure = b"{\"errorDetail\":{\"message\":\"no\"},\"error\":\"no\"}";
        let error = engine.loaded(failure).unwrap_err();
        assert_eq!(error.to_string(), "docker at unix:///x: no");
    }

    #[tokio::test]
    async fn a_missing_docker_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let engine = DockerEngine::Unix(directory.path().join("no.sock"));
        let error = engine.load().await.map(drop).unwrap_err();
        assert!(error.to_string().contains("no Docker answers"), "{error}");
        for refused in [
            "npipe:////./pipe/docker",
            "ssh://",
            "ssh://-oProxyCommand=x",
        ] {
            assert!(DockerEngine::parse(refused).is_err(), "{refused}");
        }
        let there = DockerEngine::parse("ssh://me@host:22/run/d.sock").unwrap();
        assert_eq!(there.to_string(), "ssh://me@host:22/run/d.sock");
    }
}
