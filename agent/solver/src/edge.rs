//! One output of a vertex: its one owner in the active graph.
//!
//! ```text
//!   fast keys ──► more keys ─────────────► (what consumers search with)
//!       │             │
//!       └──► hit? ────┴──► hit? ──► NoHit ──► run ──► Done
//!             └───── load ◄─┘                          ▲
//!                      └───────────────────────────────┘
//! ```
//!
//! Each phase is done once for all who wait for it ([`Memo`]) and stops when none is left. The phases
//! are types: only a finished [`Search`] gives the [`NoHit`] without which nothing runs, and only a
//! load or a run gives a [`Done`].
//!
//! Invariants: keys are only ever added; consumers of an output whose cache is ignored get no keys
//! to search with.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::caches::Found;
use crate::key::{KeyNode, Of, Origin, Record};
use crate::memo::Memo;
use crate::node::Node;
use crate::op::{CacheMap, OpError, ResultValue};
use crate::run;
use crate::search::{NoHit, Pending, Search, Step};

/// How long evaluations that a search began wait for the run that needs them. The run follows at once,
/// unless the output turns out not to be needed.
const LINGER: Duration = Duration::from_secs(1);

type Keys<R> = Vec<Arc<KeyNode<R>>>;

/// A result, and the keys that it is known by.
pub(crate) struct Done<R: ResultValue> {
    pub(crate) result: R,
    /// The keys that outputs made from it are linked to, and that exports begin at.
    pub(crate) nodes: Vec<Arc<KeyNode<R>>>,
}

/// What outlives the handles on an edge.
pub(crate) struct EdgeState<R: ResultValue> {
    known: Mutex<Known<R>>,
    search: tokio::sync::Mutex<Option<Search<R>>>,
    /// With the end of the wait for a run that takes it.
    pending: Mutex<Option<(Pending<R>, DropGuard)>>,
    step: Memo<Step>,
    fast: Memo<()>,
    done: Memo<Arc<Done<R>>>,
}

struct Known<R: ResultValue> {
    nodes: Vec<Arc<KeyNode<R>>>,
    found: HashSet<Found>,
    /// Results that couldn't be loaded.
    lost: HashSet<(bool, String)>,
}

impl<R: ResultValue> Default for EdgeState<R> {
    fn default() -> Self {
        Self {
            known: Mutex::new(Known {
                nodes: Vec::new(),
                found: HashSet::new(),
                lost: HashSet::new(),
            }),
            search: tokio::sync::Mutex::default(),
            pending: Mutex::default(),
            step: Memo::default(),
            fast: Memo::default(),
            done: Memo::default(),
        }
    }
}

impl<R: ResultValue> EdgeState<R> {
    /// The result, if it is made.
    pub(crate) fn made(&self) -> Option<R> {
        self.done.done().map(|done| done.result.clone())
    }

    pub(crate) fn forget_failures(&self) {
        self.fast.forget_failure();
        self.done.forget_failure();
    }
}

/// A handle on an output.
pub(crate) struct Edge<R: ResultValue> {
    node: Arc<Node<R>>,
    output: usize,
    state: Arc<EdgeState<R>>,
}

impl<R: ResultValue> Clone for Edge<R> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.node), self.output, Arc::clone(&self.state))
    }
}

impl<R: ResultValue> Edge<R> {
    pub(crate) fn new(node: Arc<Node<R>>, output: usize, state: Arc<EdgeState<R>>) -> Self {
        Self {
            node,
            output,
            state,
        }
    }

    pub(crate) fn node(&self) -> &Arc<Node<R>> {
        &self.node
    }

    pub(crate) fn output(&self) -> usize {
        self.output
    }

    pub(crate) fn of(&self) -> Of {
        Of {
            vertex: self.node.vertex.digest,
            output: self.output,
            export: self.node.vertex.options.export_cache,
        }
    }

