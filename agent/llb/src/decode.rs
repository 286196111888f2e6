//! Reads a definition, which may be hostile, into a graph.
//!
//! Definitions may hold hundreds of thousands of ops in any order, so the walk keeps its own stack,
//! every op is decoded and hashed once, and bytes are moved, not copied. Only what the last op
//! reaches is validated and kept.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use kiln_oci::{Digest, DigestError};
use kiln_proto::pb;
use prost::Message;

use crate::marshal::op_bytes;
use crate::validate::{self, InvalidOp};
use crate::{Edge, Location, Vertex, VertexOptions};

/// The longest chain of vertices that is accepted.
pub const MAX_DEPTH: usize = 16_384;

/// Why a definition is not a graph.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// There are no ops.
    #[error("invalid empty definition")]
    Empty,
    /// An op's bytes aren't a message.
    #[error("failed to parse llb proto op {index}")]
    Malformed {
        /// Its place in the definition.
        index: usize,
        /// What is wrong with the bytes.
        #[source]
        source: prost::DecodeError,
    },
    /// There is only the op that names the result, or not even that.
    #[error("invalid LLB with {0} vertexes")]
    TooFew(usize),
    /// The last op names no result.
    #[error("invalid LLB with no inputs on last vertex")]
    NoResult,
    /// An op has no kind, or one that Kiln doesn't know.
    #[error("vertex {0} is an empty op or of an unknown kind")]
    EmptyOp(Digest),
    /// The name of an input isn't a digest.
    #[error("input {input} of vertex {vertex} is not a digest")]
    InputName {
        /// The op.
        vertex: Digest,
        /// Which of its inputs.
        input: usize,
        /// What is wrong with the name.
        #[source]
        source: DigestError,
    },
    /// No op of the definition has the digest that an input names.
    #[error("invalid missing input digest {0}")]
    MissingInput(Digest),
    /// An input names an output that its op doesn't have.
    #[error("invalid input {input} output index {index} of vertex {vertex}")]
    OutputIndex {
        /// The op.
        vertex: Digest,
        /// Which of its inputs.
        input: usize,
        /// The index that is out of range.
        index: i64,
    },
    /// An op is its own ancestor.
    #[error("vertex {0} depends on itself")]
    Cycle(Digest),
    /// The graph is deeper than [`MAX_DEPTH`].
    #[error("LLB graph is deeper than {MAX_DEPTH} vertexes")]
    TooDeep,
    /// The op contradicts itself.
    #[error("vertex {vertex} is invalid")]
    Op {
        /// The op.
        vertex: Digest,
        /// In what.
        #[source]
        source: InvalidOp,
    },
    /// A source location names a file that isn't there.
    #[error("failed to find source map with index {0}")]
    SourceIndex(i32),
}

/// Ops to put in the place of others, by the digest of the one replaced.
pub type Replacements = HashMap<Digest, pb::Op>;

/// Reads a definition. The result is the edge that its last op names.
pub fn decode(definition: pb::Definition) -> Result<Edge, DecodeError> {
    decode_replacing(definition, &Replacements::new())
}

/// Reads a definition in which a source policy changed some ops. These and everything that depends
/// on them are marshalled anew and get new digests; all else keeps its bytes.
pub fn decode_replacing(
    definition: pb::Definition,
    replacements: &Replacements,
) -> Result<Edge, DecodeError> {
    let mut graph = Graph::read(definition, replacements)?;
    let (root, index) = graph.result()?;
    graph.walk(root)?;
    graph.edge(root, index)
}

/// The source ops of a definition by digest, for policies to look at.
pub fn sources(definition: &pb::Definition) -> Result<Vec<(Digest, pb::Op)>, DecodeError> {
    let mut found = Vec::new();
    for (index, raw) in definition.def.iter().enumerate() {
        let op = pb::Op::decode(raw.as_slice())
            .map_err(|source| DecodeError::Malformed { index, source })?;
        if matches!(op.op, Some(pb::op::Op::Source(_))) {
            found.push((Digest::of(raw), op));
        }
    }
    Ok(found)
}

