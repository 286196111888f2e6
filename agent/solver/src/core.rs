//! What all builds share: the table of active nodes, the runs, the slots.
//!
//! Invariants: a node is found in the table only while somebody holds it; nothing that is dropped
//! under the table's lock takes that lock.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use kiln_ids::BuildRef;
use kiln_llb::Vertex;
use kiln_oci::Digest;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::flight::Flights;
use crate::node::{Input, Node};
use crate::op::ResultValue;
use crate::slots::Slots;
use crate::solver::SolverOptions;

/// See the module.
pub(crate) struct Core<R: ResultValue> {
    pub(crate) options: SolverOptions<R>,
    pub(crate) tasks: TaskTracker,
    pub(crate) slots: Arc<Slots>,
    pub(crate) flights: Flights<R>,
    pub(crate) builds: Mutex<HashSet<BuildRef>>,
    active: Mutex<HashMap<Digest, Weak<Node<R>>>>,
    last_build: AtomicU64,
}

impl<R: ResultValue> Core<R> {
    pub(crate) fn new(options: SolverOptions<R>) -> Arc<Self> {
        Arc::new(Self {
            slots: Slots::new(options.max_parallel),
            options,
            tasks: TaskTracker::new(),
            flights: Flights::default(),
            builds: Mutex::default(),
            active: Mutex::default(),
            last_build: AtomicU64::new(0),
        })
    }

    pub(crate) fn next_build(&self) -> u64 {
        self.last_build.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The nodes of a vertex and everything behind it, inputs first, each with the vertex that the
    /// caller brought for it.
    pub(crate) fn load(self: &Arc<Self>, top: &Arc<Vertex>) -> Vec<(Arc<Node<R>>, Arc<Vertex>)> {
        let mut loaded: Vec<(Arc<Node<R>>, Arc<Vertex>)> = Vec::new();
        let mut by_vertex: HashMap<*const Vertex, usize> = HashMap::new();
        let mut pending = vec![(top, false)];
        let mut active = self.active.lock();
        while let Some((vertex, inputs_done)) = pending.pop() {
            if by_vertex.contains_key(&Arc::as_ptr(vertex)) {
                continue;
            }
            if !inputs_done {
                pending.push((vertex, true));
                for edge in &vertex.inputs {
                    pending.push((&edge.vertex, false));
                }
                continue;
            }
            let inputs: Vec<Input<R>> = vertex
                .inputs
                .iter()
                .map(|edge| Input {
                    node: Arc::clone(&loaded[by_vertex[&Arc::as_ptr(&edge.vertex)]].0),
                    output: edge.index,
                })
                .collect();
            let key = node_key(vertex, &inputs);
            let node = active.get(&key).and_then(Weak::upgrade);
            let node = node.unwrap_or_else(|| {
                let node = Node::new(Arc::clone(self), key, Arc::clone(vertex), inputs);
                let node = Arc::new(node);
                active.insert(key, Arc::downgrade(&node));
                node
            });
            by_vertex.insert(Arc::as_ptr(vertex), loaded.len());
            loaded.push((node, Arc::clone(vertex)));
        }
        drop(active);
        loaded
    }

    /// Takes a node that is being dropped off the table.
    pub(crate) fn forget(&self, key: &Digest) {
        let mut active = self.active.lock();
        if let Entry::Occupied(entry) = active.entry(*key)
            && entry.get().strong_count() == 0
        {
            entry.remove();
        }
    }

    /// How many nodes are active.
    pub(crate) fn active_nodes(&self) -> usize {
        self.active.lock().len()
    }
}

/// The vertex's digest, unless its cache or that of something behind it is ignored.
fn node_key<R: ResultValue>(vertex: &Vertex, inputs: &[Input<R>]) -> Digest {
    let plain = inputs
        .iter()
        .zip(&vertex.inputs)
        .all(|(input, edge)| input.node.key == edge.vertex.digest);
    if plain && !vertex.options.ignore_cache {
        return vertex.digest;
    }
    let mut text = format!("{} {}", vertex.digest, vertex.options.ignore_cache);
    for input in inputs {
        // Writing to a string can't fail.
        let _ = write!(text, " {}", input.node.key);
    }
    Digest::of(text)
}
