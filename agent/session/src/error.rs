//! What can go wrong with a client's session.

use kiln_ids::SessionId;

/// A failed call into a client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The session didn't attach in time, or there is none to ask.
    #[error("no active session for {}", names(.ids))]
    NoSession {
        /// Who was waited for; empty if nobody.
        ids: Vec<SessionId>,
    },
    /// Two connections with one session id.
    #[error("session {id} already exists")]
    Duplicate {
        /// The id.
        id: SessionId,
    },
    /// The connection names no session.
    #[error("the connection has no {header} header")]
    MissingHeader {
        /// What it lacks.
        header: &'static str,
    },
    /// The client doesn't offer the method.
    #[error("method {method} not supported by the client")]
    Unsupported {
        /// Full name with service.
        method: String,
    },
    /// The client offers no directory of this name: another session may.
    #[error("no access allowed to dir {name:?}")]
    NoDirectory {
        /// The directory's name.
        name: String,
    },
    /// The client has no such secret.
    #[error("secret {id}: not found")]
    NoSecret {
        /// The secret's id.
        id: String,
    },
    /// The client left or stopped answering.
    #[error("session {id} is closed: {reason}")]
    Closed {
        /// Whose session it was.
        id: SessionId,
        /// What is known of why.
        reason: &'static str,
    },
    /// HTTP/2 with the client failed.
    #[error("connection to the client of session {id}")]
    Connection {
        /// Whose session it is.
        id: SessionId,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The client answered a call with an error.
    #[error("{}", .status.message())]
    Call {
        /// Full name with service.
        method: &'static str,
        /// The answer.
        status: Box<tonic::Status>,
    },
    /// The client answered something that makes no sense.
    #[error("unexpected answer to {method}: {reason}")]
    Answer {
        /// Full name with service.
        method: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A text that can't travel as request metadata.
    #[error("{text:?} can't be sent as request metadata")]
    Metadata {
        /// The text.
        text: String,
    },
    /// The client took too long.
    #[error("the client didn't answer {method} in time")]
    Timeout {
        /// Full name with service.
        method: &'static str,
    },
    /// A transfer of files failed.
    #[error(transparent)]
    Files(#[from] kiln_filesync::Error),
}

impl Error {
    /// The gRPC code of the client's answer, if it was one.
    pub fn code(&self) -> Option<tonic::Code> {
        match self {
            Self::Call { status, .. } => Some(status.code()),
            _ => None,
        }
    }
}

fn names(ids: &[SessionId]) -> String {
    if ids.is_empty() {
        return "this build".to_owned();
    }
    let ids: Vec<&str> = ids.iter().map(SessionId::as_str).collect();
    ids.join(", ")
}
