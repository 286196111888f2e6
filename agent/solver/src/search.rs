//! The search for a key of an output that some cache has a result for.
//!
//! ```text
//!           for each input            what it costs
//!   fast    keys of the definition    nothing is evaluated
//!   slow    keys that the input       what the input's own search evaluates
//!           finds by its own search,
//!           some at a time
//!   content the hash of what the op   the input itself is evaluated
//!           reads of the input's result
//! ```
//!
//! Every input is taken to `fast`. Inputs that lead to no key yet go deeper first, each at its own pace
//! until it leads somewhere; only when each leads somewhere but not to the same key do the others
//! follow, the cheap step before the dear one. The search is over as soon as the inputs that can't go
//! deeper leave no key to be found: nothing more is hashed or evaluated than could give a hit. What was
//! being evaluated for it then is left in [`Pending`], for the run that needs it next.
//!
//! Invariants: a [`NoHit`] exists only for an output for which no cache has a result under any of its
//! keys, or whose cache is ignored; a step that is dropped midway can be taken again.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesUnordered;
use kiln_oci::Digest;

use crate::caches::{Caches, Found};
use crate::edge::{Done, Edge};
use crate::key::{KeyNode, Of, Way, Ways};
use crate::op::{CacheMap, OpError, ResultValue};
use crate::store::record_digest;

/// Proof that an output has to be made.
pub(crate) struct NoHit(());

impl NoHit {
    /// Whatever caches have, this output is made anew.
    pub(crate) fn because_cache_is_ignored<R: ResultValue>(edge: &Edge<R>) -> Option<Self> {
        edge.node().ignores_cache().then_some(Self(()))
    }
}

/// What a step led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// There may be new keys, and there is more to try.
    Deeper,
    /// All keys are known.
    Exhausted,
}

/// Evaluations of inputs that a search began and no longer needs. As long as this is held they go on.
pub(crate) struct Pending<R: ResultValue>(Vec<Advance<R>>);

impl<R: ResultValue> Pending<R> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits for `other` and takes the evaluations further meanwhile. They may hold what `other` waits
    /// for (the one who hashes an input's content), so they must not stand still beside it.
    pub(crate) async fn beside<T>(self, other: impl Future<Output = T>) -> T {
        let mut all: FuturesUnordered<Advance<R>> = self.0.into_iter().collect();
        let go_on = async {
            while all.next().await.is_some() {}
            std::future::pending().await
        };
        tokio::select! {
            outcome = other => outcome,
            never = go_on => never,
        }
    }
}

type Advance<R> = BoxFuture<'static, Result<(usize, Dep<R>), OpError>>;

/// How far an input has been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Fast,
    Slow,
    Content,
}

struct Dep<R: ResultValue> {
    level: Level,
    ways: Vec<Way<R>>,
    taken: HashSet<u64>,
    leads_to: BTreeSet<Found>,
}

impl<R: ResultValue> Clone for Dep<R> {
    fn clone(&self) -> Self {
        Self {
            level: self.level,
            ways: self.ways.clone(),
            taken: self.taken.clone(),
            leads_to: self.leads_to.clone(),
        }
    }
}

impl<R: ResultValue> Dep<R> {
    fn new() -> Self {
        Self {
            level: Level::Fast,
            ways: Vec::new(),
            taken: HashSet::new(),
            leads_to: BTreeSet::new(),
        }
    }
}

/// A search under way.
pub(crate) struct Search<R: ResultValue> {
    caches: Arc<Caches<R>>,
    kind: Kind<R>,
    exhausted: bool,
}

enum Kind<R: ResultValue> {
    /// No inputs: one key per cache map.
    Root { next: usize, complete: bool },
    /// One key per set of links.
    Inner(Inner<R>),
}

struct Inner<R: ResultValue> {
    map: Arc<CacheMap<R>>,
    record: Digest,
    deps: Vec<Dep<R>>,
}

impl<R: ResultValue> Search<R> {
    /// Begins with what is known without evaluating anything.
    pub(crate) async fn begin(edge: &Edge<R>) -> Result<Self, OpError> {
        let caches = Arc::new(edge.node().caches());
        if edge.node().inputs.is_empty() {
            let mut search = Self {
                caches,
                kind: Kind::Root {
                    next: 0,
                    complete: false,
                },
                exhausted: false,
            };
            while search.step(edge).await? == Step::Deeper && !edge.has_record() {}
            return Ok(search);
        }
        let inputs = &edge.node().inputs;
        let keys = async { Ok(join_all(inputs.iter().map(|input| fast(input.edge()))).await) };
        let ((map, _), keys) = tokio::try_join!(edge.node().map(0), keys)?;
        let mut inner = Inner {
            record: record_digest(&map.digest, edge.output() as i64),
            map,
            deps: inputs.iter().map(|_| Dep::new()).collect(),
        };
        for (input, keys) in keys.into_iter().enumerate() {
            let keys = keys?;
            inner.absorb(&caches, input, keys, None);
        }
        inner.refresh(&caches, edge);
        Ok(Self {
            caches,
            kind: Kind::Inner(inner),
            exhausted: false,
        })
    }