/// One op on its way to become a vertex.
struct Node {
    digest: Digest,
    raw: Bytes,
    replaced: bool,
    op: pb::Op,
    /// Indices of the nodes that the inputs name, filled when the walk enters the node.
    inputs: Vec<usize>,
    state: State,
}

enum State {
    Unseen,
    Open,
    Done { vertex: Arc<Vertex>, depth: usize },
}

struct Graph {
    nodes: Vec<Node>,
    by_digest: HashMap<Digest, usize>,
    options: HashMap<Digest, VertexOptions>,
}

impl Graph {
    fn read(definition: pb::Definition, replacements: &Replacements) -> Result<Self, DecodeError> {
        if definition.def.is_empty() {
            return Err(DecodeError::Empty);
        }
        let options = options(definition.metadata, definition.source)?;
        let mut nodes: Vec<Node> = Vec::with_capacity(definition.def.len());
        let mut by_digest = HashMap::with_capacity(definition.def.len());
        let mut last = 0;
        for (index, raw) in definition.def.into_iter().enumerate() {
            let raw = Bytes::from(raw);
            let digest = Digest::of(&raw);
            if let Some(known) = by_digest.get(&digest) {
                last = *known;
                continue;
            }
            let replacement = replacements.get(&digest).cloned();
            let replaced = replacement.is_some();
            let op = match replacement {
                Some(op) => op,
                None => pb::Op::decode(raw.clone())
                    .map_err(|source| DecodeError::Malformed { index, source })?,
            };
            last = nodes.len();
            by_digest.insert(digest, last);
            nodes.push(Node {
                digest,
                raw,
                replaced,
                op,
                inputs: Vec::new(),
                state: State::Unseen,
            });
        }
        // The op that names the result is looked for at the end.
        let end = nodes.len() - 1;
        if last != end {
            nodes.swap(last, end);
            by_digest.insert(nodes[last].digest, last);
            by_digest.insert(nodes[end].digest, end);
        }
        Ok(Self {
            nodes,
            by_digest,
            options,
        })
    }

    /// The node and output that the last op names.
    fn result(&self) -> Result<(usize, i64), DecodeError> {
        let Some(last) = self.nodes.last().filter(|_| self.nodes.len() > 1) else {
            return Err(DecodeError::TooFew(self.nodes.len()));
        };
        let input = last.op.inputs.first().ok_or(DecodeError::NoResult)?;
        let node = self.find(last.digest, 0, &input.digest)?;
        Ok((node, input.index))
    }

    fn find(&self, vertex: Digest, input: usize, name: &str) -> Result<usize, DecodeError> {
        let digest = name.parse().map_err(|source| DecodeError::InputName {
            vertex,
            input,
            source,
        })?;
        self.by_digest
            .get(&digest)
            .copied()
            .ok_or(DecodeError::MissingInput(digest))
    }

    /// Turns `root` and all it reaches into vertices, inputs first.
    fn walk(&mut self, root: usize) -> Result<(), DecodeError> {
        let mut stack = vec![(root, 0)];
        while let Some((index, next)) = stack.last_mut() {
            let index = *index;
            if *next == 0 {
                self.enter(index)?;
            }
            if let Some(&input) = self.nodes[index].inputs.get(*next) {
                *next += 1;
                match self.nodes[input].state {
                    State::Done { .. } => {}
                    State::Open => return Err(DecodeError::Cycle(self.nodes[input].digest)),
                    State::Unseen => stack.push((input, 0)),
                }
            } else {
                self.leave(index)?;
                stack.pop();
            }
        }
        Ok(())
    }

