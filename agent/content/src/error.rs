//! What can go wrong with blobs.

use std::path::PathBuf;

use kiln_oci::Digest;

/// The result of operations on blobs.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the content store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such blob.
    #[error("content {digest} not found")]
    NotFound {
        /// Which.
        digest: Digest,
    },
    /// What was written has another hash than was announced.
    #[error("content has digest {actual} instead of {expected}")]
    WrongDigest {
        /// What was announced.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// What was written has another size than was announced.
    #[error("content has {actual} bytes instead of {expected}")]
    WrongSize {
        /// What was announced.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// More was written than was announced.
    #[error("content is longer than the {expected} bytes that were announced")]
    TooLong {
        /// What was announced.
        expected: u64,
    },
    /// The disk is full. Nothing of the write was kept.
    #[error("no space left on the disk of the state root; prune the build cache or free space")]
    Full,
    /// A file couldn't be read or written.
    #[error("cannot use {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The writer was used after it failed.
    #[error("the write has failed before")]
    WriterFailed,
    /// The metadata database failed.
    #[error("cannot record the content")]
    Store(#[from] kiln_store::Error),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io { path, source },
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NotFound { .. } => std::io::ErrorKind::NotFound,
            Error::Full => std::io::ErrorKind::StorageFull,
            Error::Io { source, .. } => source.kind(),
            _ => std::io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
