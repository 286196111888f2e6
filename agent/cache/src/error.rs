//! What can go wrong with records.

use std::path::PathBuf;

use kiln_ids::RefId;
use kiln_oci::Digest;

use crate::provider::FetchError;

/// An error of the cache.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else writes or reads it.
    #[error("cache record {0} is in use")]
    InUse(RefId),
    /// It was pruned, or never was.
    #[error("cache record {0} not found")]
    NotFound(RefId),
    /// A writable mount of something that must not change.
    #[error("cache record {0} is immutable and can't be mounted for writing")]
    Immutable(RefId),
    /// A lazy layer, and nobody who could deliver it.
    #[error("layer {blob} of cache record {record} isn't here and no provider for it is attached")]
    NoProvider {
        /// The record.
        record: RefId,
        /// The missing blob.
        blob: Digest,
    },
    /// The provider failed.
    #[error("failed to fetch layer {blob}")]
    Fetch {
        /// The blob.
        blob: Digest,
        /// Why; shared by everybody who waited.
        #[source]
        source: FetchError,
    },
    /// A layer's tar isn't what its diff id says.
    #[error("layer {blob} unpacks to {found}, but its config says {expected}")]
    DiffIdMismatch {
        /// The blob.
        blob: Digest,
        /// The diff id given.
        expected: Digest,
        /// The digest of what it contains.
        found: Digest,
    },
    /// A path that doesn't exist, in words that clients know.
    #[error("{path:?}: not found")]
    PathNotFound {
        /// The path in the ref.
        path: String,
    },
    /// A chain of symbolic links without an end.
    #[error("too many links in {path:?}")]
    TooManyLinks {
        /// The path in the ref.
        path: String,
    },
    /// A pattern that can't be read.
    #[error("invalid pattern {pattern:?}: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A stored record that can't be read.
    #[error("cache record {id} is damaged: {reason}")]
    Damaged {
        /// The record.
        id: RefId,
        /// What is wrong with it.
        reason: String,
    },
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
    /// Of the snapshots.
    #[error(transparent)]
    Snapshot(#[from] kiln_snapshot::Error),
    /// Of the content store.
    #[error(transparent)]
    Content(#[from] kiln_content::Error),
    /// Of the database.
    #[error(transparent)]
    Store(#[from] kiln_store::Error),
    /// A list of layers or states that must not be empty.
    #[error("no layers were given")]
    NoLayers,
    /// A background thread died or the runtime shuts down.
    #[error("the worker thread was cancelled")]
    Cancelled,
}