    /// Goes one step deeper.
    pub(crate) async fn step(&mut self, edge: &Edge<R>) -> Result<Step, OpError> {
        let step = self.deeper(edge).await?;
        self.exhausted |= step == Step::Exhausted;
        Ok(step)
    }

    /// The proof, once the search is exhausted.
    pub(crate) fn no_hit(&self) -> Option<NoHit> {
        self.exhausted.then_some(NoHit(()))
    }

    async fn deeper(&mut self, edge: &Edge<R>) -> Result<Step, OpError> {
        match &mut self.kind {
            Kind::Root { next, complete } => {
                if *complete {
                    return Ok(Step::Exhausted);
                }
                let (map, last) = edge.node().map(*next).await?;
                *next += 1;
                *complete = last;
                let root = edge.root_node(&map);
                self.caches.look_up(&root);
                edge.learn(vec![root]);
                Ok(Step::Deeper)
            }
            Kind::Inner(inner) => inner.step(&self.caches, edge).await,
        }
    }

    /// Takes in what became known by making all inputs. Afterwards every key is known.
    pub(crate) fn finish(&mut self, edge: &Edge<R>, inputs: &[InputMade<R>]) {
        if let Kind::Inner(inner) = &mut self.kind {
            for (input, made) in inputs.iter().enumerate() {
                let keys = made.keys(edge, input);
                inner.absorb(&self.caches, input, keys, made.content.as_ref());
                inner.deps[input].level = Level::Content;
            }
            inner.refresh(&self.caches, edge);
        }
    }
}

/// An input that was made, with its content's key where the op has one.
pub(crate) struct InputMade<R: ResultValue> {
    pub(crate) done: Arc<Done<R>>,
    pub(crate) content: Option<Arc<KeyNode<R>>>,
}

impl<R: ResultValue> InputMade<R> {
    /// The keys by which a search may know the input. One whose cache is ignored is known by its
    /// content only, or old results would be found through it.
    fn keys(&self, edge: &Edge<R>, input: usize) -> Vec<Arc<KeyNode<R>>> {
        if edge.node().inputs[input].node.ignores_cache() {
            return Vec::new();
        }
        self.done.nodes.clone()
    }

    /// Every way from the input: what the output's key will be linked to.
    pub(crate) fn ways(&self, selector: Option<Digest>) -> Vec<Way<R>> {
        let keys = self.done.nodes.iter().map(|node| Way {
            selector,
            node: Arc::clone(node),
        });
        let content = self.content.iter().map(|node| Way {
            selector: None,
            node: Arc::clone(node),
        });
        keys.chain(content).collect()
    }
}

impl<R: ResultValue> Dep<R> {
    fn absorb(
        &mut self,
        caches: &Caches<R>,
        key: &KeyOf<'_>,
        keys: Vec<Arc<KeyNode<R>>>,
        content: Option<&Arc<KeyNode<R>>>,
    ) {
        let before = self.ways.len();
        for node in keys {
            if self.taken.insert(node.number) {
                let selector = key.selector;
                self.ways.push(Way { selector, node });
            }
        }
        if let Some(node) = content {
            let known = self
                .ways
                .iter()
                .any(|way| way.selector.is_none() && way.node.record == node.record);
            if !known {
                self.ways.push(Way {
                    selector: None,
                    node: Arc::clone(node),
                });
            }
        }
        if self.ways.len() > before {
            self.leads_to = caches.query(&self.ways, key.input as u32, key.record);
        }
    }
}

/// What the links from an input to the output are made of.
struct KeyOf<'a> {
    input: usize,
    selector: Option<Digest>,
    record: &'a Digest,
}

impl<R: ResultValue> Inner<R> {
    fn absorb(
        &mut self,
        caches: &Caches<R>,
        input: usize,
        keys: Vec<Arc<KeyNode<R>>>,
        content: Option<&Arc<KeyNode<R>>>,
    ) {
        let key = KeyOf {
            input,
            selector: self.map.inputs[input].selector,
            record: &self.record,
        };
        self.deps[input].absorb(caches, &key, keys, content);
    }

