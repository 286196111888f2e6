//! What can go wrong with file actions, in the words that BuildKit's clients know.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_cache::OpResult;
use kiln_errdefs::{Kind, WithDetail};
use kiln_solver::op::OpError;

/// Why file actions failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The vertex is of another kind.
    #[error("not a file op")]
    NotAFileOp,
    /// An index leads nowhere.
    #[error("invalid input index {index}, {count} provided")]
    Input {
        /// As the action has it.
        index: i64,
        /// Inputs and actions.
        count: usize,
    },
    /// Two actions make one output.
    #[error("duplicate output {0}")]
    DuplicateOutput(i64),
    /// No action makes an output that is there by its number.
    #[error("missing output index {0}")]
    MissingOutput(usize),
    /// Nothing is made.
    #[error("no outputs specified")]
    NoOutputs,
    /// An action works on its own result.
    #[error("loop from index {0}")]
    Loop(usize),
    /// The action's kind isn't known.
    #[error("invalid action type of file action {0}")]
    UnknownAction(usize),
    /// A system call failed.
    #[error("{call} {}: {}", path.display(), Words(error))]
    Path {
        /// Which one.
        call: &'static str,
        /// Inside of the state.
        path: PathBuf,
        /// Why. It is part of the text, and no source of its own.
        error: io::Error,
    },
    /// No source matches.
    #[error("{0} not found")]
    NoMatch(String),
    /// A file shall take the place of a directory.
    #[error("cannot replace to directory {} with file", .0.display())]
    DirectoryInTheWay(PathBuf),
    /// A directory shall be merged with something else.
    #[error("cannot copy to non-directory: {}", .0.display())]
    NotADirectory(PathBuf),
    /// Deeper than any path can be.
    #[error("{}: too many nested directories", .0.display())]
    TooDeep(PathBuf),
    /// A path that names nothing.
    #[error("rmPath: invalid empty path")]
    EmptyPath,
    /// Not a mode as `chmod` takes it.
    #[error("invalid mode {0:?}")]
    Mode(String),
    /// A pattern that can't be parsed.
    #[error("invalid {what}: {patterns:?}: {reason}")]
    Patterns {
        /// `includepatterns` or `excludepatterns`.
        what: &'static str,
        /// All of them.
        patterns: Vec<String>,
        /// What is wrong.
        reason: String,
    },
    /// A name can't be looked up in nothing.
    #[error("invalid user index: {0}")]
    UserInput(i64),
    /// A user file that can't be used.
    #[error("{path}: {reason}")]
    UserFile {
        /// `/etc/passwd` or `/etc/group`.
        path: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// An archive that can't be unpacked.
    #[error("failed to unpack {}: {reason}", archive.display())]
    Archive {
        /// The archive.
        archive: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The build was stopped.
    #[error("context canceled")]
    Cancelled,
    /// The thread that worked is gone.
    #[error("file actions were interrupted")]
    Interrupted,
    /// A state couldn't be made or read.
    #[error(transparent)]
    Cache(#[from] kiln_cache::Error),
    /// A state couldn't be mounted.
    #[error(transparent)]
    Mount(#[from] kiln_sys::mount::MountError),
}

impl FileError {
    /// For `map_err` on system calls.
    pub(super) fn at<E: Into<io::Error>>(
        call: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.as_ref().to_owned();
        move |error| Self::Path {
            call,
            path,
            error: error.into(),
        }
    }

    /// As an op returns it: with its kind where that isn't simply a failed build.
    pub(super) fn shared(self) -> OpError {
        let kind = match &self {
            Self::Cancelled => Some(Kind::Cancelled),
            Self::Path { error, .. }
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                Some(Kind::Exhausted)
            }
            Self::Input { .. } | Self::Loop(_) | Self::Mode(_) | Self::Patterns { .. } => {
                Some(Kind::User)
            }
            _ => None,
        };
        let error: OpError = Arc::new(self);
        match kind {
            Some(kind) => WithDetail::kind(error, kind).shared(),
            None => error,
        }
    }
}

/// An error of the system as Go prints it: lower case, without the number.
struct Words<'a>(&'a io::Error);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        let mut rest = text.chars();
        if let Some(first) = rest.next() {
            write!(f, "{}{}", first.to_lowercase(), rest.as_str())?;
        }
        Ok(())
    }
}

/// A failed action, with the states that a debugger looks into. It has no words of its own.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct ActionError {
    /// Why.
    pub source: OpError,
    /// Which action.
    pub action: usize,
    /// The op's inputs.
    pub inputs: Vec<OpResult>,
    /// What the failed action left, if it can be looked into.
    pub state: Option<OpResult>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_read_as_in_go() {
        let error = FileError::at("lstat", "/missing")(rustix::io::Errno::NOENT);
        assert_eq!(
            error.to_string(),
            "lstat /missing: no such file or directory"
        );
    }
}
