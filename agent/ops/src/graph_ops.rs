//! Ops on whole states: merge, diff, and build (a definition that a build made).

use std::sync::Arc;

use async_trait::async_trait;
use kiln_cache::{CacheManager, OpResult, RecordOptions};
use kiln_errdefs::{Kind, WithDetail};
use kiln_llb::{Vertex, decode, keys};
use kiln_proto::pb;
use kiln_solver::Solver;
use kiln_solver::op::{CacheMap, InputKey, Op, OpContext, OpError};
use kiln_sys::rootfs::RootDir;
use prost::Message as _;

use crate::OpParts;

/// A definition file larger than this isn't one.
const MAX_DEFINITION: u64 = 16 * 1024 * 1024;

/// The map of an op that is known by its own digest and whole inputs.
fn plain(key: &keys::OpKey) -> (CacheMap<OpResult>, bool) {
    let inputs = key.inputs.iter().map(|_| InputKey::default()).collect();
    (
        CacheMap {
            digest: key.digest,
            session_local: false,
            inputs,
        },
        true,
    )
}

fn invalid(text: impl Into<String>) -> OpError {
    WithDetail::message(Kind::User, text).shared()
}

/// States one over the other.
pub(crate) struct MergeOp {
    cache: CacheManager,
    vertex: Arc<Vertex>,
}

impl MergeOp {
    pub(crate) fn new(parts: &OpParts, vertex: &Arc<Vertex>) -> Self {
        Self {
            cache: parts.cache.clone(),
            vertex: Arc::clone(vertex),
        }
    }
}

#[async_trait]
impl Op<OpResult> for MergeOp {
    async fn cache_map(
        &self,
        _index: usize,
        _cx: OpContext,
    ) -> Result<(CacheMap<OpResult>, bool), OpError> {
        let Some(pb::op::Op::Merge(merge)) = &self.vertex.op.op else {
            return Err(invalid("not a merge op"));
        };
        Ok(plain(&keys::merge(merge)))
    }

    async fn run(&self, inputs: Vec<OpResult>, _cx: OpContext) -> Result<Vec<OpResult>, OpError> {
        let mut refs: Vec<_> = inputs.into_iter().flatten().collect();
        let merged = match refs.len() {
            0 => None,
            1 => refs.pop(),
            _ => Some(
                self.cache
                    .merge(refs, RecordOptions::described(self.vertex.name()))
                    .await
                    .map_err(|error| -> OpError { Arc::new(error) })?,
            ),
        };
        Ok(vec![merged])
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

/// What makes one state from another.
pub(crate) struct DiffOp {
    cache: CacheManager,
    vertex: Arc<Vertex>,
}

impl DiffOp {
    pub(crate) fn new(parts: &OpParts, vertex: &Arc<Vertex>) -> Self {
        Self {
            cache: parts.cache.clone(),
            vertex: Arc::clone(vertex),
        }
    }

    fn op(&self) -> Result<&pb::DiffOp, OpError> {
        match &self.vertex.op.op {
            Some(pb::op::Op::Diff(diff)) => Ok(diff),
            _ => Err(invalid("not a diff op")),
        }
    }
}

#[async_trait]
impl Op<OpResult> for DiffOp {
    async fn cache_map(
        &self,
        _index: usize,
        _cx: OpContext,
    ) -> Result<(CacheMap<OpResult>, bool), OpError> {
        Ok(plain(&keys::diff(self.op()?)))
    }

    async fn run(&self, inputs: Vec<OpResult>, _cx: OpContext) -> Result<Vec<OpResult>, OpError> {
        let op = self.op()?;
        // An input of −1 is the empty state and no input of the vertex.
        let state = |input: i64| match usize::try_from(input) {
            Err(_) => Ok(None),
            Ok(index) => inputs
                .get(index)
                .cloned()
                .ok_or_else(|| invalid(format!("invalid input {index} of a diff op"))),
        };
        let lower = state(op.lower.as_ref().map_or(-1, |lower| lower.input))?;
        let upper = state(op.upper.as_ref().map_or(-1, |upper| upper.input))?;
        let result = match (lower, upper) {
            (None, upper) => upper,
            (Some(lower), Some(upper)) if lower.id() == upper.id() => None,
            (lower, upper) => self
                .cache
                .diff(lower, upper, RecordOptions::described(self.vertex.name()))
                .await
                .map_err(|error| -> OpError { Arc::new(error) })?,
        };
        Ok(vec![result])
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

/// Builds a definition that is a file in an input.
pub(crate) struct BuildOp {
    solver: Solver<OpResult>,
    vertex: Arc<Vertex>,
}

impl BuildOp {
    pub(crate) fn new(solver: Solver<OpResult>, vertex: &Arc<Vertex>) -> Self {
        Self {
            solver,
            vertex: Arc::clone(vertex),
        }
    }

    fn op(&self) -> Result<&pb::BuildOp, OpError> {
        match &self.vertex.op.op {
            Some(pb::op::Op::Build(build)) => Ok(build),
            _ => Err(invalid("not a build op")),
        }
    }
}

/// The input that holds the definition, and the file's name if none is given.
const DEFINITION: &str = "buildkit.llb.definition";
/// The attribute that names the file.
const FILE_NAME: &str = "llbbuild.filename";
/// The builder that takes definitions.
const LLB_BUILDER: i64 = -1;

#[async_trait]
impl Op<OpResult> for BuildOp {
    async fn cache_map(
        &self,
        _index: usize,
        _cx: OpContext,
    ) -> Result<(CacheMap<OpResult>, bool), OpError> {
        Ok(plain(&keys::build(self.op()?, self.vertex.inputs.len())))
    }

    async fn run(&self, inputs: Vec<OpResult>, cx: OpContext) -> Result<Vec<OpResult>, OpError> {
        let op = self.op()?;
        if op.builder != LLB_BUILDER {
            return Err(invalid("only LLB builder is currently allowed"));
        }
        let input = op
            .inputs
            .get(DEFINITION)
            .ok_or_else(|| invalid(format!("no llb definition input {DEFINITION} found")))?;
        let state = usize::try_from(input.input)
            .ok()
            .and_then(|index| inputs.get(index))
            .ok_or_else(|| invalid(format!("invalid input {} of a build op", input.input)))?;
        let Some(state) = state else {
            return Err(invalid("the definition's file system is empty"));
        };
        let root = state
            .root_path(&cx.sessions(), &cx.progress)
            .await
            .map_err(|error| -> OpError { Arc::new(error) })?;
        let name = op
            .attrs
            .get(FILE_NAME)
            .map_or(DEFINITION, String::as_str)
            .to_owned();
        let read = tokio::task::spawn_blocking(move || {
            let root = RootDir::open(root.path())?;
            let bytes = root.read_file(std::path::Path::new(&name), MAX_DEFINITION)?;
            Ok::<_, std::io::Error>(bytes)
        })
        .await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                return Err(invalid(format!("failed to read the definition: {error}")));
            }
            Err(panicked) => return Err(Arc::new(panicked)),
        };
        let definition = pb::Definition::decode(bytes.as_slice())
            .map_err(|error| invalid(format!("failed to parse the definition: {error}")))?;
        let edge = decode(definition)
            .map_err(|error| WithDetail::kind(Arc::new(error), Kind::User).shared())?;
        let built = self.solver.nested(&cx, &edge).await?;
        Ok(vec![built.result().clone()])
    }

    fn takes_slot(&self) -> bool {
        false
    }

    fn pin(&self) -> Option<String> {
        None
    }

    fn looks_up(&self) -> bool {
        false
    }
}
