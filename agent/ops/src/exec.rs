//! The exec op: a process over the file systems of its inputs.

mod run;

use std::sync::Arc;

use async_trait::async_trait;
use kiln_cache::OpResult;
use kiln_errdefs::{Kind, WithDetail};
use kiln_llb::{Vertex, keys};
use kiln_proto::pb;
use kiln_solver::op::{CacheMap, Op, OpContext, OpError};

use crate::inputs;
use crate::resolver::{OpParts, platform_of};
pub use run::{ExecError, ExecFailure, ExecRunner, LogLimits, NotRun, StepNetwork, Surroundings};

/// Runs a process.
#[derive(Debug)]
pub(crate) struct ExecOp {
    vertex: Arc<Vertex>,
    platform: pb::Platform,
    runner: ExecRunner,
}

impl ExecOp {
    pub(crate) fn new(parts: &OpParts, vertex: &Arc<Vertex>) -> Self {
        let platform = platform_of(vertex, &parts.platform);
        Self {
            vertex: Arc::clone(vertex),
            platform: pb::Platform {
                architecture: platform.architecture,
                os: platform.os,
                variant: platform.variant,
                os_version: platform.os_version,
                os_features: platform.os_features,
            },
            runner: parts.exec.clone(),
        }
    }

    fn exec(&self) -> Result<&pb::ExecOp, OpError> {
        match &self.vertex.op.op {
            Some(pb::op::Op::Exec(exec)) => Ok(exec),
            _ => Err(WithDetail::message(Kind::Internal, "not an exec op").shared()),
        }
    }
}

#[async_trait]
impl Op<OpResult> for ExecOp {
    async fn cache_map(
        &self,
        _index: usize,
        _cx: OpContext,
    ) -> Result<(CacheMap<OpResult>, bool), OpError> {
        let key = keys::exec(self.exec()?, &self.platform, self.vertex.inputs.len());
        let key = key.map_err(|error| WithDetail::kind(Arc::new(error), Kind::User).shared())?;
        Ok((inputs::cache_map(key), true))
    }

    async fn run(&self, inputs: Vec<OpResult>, cx: OpContext) -> Result<Vec<OpResult>, OpError> {
        self.runner.run(self.exec()?, inputs, &cx).await
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
