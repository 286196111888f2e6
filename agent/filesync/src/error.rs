//! What can go wrong in a transfer.

use std::io;

/// A failed transfer. The destination keeps whole old files and whole new files, never halves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream broke.
    #[error("the transfer broke off")]
    Transport(#[source] Box<tonic::Status>),
    /// The stream ended before the transfer was finished.
    #[error("the other side ended the transfer before it was complete")]
    Truncated,
    /// The sender reported a failure of its own.
    #[error("error from sender: {0}")]
    Sender(String),
    /// The receiver reported a failure of its own.
    #[error("error from receiver: {0}")]
    Receiver(String),
    /// A packet that isn't one.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// A path that could leave the root or isn't in its canonical form.
    #[error("path {path:?} refused: {reason}")]
    Path {
        /// As it was sent.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Paths have to come in walk order, each after its directory.
    #[error("path {path:?} came out of order, after {after:?}")]
    Order {
        /// The offending path.
        path: String,
        /// The one before it.
        after: String,
    },
    /// A hard link to something that wasn't sent before it.
    #[error("hard link {path:?} to {target:?}, which was not sent before it")]
    LinkTarget {
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// Data for a file that wasn't asked for.
    #[error("data for file {0}, which was not asked for")]
    Unrequested(u32),
    /// A request for an entry that doesn't exist or has no data.
    #[error("request for file {0}, which has no data to send")]
    UnknownFile(u32),
    /// A limit against hostile senders was passed.
    #[error("the sender passed the limit of {limit} {what}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// A pattern that doesn't parse.
    #[error("invalid pattern {pattern:?}: {reason}")]
    Pattern {
        /// As it was given.
        pattern: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A system call failed.
    #[error("{action} {path:?}")]
    Io {
        /// Such as `create`.
        action: &'static str,
        /// Relative to the root of the transfer.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The change hook refused a change.
    #[error("record the change of {path:?}")]
    Hook {
        /// Whose change it was.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &str, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// The whole chain in one line, as the other side is told.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Transport(Box::new(status))
    }
}
