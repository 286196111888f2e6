//! TLS to a daemon on another computer, with certificates in files as `buildctl --tlscacert …` has them.
//!
//! Invariant: without a CA nobody is trusted: the certificate of a daemon is checked, always.

use std::error::Error as _;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::Error;

/// Files in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who signed the daemon's certificate.
    pub ca: PathBuf,
    /// The certificate that is shown to the daemon, and its key, where it wants one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the daemon's certificate, where it isn't that of the address.
    pub server_name: Option<String>,
}

impl TlsFiles {
    pub(crate) fn read(&self) -> Result<ClientTlsConfig, Error> {
        let pem = |path: &Path| -> Result<Vec<u8>, Error> {
            let read = std::fs::read(path).map_err(|source| Error::io("read", path, source))?;
            match read.windows(10).any(|window| window == b"-----BEGIN") {
                true => Ok(read),
                false => Err(Error::NotPem { path: path.into() }),
            }
        };
        let mut config =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem(&self.ca)?));
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(pem(certificate)?, pem(key)?));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

/// Who broke off a connection with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsRefusal {
    /// This side: the daemon's certificate isn't trusted, or is another's.
    Server,
    /// The daemon: it doesn't take the certificate that it was shown, or wants one.
    Client,
    /// What answers doesn't speak TLS.
    NoTls,
}

impl TlsRefusal {
    /// Looks for the refusal in the causes of an error.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            match error.downcast_ref::<rustls::Error>() {
                Some(rustls::Error::InvalidCertificate(_)) => return Some(Self::Server),
                Some(rustls::Error::AlertReceived(_)) => return Some(Self::Client),
                Some(rustls::Error::InvalidMessage(_)) => return Some(Self::NoTls),
                _ => {}
            }
            // HTTP/2 hands on an I/O error as its text.
            if error.to_string().starts_with("received fatal alert") {
                return Some(Self::Client);
            }
            // These two don't count what they wrap among their causes.
            let io = error.downcast_ref::<std::io::Error>();
            let io = io.and_then(std::io::Error::get_ref);
            next = match (io, error.downcast_ref::<Error>()) {
                (Some(inner), _) => Some(inner),
                (None, Some(Error::Status(status))) => status.source(),
                (None, _) => error.source(),
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_must_hold_certificates() {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        let files = TlsFiles {
            ca: ca.clone(),
            ..TlsFiles::default()
        };
        assert!(matches!(files.read(), Err(Error::Io { .. })));
        std::fs::write(&ca, "binary").unwrap();
        assert!(matches!(files.read(), Err(Error::NotPem { .. })));
        std::fs::write(&ca, "-----BEGIN CERTIFICATE-----\n").unwrap();
        files.read().unwrap();
    }

    #[test]
    fn a_refusal_is_found_among_the_causes() {
        use rustls::{AlertDescription, CertificateError, Error};
        for (error, want) in [
            (
                Error::InvalidCertificate(CertificateError::UnknownIssuer),
                Some(TlsRefusal::Server),
            ),
            (
                Error::AlertReceived(AlertDescription::CertificateRequired),
                Some(TlsRefusal::Client),
            ),
            (Error::DecryptError, None),
        ] {
            let outer = std::io::Error::other(std::io::Error::other(error));
            assert_eq!(TlsRefusal::of(&outer), want);
        }
    }
}