    /// The root key that a cache map of an op without inputs stands for.
    pub(crate) fn root_node(&self, map: &CacheMap<R>) -> Arc<KeyNode<R>> {
        let node = KeyNode::root(&map.digest, self.output, map.session_local, self.of());
        if map.session_local {
            self.node.forget_later(node.record);
        }
        node
    }

    /// Keys that are known without evaluating anything.
    pub(crate) fn fast_keys(&self) -> BoxFuture<'_, Result<Vec<Arc<KeyNode<R>>>, OpError>> {
        Box::pin(async move {
            if self.node.ignores_cache() {
                return Ok(Vec::new());
            }
            if self.state.done.done().is_none() {
                self.probe().await?;
            }
            Ok(self.keys())
        })
    }

    async fn probe(&self) -> Result<(), OpError> {
        let work = || {
            let edge = self.clone();
            async move {
                let mut search = edge.state.search.lock().await;
                if search.is_none() {
                    *search = Some(Search::begin(&edge).await?);
                }
                Ok(())
            }
        };
        self.state.fast.get(&self.node.core.tasks, work).await
    }

    /// The keys, once they are more than `known`, and whether there can be no more without making the
    /// output itself. The search goes no deeper than that: what it would evaluate for further keys may
    /// not be needed.
    pub(crate) fn more_keys(
        &self,
        known: usize,
    ) -> BoxFuture<'_, Result<(Keys<R>, bool), OpError>> {
        Box::pin(async move {
            if self.node.ignores_cache() {
                return Ok((Vec::new(), true));
            }
            if self.state.done.done().is_none() {
                self.probe().await?;
            }
            loop {
                let keys = self.keys();
                if self.state.done.done().is_some() {
                    return Ok((self.keys(), true));
                }
                if keys.len() > known {
                    return Ok((keys, false));
                }
                if self.step().await? == Step::Exhausted {
                    return Ok((self.keys(), true));
                }
            }
        })
    }

    /// Takes the search one step deeper. All who want that at one time share the step: what it evaluates
    /// goes on as long as one of them waits.
    async fn step(&self) -> Result<Step, OpError> {
        let work = || {
            let edge = self.clone();
            async move {
                let mut search = edge.state.search.lock().await;
                let begun = match &mut *search {
                    Some(begun) => begun,
                    none => none.insert(Search::begin(&edge).await?),
                };
                begun.step(&edge).await
            }
        };
        self.state.step.pass(&self.node.core.tasks, work).await
    }

    /// Keeps evaluations going that the search began: the output's run will need them. Where no run
    /// follows soon they are let go.
    pub(crate) fn leave_pending(&self, pending: Pending<R>) {
        if pending.is_empty() {
            return;
        }
        let taken = CancellationToken::new();
        let guard = taken.clone().drop_guard();
        *self.state.pending.lock() = Some((pending, guard));
        let state = Arc::downgrade(&self.state);
        self.node.core.tasks.spawn(async move {
            let over = tokio::time::timeout(LINGER, taken.cancelled())
                .await
                .is_err();
            if let Some(state) = state.upgrade().filter(|_| over) {
                let pending = state.pending.lock().take();
                drop(pending);
            }
        });
    }

    pub(crate) fn take_pending(&self) -> Option<Pending<R>> {
        let pending = self.state.pending.lock().take();
        pending.map(|(pending, _)| pending)
    }

    /// The output, from a cache or made.
    pub(crate) fn result(&self) -> BoxFuture<'_, Result<Arc<Done<R>>, OpError>> {
        Box::pin(async move {
            let work = || {
                let edge = self.clone();
                async move { edge.make().await.map(Arc::new) }
            };
            self.state.done.get(&self.node.core.tasks, work).await
        })
    }

    async fn make(self) -> Result<Done<R>, OpError> {
        if let Some(no_hit) = NoHit::because_cache_is_ignored(&self) {
            return run::run(self, no_hit).await;
        }
        self.probe().await?;
        loop {
            if let Some(done) = self.load_known().await {
                return Ok(done);
            }
            if self.step().await? == Step::Exhausted {
                let search = self.state.search.lock().await;
                let no_hit = search.as_ref().and_then(Search::no_hit);
                drop(search);
                if let Some(no_hit) = no_hit {
                    return run::run(self, no_hit).await;
                }
            }
        }
    }

    /// Tells the search that all inputs are made; see [`Search::finish`].
    pub(crate) async fn finish_search(&self, finish: impl FnOnce(&mut Search<R>)) {
        let mut search = self.state.search.lock().await;
        if let Some(search) = search.as_mut() {
            finish(search);
        }
    }

    /// Loads the best result of the keys that are known. One that can't be loaded is a miss.
    pub(crate) async fn load_known(&self) -> Option<Done<R>> {
        while let Some((node, record)) = self.best() {
            let caches = self.node.caches();
            let loaded = caches.load(&node, &record, self.node.context()).await;
            match loaded {
                Ok(Some(result)) => {
                    self.node.report.cached();
                    self.node.show_unused_inputs();
                    return Some(self.hit(node, &record, result));
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    vertex = %self.node.vertex.digest,
                    result = record.id,
                    error = kiln_errdefs::text(&error),
                    "a cached result could not be loaded"
                ),
            }
            self.state.known.lock().lost.insert(lost(&record));
        }
        None
    }

    fn hit(&self, node: Arc<KeyNode<R>>, record: &Record<R>, result: R) -> Done<R> {
        if !self.node.inputs.is_empty() {
            return Done {
                result,
                nodes: vec![node],
            };
        }
        // Every cache map of a source names the same content: the ones that were asked before the one
        // that hit are hits from now on.
        let nodes = self.keys();
        if matches!(record.origin, Origin::Own) {
            let caches = self.node.caches();
            for other in &nodes {
                if !other.session_local && !Arc::ptr_eq(other, &node) {
                    caches.record(other, record.id.clone(), record.created);
                }
            }
        }
        Done { result, nodes }
    }

    fn best(&self) -> Option<(Arc<KeyNode<R>>, Record<R>)> {
        let known = self.state.known.lock();
        let mut best: Option<(Arc<KeyNode<R>>, Record<R>)> = None;
        for node in &known.nodes {
            for record in node.records() {
                let is_better = best.as_ref().is_none_or(|(_, best)| {
                    let rank =
                        |record: &Record<R>| (record.created, matches!(record.origin, Origin::Own));
                    rank(&record) > rank(best)
                });
                if is_better && !known.lost.contains(&lost(&record)) {
                    best = Some((Arc::clone(node), record));
                }
            }
        }
        best
    }

    /// Whether some key that is known has a result.
    pub(crate) fn has_record(&self) -> bool {
        self.best().is_some()
    }

    pub(crate) fn keys(&self) -> Vec<Arc<KeyNode<R>>> {
        self.state.known.lock().nodes.clone()
    }

    pub(crate) fn knows(&self, found: &Found) -> bool {
        self.state.known.lock().found.contains(found)
    }

    /// Adds keys that were found in caches.
    pub(crate) fn learn_found(&self, nodes: impl Iterator<Item = (Found, Arc<KeyNode<R>>)>) {
        let mut known = self.state.known.lock();
        for (found, node) in nodes {
            if known.found.insert(found) {
                known.nodes.push(node);
            }
        }
    }

    /// Adds keys that belong to the output whether a cache has them or not.
    pub(crate) fn learn(&self, nodes: Vec<Arc<KeyNode<R>>>) {
        let mut known = self.state.known.lock();
        for node in nodes {
            if !known
                .nodes
                .iter()
                .any(|other| node.is_root() && other.is_root() && other.record == node.record)
            {
                known.nodes.push(node);
            }
        }
    }
}

fn lost<R: ResultValue>(record: &Record<R>) -> (bool, String) {
    (matches!(record.origin, Origin::Own), record.id.clone())
}
