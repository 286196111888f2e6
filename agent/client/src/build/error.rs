//! What can be wrong with a build before a daemon hears of it.

use std::path::PathBuf;

/// A request that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A value that isn't of its form.
    #[error("invalid {what} {text:?}: {reason}")]
    Invalid {
        /// Which setting.
        what: &'static str,
        /// As it was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither a directory nor a URL.
    #[error("there is no build context at {}", .path.display())]
    NoContext {
        /// What was given.
        path: PathBuf,
    },
    /// The Dockerfile isn't there.
    #[error("there is no Dockerfile at {}", .path.display())]
    NoDockerfile {
        /// Where it should be.
        path: PathBuf,
    },
    /// Two settings that exclude one another.
    #[error("{first} and {second} can't be used together: {reason}")]
    Conflict {
        /// One.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Something that needs something else.
    #[error("{what} needs {needed}")]
    Needs {
        /// What was asked for.
        what: &'static str,
        /// What is missing.
        needed: &'static str,
    },
    /// A local file or directory can't be used.
    #[error("{action} {}", .path.display())]
    Io {
        /// Such as `read`.
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An OCI layout that doesn't have what is wanted of it.
    #[error("OCI layout {}: {reason}", .path.display())]
    Layout {
        /// Its directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl BuildError {
    pub(super) fn invalid(
        what: &'static str,
        text: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            what,
            text: text.into(),
            reason: reason.into(),
        }
    }

    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
