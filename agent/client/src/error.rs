//! What can go wrong with a daemon.

use std::path::PathBuf;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address that isn't one.
    #[error("invalid address {address:?}: want unix:///path or tcp://host:port")]
    Address {
        /// As it was given.
        address: String,
    },
    /// Nobody answers.
    #[error("failed to connect to {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// A file that should hold a certificate or a key doesn't.
    #[error("{} holds neither a certificate nor a key in PEM", .path.display())]
    NotPem {
        /// Which one.
        path: PathBuf,
    },
    /// The daemon knows of no such build.
    #[error("there is no record of a build {reference:?}")]
    NoRecord {
        /// Its name.
        reference: String,
    },
    /// A record is whole only when its build has ended.
    #[error("build {reference:?} is still running")]
    StillRunning {
        /// Its name.
        reference: String,
    },
    /// The daemon said no.
    #[error("{}", .0.message())]
    Status(Box<tonic::Status>),
    /// The session broke while it was needed.
    #[error("the session with the daemon ended early")]
    SessionEnded,
    /// HTTP/2 inside the session failed.
    #[error("failed to serve the session")]
    Session(#[source] hyper::Error),
    /// A header that can't be sent.
    #[error("{text:?} can't be sent as metadata")]
    Metadata {
        /// The text.
        text: String,
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
    /// The docker configuration can't be read.
    #[error("failed to parse {}", .path.display())]
    DockerConfig {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Docker, on this machine, doesn't do what it is asked for.
    #[error("docker at {address}: {reason}")]
    Docker {
        /// Where it listens.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// The owner of the machine doesn't run.
    #[error("kiln-vmd isn't running: nobody answers on {}", .socket.display())]
    HostNotRunning {
        /// Where it would answer.
        socket: PathBuf,
    },
    /// The owner of the machine isn't installed.
    #[error(
        "kiln-vmd isn't found, neither beside this program nor in PATH: install it there, or name it by KILN_VMD"
    )]
    HostProgram,
    /// The owner of the machine ended as soon as it began.
    #[error("{} didn't start: {last_words}", .program.display())]
    HostStart {
        /// What was started.
        program: PathBuf,
        /// The end of its log.
        last_words: String,
        /// Its log.
        log: PathBuf,
    },
    /// Nobody is named who could keep a secret.
    #[error("no credential helper is named for {registry}")]
    NoHelper {
        /// The registry.
        registry: String,
    },
    /// A credential helper refused.
    #[error("docker-credential-{helper}: {reason}")]
    Helper {
        /// Its name.
        helper: String,
        /// What it said.
        reason: String,
    },
    /// The system has no randomness for ids.
    #[error("the system has no randomness")]
    Random,
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// BuildKit's typed details (source excerpts, vertices, …), if the daemon sent any.
    pub fn details(&self) -> Vec<kiln_errdefs::Detail> {
        match self {
            Self::Status(status) => kiln_errdefs::details_of_status(status),
            _ => Vec::new(),
        }
    }
}
