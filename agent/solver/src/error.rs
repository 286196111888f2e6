//! Why a solve failed. Every error that leaves the solver is an [`OpError`] whose chain holds a
//! [`SolveError`] and, where a vertex failed, the typed detail that names it.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use kiln_errdefs::{Detail, Kind, Source, WithDetail};
use kiln_ids::BuildRef;
use kiln_llb::Location;
use kiln_oci::Digest;

use crate::op::OpError;

/// What the solver was doing for a vertex when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Making the op of the vertex.
    Resolve,
    /// Asking the op for its cache map.
    CacheMap,
    /// Hashing, or preparing, an input's content.
    Content {
        /// Which input.
        input: usize,
    },
    /// Running the op.
    Run,
    /// Storing its result.
    Save,
}

/// A result that is kept while somebody may want to look into it.
#[derive(Clone)]
pub struct Kept(Arc<dyn Any + Send + Sync>);

impl Kept {
    pub(crate) fn new<R: Send + Sync + 'static>(result: R) -> Self {
        Self(Arc::new(result))
    }

    /// The result, if it is of that type.
    pub fn get<R: 'static>(&self) -> Option<&R> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

/// Why a solve failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum SolveError {
    /// The work was stopped because nobody waits for it.
    Cancelled,
    /// A build of that name is running.
    BuildExists(BuildRef),
    /// The graph asks for an output that the op doesn't have.
    NoSuchOutput {
        /// The op's vertex.
        vertex: Digest,
        /// The output that was asked for.
        index: usize,
        /// How many it has.
        outputs: usize,
    },
    /// An op described another number of inputs than its vertex has.
    InputCount {
        /// The op's vertex.
        vertex: Digest,
        /// The vertex's inputs.
        want: usize,
        /// What the cache map has.
        got: usize,
    },
    /// A vertex failed.
    Vertex {
        /// Its digest, under which the failed build knows it.
        vertex: Digest,
        /// Its name.
        name: String,
        /// Doing what.
        phase: Phase,
        /// The input whose content was being read.
        input: Option<Kept>,
        /// Why.
        source: OpError,
    },
    /// A task of the solver's panicked.
    Panicked,
}

impl fmt::Display for SolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("context canceled"),
            Self::BuildExists(name) => write!(f, "job ID {name} exists"),
            Self::NoSuchOutput {
                vertex,
                index,
                outputs,
            } => write!(
                f,
                "output {index} of {vertex} was asked for, and it has {outputs}"
            ),
            Self::InputCount { vertex, want, got } => {
                write!(f, "the op of {vertex} describes {got} inputs of {want}")
            }
            Self::Vertex { phase, source, .. } => match phase {
                Phase::CacheMap => f.write_str("failed to load cache key"),
                Phase::Content { .. } => f.write_str("failed to compute cache key"),
                Phase::Save => f.write_str("failed to store the result"),
                // The op's own words say it all.
                Phase::Resolve | Phase::Run => source.fmt(f),
            },
            Self::Panicked => f.write_str("the solver failed: a task panicked"),
        }
    }
}

impl Error for SolveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Vertex { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl SolveError {
    /// With the places in source files that the vertex came from.
    pub(crate) fn at(self, locations: &[Location]) -> OpError {
        let mut error = self.shared();
        for location in locations {
            let source = Detail::Source(Source {
                info: location.info.as_ref().clone(),
                ranges: location.ranges.clone(),
            });
            error = WithDetail::new(error, source).shared();
        }
        error
    }

    /// With the kind and the details that belong to it.
    pub fn shared(self) -> OpError {
        let detail = match &self {
            Self::Vertex { vertex, .. }
            | Self::NoSuchOutput { vertex, .. }
            | Self::InputCount { vertex, .. } => Some(vertex.to_string()),
            _ => None,
        };
        let kind = match &self {
            Self::Cancelled => Some(Kind::Cancelled),
            Self::BuildExists(_) => Some(Kind::Conflict),
            Self::NoSuchOutput { .. } => Some(Kind::User),
            Self::InputCount { .. } | Self::Panicked => Some(Kind::Internal),
            Self::Vertex { .. } => None,
        };
        let error: OpError = Arc::new(self);
        let error = match kind {
            Some(kind) => WithDetail::kind(error, kind).shared(),
            None => error,
        };
        match detail {
            Some(digest) => WithDetail::new(error, Detail::Vertex { digest }).shared(),
            None => error,
        }
    }
}
