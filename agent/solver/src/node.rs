//! One vertex of the active graph: what is known of it as long as some build needs it.
//!
//! Builds that bring the same op with the same inputs share the node. A vertex whose cache is to be
//! ignored, and everything that depends on one, is another node than the same vertex without.
//!
//! Invariants: an op is asked for one cache map at a time; an input's content is hashed once; a node
//! is in the table of active nodes exactly while somebody holds it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kiln_llb::Vertex;
use kiln_oci::Digest;
use kiln_progress::{Audience, Receiver, Status, Stream, VertexProgress, Warning};
use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::caches::Caches;
use crate::core::Core;
use crate::edge::{Edge, EdgeState};
use crate::error::{Kept, Phase, SolveError};
use crate::import::CacheSource;
use crate::key::KeyNode;
use crate::op::{CacheMap, Op, OpContext, OpError, ResultValue};
use crate::report::{BuildHandle, Members, Report};

/// An output of a node that another one takes in.
pub(crate) struct Input<R: ResultValue> {
    pub(crate) node: Arc<Node<R>>,
    pub(crate) output: usize,
}

impl<R: ResultValue> Input<R> {
    pub(crate) fn edge(&self) -> Edge<R> {
        self.node.edge(self.output)
    }
}

/// See the module.
pub(crate) struct Node<R: ResultValue> {
    pub(crate) core: Arc<Core<R>>,
    /// The vertex's digest, or another one where the cache is ignored.
    pub(crate) key: Digest,
    pub(crate) vertex: Arc<Vertex>,
    pub(crate) inputs: Vec<Input<R>>,
    pub(crate) report: Arc<Report>,
    imports: RwLock<Vec<Arc<dyn CacheSource<R>>>>,
    op: OnceLock<Result<Arc<dyn Op<R>>, OpError>>,
    maps: tokio::sync::Mutex<Maps<R>>,
    /// Record digests of session-local root keys, which are forgotten with the node.
    session_roots: Mutex<Vec<Digest>>,
    contents: Vec<OnceCell<Option<Digest>>>,
    prepared: Vec<OnceCell<()>>,
    edges: Mutex<HashMap<usize, Arc<EdgeState<R>>>>,
    /// Nodes of builds that run inside of this one's op.
    pub(crate) nested: Mutex<Vec<Arc<Node<R>>>>,
}

struct Maps<R> {
    known: Vec<Arc<CacheMap<R>>>,
    complete: bool,
}

/// Keys of what is built inside of a run.
pub(crate) type Inside<R> = Arc<Mutex<Vec<Arc<KeyNode<R>>>>>;

/// What an op's context leads back to, for nested builds.
pub(crate) struct Host<R: ResultValue> {
    pub(crate) node: Arc<Node<R>>,
    pub(crate) members: Arc<Members>,
    pub(crate) inside: Inside<R>,
}

impl<R: ResultValue> Node<R> {
    pub(crate) fn new(
        core: Arc<Core<R>>,
        key: Digest,
        vertex: Arc<Vertex>,
        inputs: Vec<Input<R>>,
    ) -> Self {
        let count = inputs.len();
        Self {
            core,
            key,
            vertex,
            inputs,
            report: Arc::default(),
            imports: RwLock::default(),
            op: OnceLock::new(),
            maps: tokio::sync::Mutex::new(Maps {
                known: Vec::new(),
                complete: false,
            }),
            session_roots: Mutex::default(),
            contents: (0..count).map(|_| OnceCell::new()).collect(),
            prepared: (0..count).map(|_| OnceCell::new()).collect(),
            edges: Mutex::default(),
            nested: Mutex::default(),
        }
    }

    /// The owner of one output.
    pub(crate) fn edge(self: &Arc<Self>, output: usize) -> Edge<R> {
        let mut edges = self.edges.lock();
        let state = edges.entry(output).or_default();
        Edge::new(Arc::clone(self), output, Arc::clone(state))
    }

    pub(crate) fn ignores_cache(&self) -> bool {
        self.vertex.options.ignore_cache
    }

    /// Adds a build: its progress, its imported caches. What failed before it came is tried again.
    pub(crate) fn attach(
        &self,
        build: &Arc<BuildHandle>,
        vertex: &Arc<Vertex>,
        imports: &[Arc<dyn CacheSource<R>>],
    ) {
        {
            let mut known = self.imports.write();
            for source in imports {
                let is_known = known
                    .iter()
                    .any(|known| Arc::ptr_eq(known, source) || known.name() == source.name());
                if !is_known {
                    known.push(Arc::clone(source));
                }
            }
        }
        if self.report.attach(build, vertex) {
            for edge in self.edges.lock().values() {
                edge.forget_failures();
            }
            for nested in self.nested.lock().iter() {
                nested.attach(build, &nested.vertex, imports);
            }
        }
    }

