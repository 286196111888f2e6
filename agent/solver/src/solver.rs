//! The solver and the builds that use it.

use std::sync::Arc;

use kiln_errdefs::{Kind, WithDetail};
use kiln_ids::{BuildRef, SessionId};
use kiln_llb::{Edge, Vertex};
use kiln_oci::Digest;
use kiln_progress::BuildReceiver;
use parking_lot::Mutex;

use crate::core::Core;
use crate::edge::Done;
use crate::error::SolveError;
use crate::export::{self, ExportOptions, ExportRecord, ExportTarget};
use crate::import::CacheSource;
use crate::node::{Host, Node};
use crate::op::{Op, OpContext, OpError, OpResolver, ResultStore, ResultValue};
use crate::report::BuildHandle;
use crate::store::KeyStore;

/// What a solver works with.
pub struct SolverOptions<R: ResultValue> {
    /// Makes ops.
    pub resolver: Arc<dyn OpResolver<R>>,
    /// Keeps results between builds.
    pub results: Arc<dyn ResultStore<R>>,
    /// Keeps keys between builds.
    pub keys: Arc<dyn KeyStore>,
    /// How many ops may run at once in the whole daemon; no limit where absent. Builds take turns.
    pub max_parallel: Option<usize>,
}

/// The graph engine of a daemon. Cheap to clone.
pub struct Solver<R: ResultValue> {
    core: Arc<Core<R>>,
}

/// A build's part of the graph. Dropping it takes the build off its vertices: work that no other build
/// waits for stops, and results that no other build holds are let go.
pub struct Job<R: ResultValue> {
    core: Arc<Core<R>>,
    name: BuildRef,
    handle: Arc<BuildHandle>,
    /// Inputs before what is made from them.
    nodes: Mutex<Vec<Loaded<R>>>,
}

/// A node with the vertex by which the build knows it.
type Loaded<R> = (Arc<Node<R>>, Arc<Vertex>);

/// What came to be known of a vertex while a build needed it.
pub struct VertexFacts<R: ResultValue> {
    /// As the build knows it.
    pub vertex: Arc<Vertex>,
    /// What the op turned out to stand for.
    pub pin: Option<String>,
    /// The digest of what is read of each input, where it was computed.
    pub contents: Vec<Option<Digest>>,
    /// A result with the number of its output, where there is one.
    pub result: Option<(usize, R)>,
}

/// A result with the keys that it is known by.
pub struct CachedResult<R: ResultValue> {
    pub(crate) done: Arc<Done<R>>,
}

impl<R: ResultValue> Solver<R> {
    /// A solver.
    pub fn new(options: SolverOptions<R>) -> Self {
        Self {
            core: Core::new(options),
        }
    }

    /// Starts a build. Its progress goes to `receiver`. A second build of the same name is refused.
    pub fn job(
        &self,
        build: BuildRef,
        session: SessionId,
        receiver: Arc<dyn BuildReceiver>,
    ) -> Result<Job<R>, OpError> {
        if !self.core.builds.lock().insert(build.clone()) {
            return Err(SolveError::BuildExists(build).shared());
        }
        Ok(Job {
            core: Arc::clone(&self.core),
            name: build.clone(),
            handle: Arc::new(BuildHandle {
                number: self.core.next_build(),
                name: build,
                session,
                receiver,
            }),
            nodes: Mutex::default(),
        })
    }

    /// Builds `edge` as part of the vertex whose op runs in `cx`: for the builds that wait for that
    /// vertex, with their sessions, progress and imported caches. The ops behind it stay active as
    /// long as the vertex.
    pub async fn nested(&self, cx: &OpContext, edge: &Edge) -> Result<CachedResult<R>, OpError> {
        let host = cx.vertex.clone().and_then(|host| host.downcast().ok());
        let Some(host): Option<Arc<Host<R>>> = host else {
            let message = "a nested build needs the context of a running vertex";
            return Err(WithDetail::message(Kind::Internal, message).shared());
        };
        let loaded = self.core.load(&edge.vertex);
        let top = loaded.last().map(|(node, _)| Arc::clone(node));
        let imports = host.node.imports();
        for (node, vertex) in loaded {
            for report in host.members.reports() {
                for build in report.builds() {
                    node.attach(&build, &vertex, &imports);
                }
            }
            host.node.nested.lock().push(node);
        }
        let built = result(top, edge).await?;
        // One is enough: each leads to all that the result was made from.
        host.inside.lock().extend(built.done.nodes.first().cloned());
        Ok(built)
    }

    /// The result store let go of a result: its keys go, too.
    pub fn release_result(&self, id: &str) {
        self.core.options.keys.release(id);
    }

