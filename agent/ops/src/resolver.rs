//! Makes the op of a vertex.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use kiln_cache::{CacheManager, OpResult};
use kiln_errdefs::{Kind, WithDetail};
use kiln_llb::Vertex;
use kiln_oci::Platform;
use kiln_proto::pb;
use kiln_session::SessionManager;
use kiln_solver::Solver;
use kiln_solver::op::{Op, OpError, OpResolver};
use kiln_source::Sources;

use crate::exec::{ExecOp, ExecRunner};
use crate::file::FileOp;
use crate::graph_ops::{BuildOp, DiffOp, MergeOp};
use crate::made::Noted;
use crate::source::SourceOp;

/// What ops work with.
#[derive(Clone)]
pub struct OpParts {
    /// Records.
    pub cache: CacheManager,
    /// Sources by scheme.
    pub sources: Sources,
    /// What a vertex without a platform runs on.
    pub platform: Platform,
    /// Runs steps.
    pub exec: ExecRunner,
    /// Clients.
    pub sessions: SessionManager,
    /// A directory for passing mount points.
    pub scratch: PathBuf,
}

impl std::fmt::Debug for OpParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpParts").finish_non_exhaustive()
    }
}

/// The ops of a daemon.
#[derive(Debug)]
pub struct Resolver {
    parts: OpParts,
    solver: OnceLock<Solver<OpResult>>,
}

impl Resolver {
    /// Ops that work with `parts`.
    pub fn new(parts: OpParts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            solver: OnceLock::new(),
        })
    }

    /// The solver that the ops belong to, for builds within builds. Said once, after it is made.
    pub fn set_solver(&self, solver: Solver<OpResult>) {
        let _ = self.solver.set(solver);
    }
}

/// The platform of a vertex.
pub(crate) fn platform_of(vertex: &Vertex, default: &Platform) -> Platform {
    vertex.op.platform.as_ref().map_or_else(
        || default.clone(),
        |wire| Platform {
            architecture: wire.architecture.clone(),
            os: wire.os.clone(),
            os_version: wire.os_version.clone(),
            os_features: wire.os_features.clone(),
            variant: wire.variant.clone(),
        },
    )
}

impl OpResolver<OpResult> for Resolver {
    fn resolve(&self, vertex: &Arc<Vertex>) -> Result<Arc<dyn Op<OpResult>>, OpError> {
        let parts = &self.parts;
        let unsupported = |what: &str| {
            Err(WithDetail::message(
                Kind::Unimplemented,
                format!("{what} ops are not supported by this builder"),
            )
            .shared())
        };
        let op: Arc<dyn Op<OpResult>> = match &vertex.op.op {
            Some(pb::op::Op::Source(source)) => {
                let platform = platform_of(vertex, &parts.platform);
                let source = parts.sources.open(source, Some(&platform))?;
                Arc::new(SourceOp::new(source))
            }
            Some(pb::op::Op::Merge(_)) => Arc::new(MergeOp::new(parts, vertex)),
            Some(pb::op::Op::Diff(_)) => Arc::new(DiffOp::new(parts, vertex)),
            Some(pb::op::Op::Build(_)) => match self.solver.get() {
                // What is built inside belongs to ops of its own.
                Some(solver) => return Ok(Arc::new(BuildOp::new(solver.clone(), vertex))),
                None => return unsupported("build"),
            },
            Some(pb::op::Op::Exec(_)) => Arc::new(ExecOp::new(parts, vertex)),
            Some(pb::op::Op::File(_)) => {
                Arc::new(FileOp::new(vertex, &parts.cache, &parts.scratch))
            }
            None => return unsupported("empty"),
        };
        Ok(Arc::new(Noted::new(op, vertex.name(), &parts.sessions)))
    }
}