    /// Takes a build off.
    pub(crate) fn detach(&self, build: u64) {
        self.report.detach(build);
        for nested in self.nested.lock().iter() {
            nested.detach(build);
        }
    }

    pub(crate) fn imports(&self) -> Vec<Arc<dyn CacheSource<R>>> {
        self.imports.read().clone()
    }

    pub(crate) fn caches(&self) -> Caches<R> {
        Caches {
            keys: Arc::clone(&self.core.options.keys),
            results: Arc::clone(&self.core.options.results),
            imports: self.imports(),
        }
    }

    /// The context of work that only this vertex's builds wait for.
    pub(crate) fn context(self: &Arc<Self>) -> OpContext {
        let members = Arc::new(Members::default());
        members.join(&self.report);
        self.context_for(members, CancellationToken::new(), Inside::default())
    }

    /// The context of work that `members` wait for.
    pub(crate) fn context_for(
        self: &Arc<Self>,
        members: Arc<Members>,
        cancel: CancellationToken,
        inside: Inside<R>,
    ) -> OpContext {
        let progress = VertexProgress::new(members.clone());
        let sessions = {
            let members = Arc::clone(&members);
            Arc::new(move || members.sessions())
        };
        let builds = {
            let members = Arc::clone(&members);
            Arc::new(move || members.builds())
        };
        let host = Host {
            node: Arc::clone(self),
            members,
            inside,
        };
        OpContext {
            progress,
            cancel,
            sessions,
            builds,
            vertex: Some(Arc::new(host)),
        }
    }

    /// The op, made by the first who asks.
    pub(crate) fn op(&self) -> Result<Arc<dyn Op<R>>, OpError> {
        self.op
            .get_or_init(|| self.core.options.resolver.resolve(&self.vertex))
            .clone()
            .map_err(|error| self.failed(Phase::Resolve, None, error))
    }

    /// The op, if it has been made.
    pub(crate) fn made_op(&self) -> Option<Arc<dyn Op<R>>> {
        self.op.get().and_then(|op| op.as_ref().ok()).cloned()
    }

    /// The `index`-th cache map, and whether it is the last.
    pub(crate) async fn map(
        self: &Arc<Self>,
        index: usize,
    ) -> Result<(Arc<CacheMap<R>>, bool), OpError> {
        let op = self.op()?;
        let mut maps = self.maps.lock().await;
        while maps.known.len() <= index && !maps.complete {
            // Sources look their key up somewhere: that is work to be seen. Other ops compute it.
            let is_shown = self.inputs.is_empty() && op.looks_up();
            let shown = is_shown.then(|| Shown::begin(&self.report));
            let asked = op.cache_map(maps.known.len(), self.context()).await;
            let (map, last) = match asked {
                Ok(asked) => asked,
                Err(error) => {
                    let shown = shown.unwrap_or_else(|| Shown::begin(&self.report));
                    shown.end(kiln_errdefs::text(&error));
                    return Err(self.failed(Phase::CacheMap, None, error));
                }
            };
            if let Some(shown) = shown {
                shown.end(String::new());
            }
            if map.inputs.len() != self.inputs.len() {
                return Err(SolveError::InputCount {
                    vertex: self.vertex.digest,
                    want: self.inputs.len(),
                    got: map.inputs.len(),
                }
                .shared());
            }
            maps.known.push(Arc::new(map));
            maps.complete = last;
        }
        let last = maps.known.len() - 1;
        let index = index.min(last);
        let is_last = maps.complete && index == last;
        Ok((Arc::clone(&maps.known[index]), is_last))
    }

    /// The digest of what the op reads of an input, if the op says how to find it.
    pub(crate) async fn content(
        self: &Arc<Self>,
        map: &CacheMap<R>,
        input: usize,
        result: &R,
    ) -> Result<Option<Digest>, OpError> {
        let Some(content) = &map.inputs[input].content else {
            return Ok(None);
        };
        let digest = self.contents[input]
            .get_or_try_init(|| content.digest(result.clone(), self.context()))
            .await;
        digest
            .copied()
            .map_err(|error| self.input_failed(input, result, error))
    }

    /// The digests of what is read of the inputs, as far as they are known.
    pub(crate) fn known_contents(&self) -> Vec<Option<Digest>> {
        self.contents
            .iter()
            .map(|content| content.get().copied().flatten())
            .collect()
    }

