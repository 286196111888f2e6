//! A key of an output as a search or a run came to know it, with the way that led there.
//!
//! A node is one key in one store (a root key: the same in all). `ways` are the nodes of the inputs
//! that were known when the node was found: from them an imported chain is written into the daemon's
//! own store, and an export finds what to take along. What was built inside of the output's op is behind `inside`,
//! for exports alone.
//!
//! Invariant: a node without ways is a root key; chains may be long, so nothing here recurses.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use kiln_oci::Digest;
use parking_lot::RwLock;

use crate::import::CacheSource;
use crate::op::ResultValue;
use crate::store::{InputRef, KeyId, KeyRef, KeyStore, StoredResult, record_digest};

/// A key of an input with the selector under which it enters the key of the output.
pub(crate) struct Way<R: ResultValue> {
    pub(crate) selector: Option<Digest>,
    pub(crate) node: Arc<KeyNode<R>>,
}

impl<R: ResultValue> Clone for Way<R> {
    fn clone(&self) -> Self {
        Self {
            selector: self.selector,
            node: Arc::clone(&self.node),
        }
    }
}

/// The keys of each input.
pub(crate) type Ways<R> = Arc<Vec<Vec<Way<R>>>>;

/// Where a result is found.
pub(crate) enum Origin<R: ResultValue> {
    /// In the daemon's own cache.
    Own,
    /// In an imported one.
    Imported {
        source: Arc<dyn CacheSource<R>>,
        key: KeyId,
    },
}

impl<R: ResultValue> Clone for Origin<R> {
    fn clone(&self) -> Self {
        match self {
            Self::Own => Self::Own,
            Self::Imported { source, key } => Self::Imported {
                source: Arc::clone(source),
                key: *key,
            },
        }
    }
}

/// A result under a node's key.
pub(crate) struct Record<R: ResultValue> {
    pub(crate) origin: Origin<R>,
    pub(crate) id: String,
    pub(crate) created: SystemTime,
}

impl<R: ResultValue> Clone for Record<R> {
    fn clone(&self) -> Self {
        Self {
            origin: self.origin.clone(),
            id: self.id.clone(),
            created: self.created,
        }
    }
}

/// What a node is a key of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of {
    pub(crate) vertex: Digest,
    pub(crate) output: usize,
    /// What the client said of exporting the vertex.
    pub(crate) export: Option<bool>,
}

/// See the module.
pub(crate) struct KeyNode<R: ResultValue> {
    /// Tells nodes from each other in tables.
    pub(crate) number: u64,
    pub(crate) record: Digest,
    pub(crate) session_local: bool,
    pub(crate) of: Option<Of>,
    pub(crate) ways: Ways<R>,
    /// Keys of what was built inside of the op, if this run made it.
    pub(crate) inside: Vec<Arc<KeyNode<R>>>,
    own: RwLock<Option<KeyId>>,
    imported: Vec<(Arc<dyn CacheSource<R>>, KeyId)>,
    records: RwLock<Vec<Record<R>>>,
}

impl<R: ResultValue> KeyNode<R> {
    /// A root key.
    pub(crate) fn root(op: &Digest, output: usize, session_local: bool, of: Of) -> Arc<Self> {
        let record = record_digest(op, output as i64);
        Arc::new(Self::new(record, session_local, Some(of), Arc::default()))
    }

    /// The key of a content.
    pub(crate) fn content(digest: &Digest) -> Arc<Self> {
        let record = record_digest(digest, -1);
        Arc::new(Self::new(record, false, None, Arc::default()))
    }

    /// A key with inputs, of the daemon's own or of nobody yet.
    pub(crate) fn inner(record: Digest, of: Of, ways: Ways<R>, own: Option<KeyId>) -> Self {
        let node = Self::new(record, false, Some(of), ways);
        node.set_own(own);
        node
    }

    /// A key with inputs of what a run made, with what was built inside of it.
    pub(crate) fn of_run(record: Digest, of: Of, ways: Ways<R>, inside: Vec<Arc<Self>>) -> Self {
        let mut node = Self::new(record, false, Some(of), ways);
        node.inside = inside;
        node
    }

    /// A key with inputs in an imported cache.
    pub(crate) fn inner_of(
        record: Digest,
        of: Of,
        ways: Ways<R>,
        source: Arc<dyn CacheSource<R>>,
        key: KeyId,
    ) -> Self {
        let mut node = Self::new(record, false, Some(of), ways);
        node.imported.push((source, key));
        node
    }

