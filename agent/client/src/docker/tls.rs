//! TLS to a Docker on another machine, from where the docker command has its certificates.
//!
//! | from | when |
//! |---|---|
//! | `DOCKER_CERT_PATH`, else the command's directory | `DOCKER_HOST` names the Docker, and `DOCKER_TLS_VERIFY` is set |
//! | `contexts/tls/ID/docker` | a context names it, and has certificates |
//!
//! In that directory are `ca.pem`, and `cert.pem` with `key.pem` where the Docker wants to know who asks.
//!
//! Invariant: the Docker's certificate is checked, always. What asks for TLS without that (`DOCKER_TLS`, a context that
//! skips it) is refused.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Error, TlsRefusal};

/// The directory with the certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerTls(PathBuf);

impl fmt::Display for DockerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

fn set(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

impl DockerTls {
    /// What the environment asks for beside `DOCKER_HOST`, which is `host`.
    pub(super) fn of_environment(host: &str, own: Option<&Path>) -> Result<Option<Self>, Error> {
        if set("DOCKER_TLS_VERIFY").is_some() {
            let directory = set("DOCKER_CERT_PATH").map(PathBuf::from);
            let directory = directory.or_else(|| own.map(Path::to_path_buf));
            return Ok(Some(Self(directory.unwrap_or_default())));
        }
        match set("DOCKER_TLS") {
            Some(_) => Err(unchecked(host, "set DOCKER_TLS_VERIFY=1, not DOCKER_TLS")),
            None => Ok(None),
        }
    }

    /// What the context of that id has, whose description this is.
    pub(super) fn of_context(
        host: &str,
        own: &Path,
        id: &str,
        endpoint: &serde_json::Value,
    ) -> Result<Option<Self>, Error> {
        let directory = own.join("contexts/tls").join(id).join("docker");
        match (directory.is_dir(), &endpoint["SkipTLSVerify"]) {
            (_, serde_json::Value::Bool(true)) => {
                Err(unchecked(host, "make the context anew with a CA"))
            }
            (true, _) => Ok(Some(Self(directory))),
            (false, _) => Ok(None),
        }
    }

    fn config(&self) -> io::Result<ClientConfig> {
        let (certificate, key) = (self.0.join("cert.pem"), self.0.join("key.pem"));
        let authority = self.0.join("ca.pem");
        let named = |path: &Path, error: String| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{}: {error}", path.display()),
            )
        };
        let read = |path: &Path| -> io::Result<Vec<CertificateDer<'static>>> {
            let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            let all: Vec<_> = all.map_err(|error| named(path, error.to_string()))?;
            match all.is_empty() {
                true => Err(named(path, "no certificate is in it".to_owned())),
                false => Ok(all),
            }
        };
        let mut roots = RootCertStore::empty();
        for root in read(&authority)? {
            roots
                .add(root)
                .map_err(|error| named(&authority, error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots);
        if !certificate.exists() && !key.exists() {
            return Ok(builder.with_no_client_auth());
        }
        let chain = read(&certificate)?;
        let secret = PrivateKeyDer::from_pem_file(&key);
        let secret = secret.map_err(|error| named(&key, error.to_string()))?;
        builder
            .with_client_auth_cert(chain, secret)
            .map_err(|error| named(&certificate, error.to_string()))
    }

    /// Begins TLS with the Docker at `HOST:PORT`.
    pub(super) async fn connect(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connector = TlsConnector::from(Arc::new(self.config()?));
        connector.connect(name, stream).await
    }

    /// What to look at when that went wrong.
    pub(super) fn advice(&self, error: &(dyn std::error::Error + 'static)) -> Option<String> {
        Some(match TlsRefusal::of(error)? {
            TlsRefusal::Server => format!("its certificate isn't what {self}/ca.pem vouches for"),
            TlsRefusal::Client => format!("it doesn't take {self}/cert.pem, or there is none"),
            TlsRefusal::NoTls => "it doesn't speak TLS: unset DOCKER_TLS_VERIFY".to_owned(),
        })
    }
}

fn unchecked(host: &str, advice: &str) -> Error {
    Error::Docker {
        address: host.to_owned(),
        reason: format!("TLS without a look at who answers isn't done: {advice}"),
    }
}