    /// The result of an output that has one.
    pub(crate) fn any_result(&self) -> Option<(usize, R)> {
        let edges = self.edges.lock();
        edges
            .iter()
            .find_map(|(output, edge)| Some((*output, edge.made()?)))
    }

    /// Makes an input ready to be read.
    pub(crate) async fn prepare(
        self: &Arc<Self>,
        map: &CacheMap<R>,
        input: usize,
        result: &R,
    ) -> Result<(), OpError> {
        let Some(prepare) = &map.inputs[input].prepare else {
            return Ok(());
        };
        // Pulls are shown under the vertex that is pulled, whose own work may have ended long ago.
        let source = &self.inputs[input].node;
        let prepared = self.prepared[input]
            .get_or_try_init(|| async {
                let again = Arc::new(Again::new(&source.report));
                let mut context = source.context();
                context.progress = VertexProgress::new(Arc::clone(&again) as _);
                let prepared = prepare.prepare(result.clone(), context).await;
                again.end(prepared.as_ref().err());
                prepared
            })
            .await;
        prepared
            .copied()
            .map_err(|error| self.input_failed(input, result, error))
    }

    fn input_failed(&self, input: usize, result: &R, error: OpError) -> OpError {
        Shown::begin(&self.report).end(kiln_errdefs::text(&error));
        let kept = Kept::new(result.clone());
        self.failed(Phase::Content { input }, Some(kept), error)
    }

    /// An error of this vertex.
    pub(crate) fn failed(&self, phase: Phase, input: Option<Kept>, source: OpError) -> OpError {
        SolveError::Vertex {
            vertex: self.report.any_digest().unwrap_or(self.vertex.digest),
            name: self.vertex.name(),
            phase,
            input,
            source,
        }
        .at(&self.vertex.options.locations)
    }

    /// Inputs that nobody had to work on were cached.
    pub(crate) fn show_unused_inputs(&self) {
        let mut pending: Vec<&Node<R>> = vec![self];
        while let Some(node) = pending.pop() {
            for input in &node.inputs {
                if !input.node.report.has_started() {
                    input.node.report.cached();
                    pending.push(&input.node);
                }
            }
        }
    }

    /// A session-local root key to be forgotten with the node.
    pub(crate) fn forget_later(&self, record: Digest) {
        self.session_roots.lock().push(record);
    }
}

impl<R: ResultValue> Drop for Node<R> {
    fn drop(&mut self) {
        self.core.forget(&self.key);
        for record in self.session_roots.get_mut() {
            self.core.options.keys.forget_root(record);
        }
        // Chains may be thousands of nodes long: inputs are let go one after the other.
        let mut pending = std::mem::take(&mut self.inputs);
        while let Some(input) = pending.pop() {
            if let Some(mut node) = Arc::into_inner(input.node) {
                pending.append(&mut node.inputs);
            }
        }
    }
}

/// Work on a vertex that has ended: it is shown as begun again once there is something to see.
struct Again {
    report: Arc<Report>,
    begun: Mutex<bool>,
}

impl Again {
    fn new(report: &Arc<Report>) -> Self {
        Self {
            report: Arc::clone(report),
            begun: Mutex::new(false),
        }
    }

    fn begin(&self) {
        let mut begun = self.begun.lock();
        if !*begun {
            *begun = true;
            self.report.started();
        }
    }

    fn end(&self, error: Option<&OpError>) {
        if std::mem::take(&mut *self.begun.lock()) {
            let text = error.map_or_else(String::new, |error| kiln_errdefs::text(error));
            self.report.completed(text);
        }
    }
}

impl Receiver for Again {
    fn status(&self, status: Status) {
        self.begin();
        self.report.status(status);
    }

    fn log(&self, stream: Stream, audience: Audience, bytes: Bytes) {
        self.begin();
        self.report.log(stream, audience, bytes);
    }

    fn is_behind(&self) -> bool {
        self.report.is_behind()
    }

    fn warn(&self, warning: Warning) {
        self.report.warn(warning);
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        if *self.begun.get_mut() {
            self.report.completed(SolveError::Cancelled.to_string());
        }
    }
}

/// Work that builds are shown. Dropped without an end it was stopped.
pub(crate) struct Shown {
    report: Option<Arc<Report>>,
}

impl Shown {
    pub(crate) fn begin(report: &Arc<Report>) -> Self {
        report.started();
        Self {
            report: Some(Arc::clone(report)),
        }
    }

    pub(crate) fn end(mut self, error: String) {
        if let Some(report) = self.report.take() {
            report.completed(error);
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report.completed(SolveError::Cancelled.to_string());
        }
    }
}
