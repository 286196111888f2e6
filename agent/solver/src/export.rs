//! The export walk: from a build's results to the records that another daemon can import.
//!
//! The walk begins at the keys of the results and follows the ways that led to them. Consumers are
//! visited before their inputs to decide which results go along; then records are made, inputs first,
//! so that a record's links lead to records before it. What was built inside of an op goes along with the op's own
//! records, and stands beside them wherever they are linked to. Keys of one session are left out, and with them
//! what is known by nothing else.

mod backlinks;
mod chains;
mod walk;

pub(crate) use walk::walk;

use std::time::SystemTime;

use async_trait::async_trait;
use kiln_oci::Digest;

use crate::op::{OpError, ResultValue};

/// Which results an export takes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportMode {
    /// The outermost result, and those of its inputs that are transferable as they are.
    Min,
    /// Every result but those of root keys.
    Max,
    /// Only what is transferable as it is (`inline`).
    Existing,
}

/// How to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportOptions {
    /// Which results.
    pub mode: ExportMode,
    /// Also results of root keys (`inline` and its like never do).
    pub roots: bool,
    /// Leave out chains for the same results that this build didn't use.
    pub ignore_backlinks: bool,
}

/// What an export makes of results: layers with a way to read them, usually.
#[async_trait]
pub trait ExportTarget<R: ResultValue>: Send + Sync {
    /// What stands for a result in the exported cache.
    type Remote: Clone + Send + Sync + PartialEq;

    /// The remotes of `result`, the preferred one first. With `create` unset only what exists
    /// already. An empty list leaves the result out.
    async fn remotes(&self, result: R, create: bool) -> Result<Vec<Self::Remote>, OpError>;
}

/// One result of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedResult<T> {
    /// When it was made.
    pub created: SystemTime,
    /// What the target made of it.
    pub remote: T,
    /// The vertex that it came from, and the output.
    pub vertex: Digest,
    /// Which output of it.
    pub output: usize,
}

/// A way to a record from one of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExportLink {
    /// The selector; none for content keys and where the op has none.
    pub selector: Option<Digest>,
    /// The index of the input's record.
    pub record: usize,
}

/// One record of an exported cache. Records that the record's inputs name come before it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportRecord<T> {
    /// `sha256("<op digest>@<output>")`.
    pub digest: Digest,
    /// For each input of the op, the records that it is known by.
    pub inputs: Vec<Vec<ExportLink>>,
    /// Its results; most records have none or one.
    pub results: Vec<ExportedResult<T>>,
}
