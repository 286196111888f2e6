//! Makes vertices and turns them into definitions.
//!
//! An [`Edge`] is all that a caller holds. [`definition`] writes every vertex under it once, inputs
//! before users, and ends with the op that has no kind and names the result.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kiln_oci::Digest;
use kiln_proto::pb;

use crate::marshal::op_bytes;
use crate::{Edge, Vertex, VertexOptions};

/// Makes a vertex of an op. The caller has set the input indices inside `op` to match `inputs`.
pub fn vertex(
    op: pb::op::Op,
    inputs: Vec<Edge>,
    platform: Option<pb::Platform>,
    options: VertexOptions,
) -> Arc<Vertex> {
    let op = pb::Op {
        inputs: inputs.iter().map(Edge::to_input).collect(),
        platform,
        constraints: Some(pb::WorkerConstraints::default()),
        op: Some(op),
    };
    let raw = op_bytes(&op);
    Arc::new(Vertex::new(
        Digest::of(&raw),
        raw.into(),
        op,
        inputs,
        options,
    ))
}

/// A source. Only images are specific to a platform.
pub fn source(
    source: pb::SourceOp,
    platform: Option<&pb::Platform>,
    options: VertexOptions,
) -> Edge {
    let specific = source.identifier.starts_with("docker-image://")
        || source.identifier.starts_with("oci-layout://");
    let platform = platform.filter(|_| specific).cloned();
    Edge {
        vertex: vertex(pb::op::Op::Source(source), Vec::new(), platform, options),
        index: 0,
    }
}

/// Lays file systems over each other; empty ones have no effect. `None` is the empty one.
pub fn merge(inputs: Vec<Option<Edge>>, mut options: VertexOptions) -> Option<Edge> {
    let mut inputs: Vec<Edge> = inputs.into_iter().flatten().collect();
    if inputs.len() < 2 {
        return inputs.pop();
    }
    options.caps.insert("mergeop".to_owned());
    let op = pb::MergeOp {
        inputs: (0..inputs.len() as i64)
            .map(|input| pb::MergeInput { input })
            .collect(),
    };
    Some(Edge {
        vertex: vertex(pb::op::Op::Merge(op), inputs, None, options),
        index: 0,
    })
}

/// What `upper` has that `lower` hasn't. `None` is the empty file system.
pub fn diff(lower: Option<Edge>, upper: Option<Edge>, mut options: VertexOptions) -> Option<Edge> {
    let Some(lower) = lower else { return upper };
    options.caps.insert("diffop".to_owned());
    let op = pb::DiffOp {
        lower: Some(pb::LowerDiffInput { input: 0 }),
        upper: Some(pb::UpperDiffInput {
            input: if upper.is_some() { 1 } else { -1 },
        }),
    };
    let inputs = std::iter::once(lower).chain(upper).collect();
    Some(Edge {
        vertex: vertex(pb::op::Op::Diff(op), inputs, None, options),
        index: 0,
    })
}

/// The definition whose result is `edge`; `None`, the empty file system, has an empty definition.
pub fn definition(edge: Option<&Edge>) -> pb::Definition {
    let Some(edge) = edge else {
        return pb::Definition::default();
    };
    let mut writer = Writer::default();
    for vertex in post_order(&edge.vertex) {
        writer.add(&vertex);
    }
    writer.finish(edge)
}

/// Every vertex under `root` and itself, inputs before users.
pub fn post_order(root: &Arc<Vertex>) -> Vec<Arc<Vertex>> {
    let mut seen = HashSet::from([Arc::as_ptr(root)]);
    let mut order = Vec::new();
    let mut stack = vec![(Arc::clone(root), 0)];
    while let Some((vertex, next)) = stack.last_mut() {
        if let Some(input) = vertex.inputs.get(*next) {
            *next += 1;
            let input = Arc::clone(&input.vertex);
            if seen.insert(Arc::as_ptr(&input)) {
                stack.push((input, 0));
            }
        } else if let Some((vertex, _)) = stack.pop() {
            order.push(vertex);
        }
    }
    order
}

#[derive(Default)]
struct Writer {
    definition: pb::Definition,
    seen: HashSet<Digest>,
    infos: Vec<Arc<pb::SourceInfo>>,
    known_infos: HashMap<*const pb::SourceInfo, usize>,
    source: pb::Source,
}

impl Writer {
    fn add(&mut self, vertex: &Vertex) {
        let digest = vertex.digest.to_string();
        if self.seen.insert(vertex.digest) {
            self.definition.def.push(vertex.raw.to_vec());
        }
        let metadata = self.definition.metadata.entry(digest.clone()).or_default();
        merge_metadata(metadata, &vertex.options);
        let locations = self.source.locations.entry(digest).or_default();
        for location in &vertex.options.locations {
            let pointer = Arc::as_ptr(&location.info);
            let infos = &mut self.infos;
            let index = *self.known_infos.entry(pointer).or_insert_with(|| {
                infos
                    .iter()
                    .position(|known| **known == *location.info)
                    .unwrap_or_else(|| {
                        infos.push(Arc::clone(&location.info));
                        infos.len() - 1
                    })
            });
            locations.locations.push(pb::Location {
                source_index: index as i32,
                ranges: location.ranges.clone(),
            });
        }
    }

    fn finish(mut self, result: &Edge) -> pb::Definition {
        let head = op_bytes(&pb::Op {
            inputs: vec![result.to_input()],
            ..pb::Op::default()
        });
        let mut caps = vec!["constraints", "platform"];
        let all = || self.definition.metadata.values();
        if all().any(|m| m.ignore_cache) {
            caps.push("meta.ignorecache");
        }
        if all().any(|m| !m.description.is_empty()) {
            caps.push("meta.description");
        }
        if all().any(|m| m.export_cache.is_some()) {
            caps.push("meta.exportcache");
        }
        let metadata = pb::OpMetadata {
            caps: caps.into_iter().map(|cap| (cap.to_owned(), true)).collect(),
            ..pb::OpMetadata::default()
        };
        self.definition
            .metadata
            .insert(Digest::of(&head).to_string(), metadata);
        self.definition.def.push(head);
        self.source.infos = self.infos.iter().map(|info| (**info).clone()).collect();
        self.definition.source = Some(self.source);
        self.definition
    }
}

/// Vertices of one digest that differ in their options become one.
fn merge_metadata(into: &mut pb::OpMetadata, options: &VertexOptions) {
    into.ignore_cache |= options.ignore_cache;
    into.description.extend(options.description.clone());
    if let Some(value) = options.export_cache {
        into.export_cache = Some(pb::ExportCache { value });
    }
    into.caps
        .extend(options.caps.iter().map(|cap| (cap.clone(), true)));
    if let Some(group) = &options.progress_group {
        into.progress_group = Some(group.clone());
    }
}
