//! File-system states: snapshots on overlayfs or as plain copies, and layers as OCI archives.
//!
//! [`Snapshots`] makes and mounts states, [`diff`] writes what changed between two of them as a layer,
//! [`apply`] extracts a layer, [`tar`] has the form of the archives, [`stack`] looks into a stack of
//! layers without mounting it.
//!
//! Invariants: the uncompressed bytes of a layer are those that BuildKit writes for the same files; a
//! layer, whatever is in it, writes nothing outside its snapshot; nothing here is synced to disk.

pub mod apply;
mod copy;
pub mod diff;
mod error;
mod layer_writer;
mod remove;
mod snapshots;
pub mod stack;
pub mod tar;

pub use error::Error;
pub use snapshots::{Driver, Snapshots, Usage};
