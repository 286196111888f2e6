//! A validated graph: vertices that own their op, joined by `Arc`, without cycles by construction.
//!
//! Chains may be thousands of vertices long, so nothing here recurses: dropping and printing a
//! vertex take constant stack.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kiln_oci::Digest;
use kiln_proto::pb;

use crate::name;

/// One output of one vertex.
#[derive(Clone)]
pub struct Edge {
    /// The vertex.
    pub vertex: Arc<Vertex>,
    /// Which of its outputs.
    pub index: usize,
}

/// One op with its inputs. It can only be made from a definition whose inputs are all present, or
/// from inputs that are vertices themselves.
pub struct Vertex {
    /// sha256 of `raw`.
    pub digest: Digest,
    /// The op's bytes as they were sent.
    pub raw: Bytes,
    /// The op that `raw` decodes to. `op.op` is always present.
    pub op: pb::Op,
    /// As many as `op.inputs`, in the same order.
    pub inputs: Vec<Edge>,
    /// What the definition's metadata says of it. Not part of the digest.
    pub options: VertexOptions,
    name: String,
}

/// What a definition says of a vertex beside its op.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VertexOptions {
    /// Run it even when the cache has a result.
    pub ignore_cache: bool,
    /// `llb.customname` and its like, as the client set them.
    pub description: BTreeMap<String, String>,
    /// Whether a cache exporter may take this vertex: `None` where the client didn't say.
    pub export_cache: Option<bool>,
    /// A group that clients show as one.
    pub progress_group: Option<pb::ProgressGroup>,
    /// LLB features that the op needs. The engine refuses what it doesn't have.
    pub caps: BTreeSet<String>,
    /// Where in which source file the vertex was written.
    pub locations: Vec<Location>,
}

/// Lines of a source file that made a vertex.
#[derive(Debug, Clone, PartialEq)]
pub struct Location {
    /// The file.
    pub info: Arc<pb::SourceInfo>,
    /// Lines, counted from 1.
    pub ranges: Vec<pb::Range>,
}

impl VertexOptions {
    /// Options with nothing but a name for progress displays.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            description: [(CUSTOM_NAME.to_owned(), name.into())].into(),
            ..Self::default()
        }
    }
}

/// The description key of a vertex's name.
pub const CUSTOM_NAME: &str = "llb.customname";

impl Edge {
    /// The digest of the vertex and the output's index, as an op's input names it.
    pub fn to_input(&self) -> pb::Input {
        pb::Input {
            digest: self.vertex.digest.to_string(),
            index: self.index as i64,
        }
    }

    /// Whether both name the same output of the same op, whatever their options are.
    pub fn same_output(&self, other: &Self) -> bool {
        self.vertex.digest == other.vertex.digest && self.index == other.index
    }
}

impl Vertex {
    /// Joins the parts. `op.op` must be present and `inputs` must be what `op.inputs` names.
    pub(crate) fn new(
        digest: Digest,
        raw: Bytes,
        op: pb::Op,
        inputs: Vec<Edge>,
        options: VertexOptions,
    ) -> Self {
        let name = name::of_op(&op, &inputs);
        Self {
            digest,
            raw,
            op,
            inputs,
            options,
            name,
        }
    }

    /// The name that progress displays show: the custom name, else one made from the op.
    pub fn name(&self) -> String {
        self.shown_name().to_owned()
    }

    pub(crate) fn shown_name(&self) -> &str {
        self.options
            .description
            .get(CUSTOM_NAME)
            .map_or(self.name.as_str(), String::as_str)
    }

    /// How many outputs the op has.
    pub fn outputs(&self) -> usize {
        let most = match &self.op.op {
            Some(pb::op::Op::Exec(exec)) => {
                exec.mounts.iter().map(|m| m.output).max().unwrap_or(-1) + 1
            }
            Some(pb::op::Op::File(file)) => {
                file.actions.iter().map(|a| a.output).max().unwrap_or(-1) + 1
            }
            _ => 1,
        };
        usize::try_from(most).unwrap_or(0)
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.vertex.digest, self.index)
    }
}

impl fmt::Debug for Vertex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vertex")
            .field("digest", &self.digest)
            .field("name", &self.shown_name())
            .field("inputs", &self.inputs)
            .finish_non_exhaustive()
    }
}

impl Drop for Vertex {
    fn drop(&mut self) {
        let mut pending = std::mem::take(&mut self.inputs);
        while let Some(edge) = pending.pop() {
            if let Some(mut vertex) = Arc::into_inner(edge.vertex) {
                pending.append(&mut vertex.inputs);
            }
        }
    }
}