    /// The records of `results` and of what they were made from.
    pub async fn export<T: ExportTarget<R>>(
        &self,
        results: &[CachedResult<R>],
        target: &T,
        options: ExportOptions,
    ) -> Result<Vec<ExportRecord<T::Remote>>, OpError> {
        let keys = self.core.options.keys.as_ref();
        let stored = self.core.options.results.as_ref();
        export::walk(results, keys, stored, target, options).await
    }

    /// How many vertices are active: needed by some build, or still winding up.
    pub fn active_vertices(&self) -> usize {
        self.core.active_nodes()
    }

    /// Waits for all work to end. The jobs must be dropped first.
    pub async fn close(&self) {
        self.core.tasks.close();
        self.core.tasks.wait().await;
        self.core.tasks.reopen();
    }
}

async fn result<R: ResultValue>(
    node: Option<Arc<Node<R>>>,
    edge: &Edge,
) -> Result<CachedResult<R>, OpError> {
    let Some(node) = node else {
        return Err(SolveError::Panicked.shared());
    };
    let done = node.edge(edge.index).result().await?;
    Ok(CachedResult { done })
}

impl<R: ResultValue> Job<R> {
    /// Makes the result of `edge`, or finds it in a cache. Dropping the future stops what nobody else
    /// waits for.
    pub async fn build(&self, edge: &Edge) -> Result<CachedResult<R>, OpError> {
        self.build_with(edge, &[]).await
    }

    /// As [`Job::build`], asking imported caches too.
    pub async fn build_with(
        &self,
        edge: &Edge,
        imports: &[Arc<dyn CacheSource<R>>],
    ) -> Result<CachedResult<R>, OpError> {
        let loaded = self.core.load(&edge.vertex);
        let top = loaded.last().map(|(node, _)| Arc::clone(node));
        // Consumers are announced after their inputs, as they were declared.
        for (node, vertex) in &loaded {
            node.attach(&self.handle, vertex, imports);
        }
        self.nodes.lock().extend(loaded);
        result(top, edge).await
    }

    /// What is known of the build's vertices at this moment, inputs first.
    pub fn facts(&self) -> Vec<VertexFacts<R>> {
        let nodes = self.nodes.lock().clone();
        let mut seen = std::collections::HashSet::new();
        nodes
            .into_iter()
            .filter(|(_, vertex)| seen.insert(vertex.digest))
            .map(|(node, vertex)| VertexFacts {
                pin: node.made_op().and_then(|op| op.pin()),
                contents: node.known_contents(),
                result: node.any_result(),
                vertex,
            })
            .collect()
    }

    /// The ops behind `edge`, inputs first, as far as they have been made: for provenance.
    pub fn ops(&self, edge: &Edge) -> Vec<(Arc<Vertex>, Arc<dyn Op<R>>)> {
        let loaded = self.core.load(&edge.vertex);
        loaded
            .into_iter()
            .filter_map(|(node, vertex)| Some((vertex, node.made_op()?)))
            .collect()
    }
}

impl<R: ResultValue> Drop for Job<R> {
    fn drop(&mut self) {
        self.core.builds.lock().remove(&self.name);
        let nodes = self.nodes.get_mut();
        for (node, _) in nodes.iter() {
            node.detach(self.handle.number);
        }
        // Consumers go before their inputs, so that no chain is dropped recursively.
        while nodes.pop().is_some() {}
    }
}

impl<R: ResultValue> CachedResult<R> {
    /// The result.
    pub fn result(&self) -> &R {
        &self.done.result
    }

    /// Record digests of the keys that the result is known by.
    pub fn keys(&self) -> Vec<Digest> {
        self.done.nodes.iter().map(|node| node.record).collect()
    }
}

impl<R: ResultValue> Clone for Solver<R> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
        }
    }
}

impl<R: ResultValue> Clone for CachedResult<R> {
    fn clone(&self) -> Self {
        Self {
            done: Arc::clone(&self.done),
        }
    }
}

impl<R: ResultValue> std::fmt::Debug for Solver<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Solver")
            .field("active", &self.active_vertices())
            .finish_non_exhaustive()
    }
}

impl<R: ResultValue> std::fmt::Debug for Job<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<R: ResultValue> std::fmt::Debug for VertexFacts<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VertexFacts")
            .field("vertex", &self.vertex.digest)
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

impl<R: ResultValue> std::fmt::Debug for CachedResult<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedResult")
            .field("result", self.result())
            .field("keys", &self.keys())
            .finish()
    }
}

impl<R: ResultValue> std::fmt::Debug for SolverOptions<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SolverOptions")
            .field("max_parallel", &self.max_parallel)
            .finish_non_exhaustive()
    }
}
