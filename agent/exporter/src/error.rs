//! What can go wrong with an output.

use std::io;
use std::sync::Arc;

/// An error of another part, shared by everybody who waited for it.
pub type Shared = Arc<dyn std::error::Error + Send + Sync>;

/// Why a result couldn't be exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No exporter of this name.
    #[error("exporter {kind:?} could not be found")]
    UnknownExporter {
        /// As it was asked for.
        kind: String,
    },
    /// An option whose value can't be read.
    #[error("{reason} value specified for {key}: {value:?}")]
    Option {
        /// The option.
        key: String,
        /// Its value.
        value: String,
        /// Such as `non-bool`.
        reason: &'static str,
    },
    /// Options, or a result, that don't go together.
    #[error("{0}")]
    Conflict(String),
    /// The frontend's result lacks something or contradicts itself.
    #[error("invalid result: {0}")]
    Result(String),
    /// JSON of the result that can't be read.
    #[error("failed to parse {what}")]
    Json {
        /// Which part.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An attestation that can't be made.
    #[error("attestation {path:?}: {reason}")]
    Attestation {
        /// Its path in the result.
        path: String,
        /// Why.
        reason: String,
    },
    /// A name that isn't an image reference.
    #[error("failed to parse {name}")]
    Name {
        /// As it was given.
        name: String,
        /// Why.
        #[source]
        source: kiln_oci::ReferenceError,
    },
    /// The client failed.
    #[error(transparent)]
    Session(#[from] kiln_session::Error),
    /// A tree couldn't be read or sent.
    #[error(transparent)]
    Files(#[from] kiln_filesync::Error),
    /// A cache record failed.
    #[error(transparent)]
    Cache(#[from] kiln_cache::Error),
    /// The content store failed.
    #[error(transparent)]
    Content(#[from] kiln_content::Error),
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] kiln_registry::Error),
    /// A push failed.
    #[error("failed to push {name}")]
    Push {
        /// What was pushed.
        name: String,
        /// Why.
        #[source]
        source: kiln_registry::Error,
    },
    /// A layer that is needed can't be fetched.
    #[error("failed to fetch layer {digest}")]
    Fetch {
        /// The layer.
        digest: kiln_oci::Digest,
        /// Why.
        #[source]
        source: Shared,
    },
    /// The inline cache couldn't be made.
    #[error("failed to make the inline cache")]
    InlineCache(#[source] Shared),
    /// Reading or writing an output.
    #[error("{action} {what}")]
    Io {
        /// Such as `write`.
        action: &'static str,
        /// What was read or written.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Two platforms with one file, written into one directory.
    #[error("cannot overwrite {path} from {first} with {second} when split option is disabled")]
    Overwrite {
        /// The file.
        path: String,
        /// The platform that has it.
        first: String,
        /// The platform that has it too.
        second: String,
    },
}