    fn new(record: Digest, session_local: bool, of: Option<Of>, ways: Ways<R>) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self {
            number: LAST.fetch_add(1, Ordering::Relaxed),
            record,
            session_local,
            of,
            ways,
            inside: Vec::new(),
            own: RwLock::default(),
            imported: Vec::new(),
            records: RwLock::default(),
        }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.ways.is_empty()
    }

    /// The key in the daemon's own store, if it has one there.
    pub(crate) fn own(&self) -> Option<KeyRef> {
        if self.is_root() {
            return Some(KeyRef::Root {
                record: self.record,
                session_local: self.session_local,
            });
        }
        self.own.read().map(KeyRef::Id)
    }

    fn set_own(&self, key: Option<KeyId>) {
        *self.own.write() = key;
    }

    /// The key in an imported cache.
    pub(crate) fn key_in(&self, source: &Arc<dyn CacheSource<R>>) -> Option<KeyId> {
        if self.is_root() {
            return source.root(&self.record);
        }
        let known = self
            .imported
            .iter()
            .find(|(known, _)| Arc::ptr_eq(known, source));
        known.map(|(_, key)| *key)
    }

    /// The key in imported caches, where it isn't a root key.
    pub(crate) fn imported(&self) -> &[(Arc<dyn CacheSource<R>>, KeyId)] {
        &self.imported
    }

    /// The results that were found when the node was.
    pub(crate) fn records(&self) -> Vec<Record<R>> {
        self.records.read().clone()
    }

    pub(crate) fn set_records(&self, records: Vec<Record<R>>) {
        *self.records.write() = records;
    }

    /// Adds a result that the daemon has by now.
    pub(crate) fn add_record(&self, record: Record<R>) {
        self.records.write().insert(0, record);
    }

    /// Writes the key, and the keys that it is made from, into the daemon's own store, with a result if
    /// given. Returns its name there.
    pub(crate) fn persist(
        self: &Arc<Self>,
        keys: &dyn KeyStore,
        result: Option<&StoredResult>,
    ) -> KeyRef {
        // Inputs first; a node is written again only where the store has removed it meanwhile.
        let mut seen: HashSet<u64> = HashSet::new();
        let mut pending = vec![(Arc::clone(self), false)];
        let mut last = None;
        while let Some((node, inputs_done)) = pending.pop() {
            let is_self = Arc::ptr_eq(&node, self);
            if !inputs_done {
                let there = node.own().is_some_and(|own| keys.exists(own));
                if (there && !is_self) || !seen.insert(node.number) {
                    continue;
                }
                pending.push((Arc::clone(&node), true));
                for way in node.ways.iter().flatten() {
                    pending.push((Arc::clone(&way.node), false));
                }
                continue;
            }
            let inputs: Vec<Vec<InputRef>> =
                node.ways.iter().map(|ways| own_refs(ways.iter())).collect();
            let result = result.filter(|_| is_self).cloned();
            if node.is_root() {
                // Root keys are made by the links from them, or with their result.
                if let Some(result) = result
                    && !node.session_local
                {
                    keys.commit(&node.record, &[], Some(result));
                }
                last = node.own();
            } else {
                let key = keys.commit(&node.record, &inputs, result);
                node.set_own(Some(key));
                last = Some(KeyRef::Id(key));
            }
        }
        last.unwrap_or(KeyRef::Root {
            record: self.record,
            session_local: self.session_local,
        })
    }
}

/// The names of keys in the daemon's own store, each once.
pub(crate) fn own_refs<'a, R: ResultValue>(
    ways: impl Iterator<Item = &'a Way<R>>,
) -> Vec<InputRef> {
    let mut refs: Vec<InputRef> = ways
        .filter_map(|way| Some((way.node.own()?, way.selector)))
        .collect();
    refs.sort_unstable();
    refs.dedup();
    refs
}

impl<R: ResultValue> Drop for KeyNode<R> {
    fn drop(&mut self) {
        let mut nodes = std::mem::take(&mut self.inside);
        let mut ways = std::mem::take(&mut self.ways);
        loop {
            let inputs = Arc::into_inner(ways).into_iter().flatten().flatten();
            nodes.extend(inputs.map(|way| way.node));
            // The next one that nobody else holds.
            let Some(mut node) = std::iter::from_fn(|| nodes.pop()).find_map(Arc::into_inner)
            else {
                return;
            };
            nodes.append(&mut node.inside);
            ways = std::mem::take(&mut node.ways);
        }
    }
}
