//! Directories of certificates, as Docker's `certs.d` has them.

use std::io;
use std::path::{Path, PathBuf};

use crate::TlsKeyPair;

/// What a directory holds, by names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsDirectory {
    /// `*.crt`: CAs.
    pub ca: Vec<PathBuf>,
    /// `*.cert`, each with the `*.key` of the same name: client certificates.
    pub keypair: Vec<TlsKeyPair>,
}

impl TlsDirectory {
    /// Lists it, in the order of names.
    pub fn list(directory: &Path) -> io::Result<Self> {
        let mut paths = std::fs::read_dir(directory)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        let mut found = Self::default();
        for path in paths {
            match path.extension().and_then(|end| end.to_str()) {
                Some("crt") => found.ca.push(path),
                Some("cert") => found.keypair.push(TlsKeyPair {
                    key: path.with_extension("key"),
                    cert: path,
                }),
                _ => {}
            }
        }
        Ok(found)
    }
}
