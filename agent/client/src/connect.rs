//! Addresses and connections.
//!
//! Windows are raised on both levels: a session is HTTP/2 inside HTTP/2, and the default of 64 KiB would
//! make every large file wait for updates.

use std::io;
use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{Error, TlsFiles};

pub(crate) const STREAM_WINDOW: u32 = 8 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 32 << 20;
pub(crate) const FRAME: u32 = 256 << 10;

/// By which a daemon knows builds of ours.
const USER_AGENT: &str = concat!("kiln/", env!("CARGO_PKG_VERSION"));

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix:///run/buildkit/buildkitd.sock`
    Unix(PathBuf),
    /// `docker:///var/run/docker.sock`: behind Docker's API
    Docker(PathBuf),
    /// `tcp://127.0.0.1:1234`
    Tcp(String),
}

impl std::str::FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Some(Self::Unix(path.into())),
            Some(("docker", path)) if path.starts_with('/') => Some(Self::Docker(path.into())),
            Some(("tcp", host)) if host.contains(':') => Some(Self::Tcp(host.to_owned())),
            None if text.starts_with('/') => Some(Self::Unix(text.into())),
            _ => None,
        };
        parsed.ok_or_else(|| Error::Address {
            address: text.to_owned(),
        })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Docker(path) => write!(f, "docker://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

pub(crate) async fn connect(address: &Address, tls: Option<&TlsFiles>) -> Result<Channel, Error> {
    let failed = |source| Error::Connect {
        address: address.to_string(),
        source,
    };
    let endpoint = match (address, tls) {
        // Its host is the name that the certificate must have.
        (Address::Tcp(host), Some(files)) => {
            let config = files.read()?;
            Endpoint::from_shared(format!("https://{host}"))
                .and_then(|endpoint| endpoint.tls_config(config))
                .map_err(failed)?
        }
        // The authority is what grpc-go sends for a unix socket.
        _ => Endpoint::from_static("http://localhost"),
    };
    let endpoint = endpoint
        .user_agent(USER_AGENT)
        .map_err(failed)?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .buffer_size(1024);
    let connected = match address {
        Address::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            });
            endpoint.connect_with_connector(connector).await
        }
        Address::Docker(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move {
                    let mut stream = UnixStream::connect(path).await?;
                    upgrade(&mut stream).await?;
                    Ok::<_, io::Error>(TokioIo::new(stream))
                }
            });
            endpoint.connect_with_connector(connector).await
        }
        Address::Tcp(host) => {
            let host = host.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let host = host.clone();
                async move {
                    let stream = TcpStream::connect(host).await?;
                    stream.set_nodelay(true)?;
                    Ok::<_, io::Error>(TokioIo::new(stream))
                }
            });
            endpoint.connect_with_connector(connector).await
        }
    };
    connected.map_err(failed)
}

/// Docker's API gives the raw stream of BuildKit's after this.
const UPGRADE: &[u8] =
    b"POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\
    Content-Length: 0\r\n\r\n";
/// No answer to it is longer.
const LONGEST_ANSWER: usize = 16 << 10;

async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.write_all(UPGRADE).await?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head belongs to HTTP/2.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == LONGEST_ANSWER {
            let text = "the answer to the upgrade doesn't end";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        answer.push(stream.read_u8().await?);
    }
    if answer.split(|byte| *byte == b' ').nth(1) != Some(b"101") {
        let answer = String::from_utf8_lossy(&answer);
        let line = answer.lines().next().unwrap_or_default();
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            format!("no upgrade: {line}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, want) in [
            ("unix:///run/x.sock", Some("unix:///run/x.sock")),
            ("/run/x.sock", Some("unix:///run/x.sock")),
            ("docker:///var/run/d.sock", Some("docker:///var/run/d.sock")),
            ("tcp://localhost:1", Some("tcp://localhost:1")),
            ("unix://relative", None),
            ("tcp://nowhere", None),
            ("ssh://host", None),
            ("", None),
        ] {
            let got = text.parse::<Address>().map(|address| address.to_string());
            assert_eq!(got.ok().as_deref(), want, "{text}");
        }
    }

    #[tokio::test]
    async fn an_upgrade_takes_the_head_only() {
        let cases: [(&[u8], bool); 3] = [
            (b"HTTP/1.1 101 UPGRADED\r\nUpgrade: h2c\r\n\r\nrest", true),
            (b"HTTP/1.1 404 Not Found\r\n\r\nrest", false),
            (b"HTTP/1.1 101", false),
        ];
        for (answer, accepted) in cases {
            let (mut ours, mut theirs) = tokio::io::duplex(1024);
            theirs.write_all(answer).await.unwrap();
            theirs.shutdown().await.unwrap();
            assert_eq!(upgrade(&mut ours).await.is_ok(), accepted);
            if accepted {
                let mut rest = String::new();
                ours.read_to_string(&mut rest).await.unwrap();
                assert_eq!(rest, "rest");
            }
        }
    }
}
