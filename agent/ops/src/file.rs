//! The file op: copies, new files, directories and links, and removals, without a container.
//!
//! ```text
//! actions ─► plan: order, what is committed, what is worked on in place
//!         ─► work: states of inputs (read-only) and of what is made (an overlay that no path leads to)
//!         ─► actions: mkdir, mkfile, symlink, rm, copy, unpack; each inside of open roots
//! ```
//!
//! Invariants: every path is resolved inside of its root by the kernel (`RESOLVE_IN_ROOT`), so that no
//! link, whenever it appears, leads out; a state that an action failed on is kept for debuggers and is
//! nobody's result; inputs are never written to, also not through a hard link.

mod actions;
mod copy;
mod error;
mod glob;
mod mode;
mod owner;
mod plan;
mod remove;
#[cfg(test)]
mod states;
#[cfg(test)]
mod tests;
mod unpack;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use kiln_cache::{CacheManager, OpResult};
use kiln_llb::{Vertex, keys};
use kiln_proto::pb;
use kiln_solver::op::{CacheMap, Op, OpContext, OpError};

pub use error::{ActionError, FileError};

use crate::inputs;

/// File actions.
pub(crate) struct FileOp {
    vertex: Arc<Vertex>,
    cache: CacheManager,
    scratch: PathBuf,
}

impl FileOp {
    /// `scratch` is a directory for passing mount points.
    pub(crate) fn new(
        vertex: &Arc<Vertex>,
        cache: &CacheManager,
        scratch: &std::path::Path,
    ) -> Self {
        Self {
            vertex: Arc::clone(vertex),
            cache: cache.clone(),
            scratch: scratch.to_owned(),
        }
    }

    fn op(&self) -> Result<&pb::FileOp, OpError> {
        match &self.vertex.op.op {
            Some(pb::op::Op::File(file)) => Ok(file),
            _ => Err(FileError::NotAFileOp.shared()),
        }
    }
}

#[async_trait]
impl Op<OpResult> for FileOp {
    async fn cache_map(
        &self,
        _: usize,
        _: OpContext,
    ) -> Result<(CacheMap<OpResult>, bool), OpError> {
        let key = keys::file(self.op()?, self.vertex.inputs.len());
        let key = key.map_err(|error| -> OpError { Arc::new(error) })?;
        Ok((inputs::cache_map(key), true))
    }

    async fn run(&self, inputs: Vec<OpResult>, cx: OpContext) -> Result<Vec<OpResult>, OpError> {
        let plan = plan::Plan::new(&self.op()?.actions, inputs.len());
        let plan = plan.map_err(FileError::shared)?;
        let name = self.vertex.name();
        work::Work::new(&self.cache, &self.scratch, &name, inputs, &cx)
            .run(&plan, self.op()?)
            .await
    }

    fn pin(&self) -> Option<String> {
        None
    }

    fn looks_up(&self) -> bool {
        false
    }

    fn takes_slot(&self) -> bool {
        true
    }
}
