//! What can go wrong between here and a registry. Texts name the host and what it said.

use std::path::PathBuf;
use std::sync::Arc;

use kiln_oci::Digest;

use crate::CredentialError;

/// The result of calls to a registry.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a call to a registry.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No answer came.
    #[error("failed to do request: {method} {url:?}")]
    Request {
        /// `Head`, `Get`, …
        method: String,
        /// Of what; credentials in it are masked.
        url: String,
        /// Why.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// An answer that says no.
    #[error("unexpected status from {method} request to {url}: {status}{}", said(.message))]
    Status {
        /// `HEAD`, `GET`, …
        method: String,
        /// Of what.
        url: String,
        /// The status line's number and words.
        status: http::StatusCode,
        /// What the body said.
        message: String,
    },
    /// The name or blob is unknown, as all hosts say that were asked.
    #[error("{name}: not found (asked {hosts})")]
    NotFound {
        /// What was asked for.
        name: String,
        /// Who was asked.
        hosts: String,
    },
    /// The registry wants credentials, or others than it got.
    #[error(
        "{action} access denied by {host}, repository does not exist or may require authorization{}", said(.message)
    )]
    Denied {
        /// `pull` or `push`.
        action: &'static str,
        /// Who said no.
        host: String,
        /// In which words.
        message: String,
    },
    /// The token server said no.
    #[error("failed to authorize: failed to fetch {kind} token: {url}: {status}{}", said(.message))]
    Token {
        /// `anonymous` or `oauth`.
        kind: &'static str,
        /// The token server.
        url: String,
        /// Its answer.
        status: http::StatusCode,
        /// Its words.
        message: String,
    },
    /// The token server's answer wasn't one.
    #[error("failed to authorize: {url} sent no token")]
    NoToken {
        /// The token server.
        url: String,
    },
    /// A challenge that isn't understood.
    #[error("{host} asks for authorization in a way that is not supported: {challenge}")]
    Challenge {
        /// The registry.
        host: String,
        /// Its `WWW-Authenticate`.
        challenge: String,
    },
    /// Credentials couldn't be had.
    #[error("failed to get credentials for {host}")]
    Credentials {
        /// For whom.
        host: String,
        /// Why.
        #[source]
        source: CredentialError,
    },
    /// The bytes aren't those that were asked for.
    #[error("{host} sent content with digest {actual} instead of {expected}")]
    WrongDigest {
        /// Who sent it.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// More bytes than a manifest may have, or than a blob was said to have.
    #[error("{host} sent more than {limit} bytes for {what}")]
    TooLarge {
        /// Who sent it.
        host: String,
        /// What.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// An answer without something that the protocol demands.
    #[error("{host} sent an answer that breaks the protocol: {what}")]
    Protocol {
        /// Who.
        host: String,
        /// What is wrong.
        what: String,
    },
    /// A download broke off again and again.
    #[error("the download of {digest} from {host} broke off {tries} times at byte {offset}")]
    BrokenOff {
        /// Of what.
        digest: Digest,
        /// From where.
        host: String,
        /// How often in a row.
        tries: u32,
        /// How far it came.
        offset: u64,
        /// The last reason.
        #[source]
        source: Arc<Error>,
    },
    /// A file for TLS, or of an upload, couldn't be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// TLS couldn't be set up.
    #[error("cannot set up connections to {host}")]
    Tls {
        /// To whom.
        host: String,
        /// Why.
        #[source]
        source: Arc<reqwest::Error>,
    },
    /// A configured mirror isn't `host[:port][/path]`.
    #[error("invalid mirror or registry host {host:?}: want host[:port][/path]")]
    Host {
        /// What was given.
        host: String,
    },
}

fn said(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

impl Error {
    /// Whether the name or blob doesn't exist, as far as the registry lets us know.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether credentials are missing or wrong.
    pub const fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Token { .. })
    }

    /// Whether the same call may work later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Request { .. } | Self::BrokenOff { .. } => true,
            Self::Status { status, .. } | Self::Token { status, .. } => {
                status.is_server_error() || *status == http::StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}