    /// Makes nodes of the keys that all inputs lead to by now.
    fn refresh(&self, caches: &Caches<R>, edge: &Edge<R>) {
        let new: Vec<Found> = intersection(self.deps.iter())
            .into_iter()
            .filter(|found| !edge.knows(found))
            .collect();
        if new.is_empty() {
            return;
        }
        let ways: Ways<R> = Arc::new(self.deps.iter().map(|dep| dep.ways.clone()).collect());
        let of: Of = edge.of();
        edge.learn_found(new.into_iter().map(|found| {
            let node = caches.node(found, self.record, of, Arc::clone(&ways));
            (found, node)
        }));
    }

    /// Whether the inputs that can't go deeper leave no key that isn't known.
    fn is_over(&self, edge: &Edge<R>) -> bool {
        let mut closed = (0..self.deps.len())
            .filter(|input| !can_go_deeper(&self.map, *input, self.deps[*input].level))
            .map(|input| &self.deps[input])
            .peekable();
        closed.peek().is_some() && intersection(closed).iter().all(|found| edge.knows(found))
    }

    /// The inputs to take deeper now, and whether each goes on until it leads somewhere.
    fn next(&self) -> (Vec<usize>, bool) {
        let open = (0..self.deps.len())
            .filter(|input| can_go_deeper(&self.map, *input, self.deps[*input].level));
        let (lost, open): (Vec<usize>, Vec<usize>) =
            open.partition(|input| self.deps[*input].leads_to.is_empty());
        if !lost.is_empty() {
            return (lost, true);
        }
        let lowest = open.iter().map(|input| self.deps[*input].level).min();
        let lowest = open
            .into_iter()
            .filter(|input| Some(self.deps[*input].level) == lowest);
        (lowest.collect(), false)
    }

    async fn step(&mut self, caches: &Arc<Caches<R>>, edge: &Edge<R>) -> Result<Step, OpError> {
        if self.is_over(edge) {
            return Ok(Step::Exhausted);
        }
        let (next, until_found) = self.next();
        let mut advancing: FuturesUnordered<Advance<R>> = next
            .into_iter()
            .map(|input| -> Advance<R> {
                Box::pin(advance(
                    edge.clone(),
                    Arc::clone(caches),
                    Arc::clone(&self.map),
                    self.record,
                    input,
                    self.deps[input].clone(),
                    until_found,
                ))
            })
            .collect();
        while let Some(advanced) = advancing.next().await {
            let (input, dep) = advanced?;
            self.deps[input] = dep;
            self.refresh(caches, edge);
            if self.is_over(edge) {
                edge.leave_pending(Pending(advancing.into_iter().collect()));
                return Ok(Step::Exhausted);
            }
            if edge.has_record() {
                break;
            }
        }
        Ok(Step::Deeper)
    }
}

fn can_go_deeper<R: ResultValue>(map: &CacheMap<R>, input: usize, level: Level) -> bool {
    match level {
        Level::Fast => true,
        Level::Slow => map.inputs[input].content.is_some(),
        Level::Content => false,
    }
}

async fn fast<R: ResultValue>(edge: Edge<R>) -> Result<Vec<Arc<KeyNode<R>>>, OpError> {
    edge.fast_keys().await
}

/// Takes one input a level deeper, or on until it leads to some key.
async fn advance<R: ResultValue>(
    edge: Edge<R>,
    caches: Arc<Caches<R>>,
    map: Arc<CacheMap<R>>,
    record: Digest,
    input: usize,
    mut dep: Dep<R>,
    until_found: bool,
) -> Result<(usize, Dep<R>), OpError> {
    let key = KeyOf {
        input,
        selector: map.inputs[input].selector,
        record: &record,
    };
    let source = edge.node().inputs[input].edge();
    loop {
        if dep.level == Level::Fast {
            let (keys, all) = source.more_keys(dep.taken.len()).await?;
            if all {
                dep.level = Level::Slow;
            }
            dep.absorb(&caches, &key, keys, None);
        } else {
            let done = source.result().await?;
            edge.node().prepare(&map, input, &done.result).await?;
            let content = edge.node().content(&map, input, &done.result).await?;
            let made = InputMade {
                done,
                content: content.as_ref().map(KeyNode::content),
            };
            dep.level = Level::Content;
            dep.absorb(
                &caches,
                &key,
                made.keys(&edge, input),
                made.content.as_ref(),
            );
        }
        if !until_found || !dep.leads_to.is_empty() || !can_go_deeper(&map, input, dep.level) {
            return Ok((input, dep));
        }
    }
}

/// Keys that all of `deps` lead to.
fn intersection<'a, R: ResultValue>(mut deps: impl Iterator<Item = &'a Dep<R>>) -> BTreeSet<Found> {
    let Some(first) = deps.next() else {
        return BTreeSet::new();
    };
    let mut common = first.leads_to.clone();
    for dep in deps {
        common.retain(|found| dep.leads_to.contains(found));
    }
    common
}
