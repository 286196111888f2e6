//! What can go wrong with snapshots.

use std::path::{Path, PathBuf};

use crate::apply::ApplyError;

/// An error of the snapshots.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing files.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was done, as "failed to read".
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The output of a layer couldn't be written, or a file changed while it was read.
    #[error("failed to write the layer")]
    WriteLayer {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A layer couldn't be extracted.
    #[error("failed to extract the layer into snapshot {id}")]
    Apply {
        /// The snapshot.
        id: String,
        /// Why.
        #[source]
        source: ApplyError,
    },
    /// A name that could lead out of the directory of snapshots.
    #[error("invalid snapshot name {0:?}")]
    Name(String),
    /// What is there can't be read without overlayfs.
    #[error("the snapshots in {} are layers of overlayfs, which doesn't work here", .0.display())]
    NoOverlay(PathBuf),
    /// Mounting failed.
    #[error(transparent)]
    Mount(#[from] kiln_sys::mount::MountError),
}

impl Error {
    /// Names what was done with `path` when an I/O error strikes.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    /// Whether the disk was full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::WriteLayer { source } => {
                source.kind() == std::io::ErrorKind::StorageFull
            }
            Self::Apply { source, .. } => source.is_disk_full(),
            Self::Name(_) | Self::NoOverlay(_) | Self::Mount(_) => false,
        }
    }
}
