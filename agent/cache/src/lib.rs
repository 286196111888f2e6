//! References to file-system states, lazy layers, content hashes, usage records.
//!
//! A [`Ref`] names an immutable state, a [`MutableRef`] one that is being written. Both are handles on
//! a record; a record is a base, a layer on another, a merge of several, or a diff of two. What a
//! record's files are made of is its stack of layers; a layer has its files (extracted or not) and its
//! blobs (one per compression, local or still behind a [`BlobProvider`]).
//!
//! Invariants: a record that a handle or another record names is never removed; a committed layer's
//! files are never written again; nothing is fetched or extracted before somebody needs the bytes.

mod blobs;
mod compose;
pub mod contenthash;
mod error;
mod extract;
mod hold;
mod load;
mod manager;
mod mutable;
mod options;
mod peek;
mod persist;
mod provider;
mod record;
mod reference;
mod remove;
mod shared;
mod usage;

pub use error::Error;
pub use manager::CacheManager;
pub use mutable::MutableRef;
pub use options::{Origin, RecordOptions, UsageKind};
pub use provider::{BlobProvider, FetchError, LayerBlob, ProviderSource};
pub use reference::{Ref, RefKind, RootPath};
pub use usage::UsageRecord;

/// A result of an op: `None` is scratch, the empty file system.
pub type OpResult = Option<Ref>;

/// The result of most functions here.
pub type Result<T, E = Error> = std::result::Result<T, E>;