    fn enter(&mut self, index: usize) -> Result<(), DecodeError> {
        let node = &self.nodes[index];
        if node.op.op.is_none() {
            return Err(DecodeError::EmptyOp(node.digest));
        }
        validate::op(&node.op).map_err(|source| DecodeError::Op {
            vertex: node.digest,
            source,
        })?;
        let inputs = node.op.inputs.iter().enumerate();
        let inputs = inputs
            .map(|(input, name)| self.find(node.digest, input, &name.digest))
            .collect::<Result<_, _>>()?;
        self.nodes[index].inputs = inputs;
        self.nodes[index].state = State::Open;
        Ok(())
    }

    fn leave(&mut self, index: usize) -> Result<(), DecodeError> {
        let mut depth = 1;
        let mut replaced = self.nodes[index].replaced;
        let mut inputs = Vec::with_capacity(self.nodes[index].inputs.len());
        for (input, &from) in self.nodes[index].inputs.iter().enumerate() {
            let at = self.nodes[index].op.inputs[input].index;
            let edge = self.edge(from, at).map_err(|error| match error {
                DecodeError::OutputIndex { index: at, .. } => DecodeError::OutputIndex {
                    vertex: self.nodes[index].digest,
                    input,
                    index: at,
                },
                other => other,
            })?;
            if let State::Done { depth: below, .. } = self.nodes[from].state {
                depth = depth.max(below + 1);
            }
            replaced |= edge.vertex.digest != self.nodes[from].digest;
            inputs.push(edge);
        }
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        let options = self.options.remove(&self.nodes[index].digest);
        let node = &mut self.nodes[index];
        let mut op = std::mem::take(&mut node.op);
        let (mut digest, mut raw) = (node.digest, node.raw.clone());
        if replaced {
            op.inputs = inputs.iter().map(Edge::to_input).collect();
            raw = op_bytes(&op).into();
            digest = Digest::of(&raw);
        }
        let vertex = Vertex::new(digest, raw, op, inputs, options.unwrap_or_default());
        node.state = State::Done {
            vertex: Arc::new(vertex),
            depth,
        };
        Ok(())
    }

    fn edge(&self, node: usize, index: i64) -> Result<Edge, DecodeError> {
        let node = &self.nodes[node];
        let State::Done { vertex, .. } = &node.state else {
            return Err(DecodeError::Cycle(node.digest));
        };
        match usize::try_from(index) {
            Ok(output) if output < vertex.outputs() => Ok(Edge {
                vertex: Arc::clone(vertex),
                index: output,
            }),
            _ => Err(DecodeError::OutputIndex {
                vertex: node.digest,
                input: 0,
                index,
            }),
        }
    }
}

/// What metadata and source map say of each vertex. Entries whose key isn't a digest name no vertex.
fn options(
    metadata: std::collections::BTreeMap<String, pb::OpMetadata>,
    source: Option<pb::Source>,
) -> Result<HashMap<Digest, VertexOptions>, DecodeError> {
    let mut all: HashMap<Digest, VertexOptions> = HashMap::new();
    for (digest, metadata) in metadata {
        let Ok(digest) = digest.parse() else { continue };
        let wanted = metadata.caps.into_keys();
        all.insert(
            digest,
            VertexOptions {
                ignore_cache: metadata.ignore_cache,
                description: metadata.description,
                export_cache: metadata.export_cache.map(|export| export.value),
                progress_group: metadata.progress_group,
                caps: wanted.collect(),
                locations: Vec::new(),
            },
        );
    }
    let Some(source) = source else { return Ok(all) };
    let infos: Vec<_> = source.infos.into_iter().map(Arc::new).collect();
    for (digest, locations) in source.locations {
        let Ok(digest) = digest.parse() else { continue };
        let options = all.entry(digest).or_default();
        for location in locations.locations {
            let info = usize::try_from(location.source_index)
                .ok()
                .and_then(|index| infos.get(index))
                .ok_or(DecodeError::SourceIndex(location.source_index))?;
            options.locations.push(Location {
                info: Arc::clone(info),
                ranges: location.ranges,
            });
        }
    }
    Ok(all)
}
