//! The key graph itself, single-threaded; every change to it is also told to a journal.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use kiln_oci::Digest;

use super::{InputRef, KeyCounts, KeyId, KeyRef, Link, StoredResult};

/// A change of the graph that outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    AddKey {
        key: KeyId,
        root: Option<Digest>,
    },
    /// With its links to and from, and its results.
    RemoveKey(KeyId),
    AddLink {
        parent: KeyId,
        link: Link,
        child: KeyId,
    },
    AddResult {
        key: KeyId,
        id: String,
        created: SystemTime,
    },
    RemoveResult(String),
}

/// Told of each change in order, under the lock of the graph: it must not wait.
pub(super) trait Journal: Send + Sync {
    fn record(&self, change: Change);
}

/// Remembers nothing.
pub(super) struct Forgetful;

impl Journal for Forgetful {
    fn record(&self, _: Change) {}
}

#[derive(Default)]
struct Key {
    root: Option<Digest>,
    session_local: bool,
    children: HashMap<Link, BTreeSet<KeyId>>,
    parents: BTreeSet<(KeyId, Link)>,
    results: Vec<StoredResult>,
}

impl Key {
    fn is_unreferenced(&self) -> bool {
        self.children.is_empty() && self.results.is_empty()
    }
}

/// Keys, links and results in memory.
#[derive(Default)]
pub(super) struct Graph {
    keys: HashMap<KeyId, Key>,
    roots: HashMap<Digest, KeyId>,
    by_result: HashMap<String, BTreeSet<KeyId>>,
    last_id: u64,
}

impl Graph {
    /// Puts back what a journal was told of. Links and results of keys that aren't there are left out.
    pub(super) fn restore(&mut self, change: Change) {
        match change {
            Change::AddKey { key, root } => {
                self.last_id = self.last_id.max(key.0);
                if let Some(root) = root {
                    self.roots.insert(root, key);
                }
                self.keys.insert(
                    key,
                    Key {
                        root,
                        ..Key::default()
                    },
                );
            }
            Change::AddLink {
                parent,
                link,
                child,
            } => {
                self.link(parent, link, child, &Forgetful);
            }
            Change::AddResult { key, id, created } => {
                self.add_result(key, StoredResult { id, created }, &Forgetful);
            }
            Change::RemoveKey(key) => self.remove(vec![key], true, &Forgetful),
            Change::RemoveResult(id) => self.release(&id, &Forgetful),
        }
    }

    pub(super) fn resolve(&self, key: KeyRef) -> Option<KeyId> {
        match key {
            KeyRef::Id(id) => self.keys.contains_key(&id).then_some(id),
            KeyRef::Root { record, .. } => self.roots.get(&record).copied(),
        }
    }

    fn children(&self, parent: KeyId, link: &Link) -> impl Iterator<Item = KeyId> + '_ {
        let key = self.keys.get(&parent);
        let children = key.and_then(|key| key.children.get(link));
        children.into_iter().flatten().copied()
    }

    /// The query without its side effect: the keys, and whether some link is missing.
    pub(super) fn find(
        &self,
        inputs: &[InputRef],
        input: u32,
        record: &Digest,
    ) -> (BTreeSet<KeyId>, bool) {
        let mut found = BTreeSet::new();
        let mut ways = 0;
        let distinct: HashSet<&InputRef> = inputs.iter().collect();
        for (key, selector) in &distinct {
            let link = link(input, record, *selector);
            if let Some(parent) = self.resolve(*key) {
                for child in self.children(parent, &link) {
                    ways += 1;
                    found.insert(child);
                }
            }
        }
        let missing = ways < found.len() * distinct.len();
        (found, missing)
    }

    pub(super) fn add_missing(
        &mut self,
        found: &BTreeSet<KeyId>,
        inputs: &[InputRef],
        input: u32,
        record: &Digest,
        journal: &dyn Journal,
    ) {
        for (key, selector) in inputs {
            let parent = match key {
                KeyRef::Id(id) => *id,
                KeyRef::Root {
                    record,
                    session_local,
                } => self.ensure_root(record, *session_local, journal),
            };
            for child in found {
                self.link(parent, link(input, record, *selector), *child, journal);
            }
        }
    }

    pub(super) fn commit(
        &mut self,
        record: &Digest,
        inputs: &[Vec<InputRef>],
        result: Option<StoredResult>,
        journal: &dyn Journal,
    ) -> KeyId {
        let key = if inputs.is_empty() {
            self.ensure_root(record, false, journal)
        } else {
            let key = match self.common_child(record, inputs) {
                Some(key) => key,
                None => self.new_key(None, false, journal),
            };
            let child = BTreeSet::from([key]);
            for (input, ways) in inputs.iter().enumerate() {
                self.add_missing(&child, ways, input as u32, record, journal);
            }
            key
        };
        if let Some(result) = result {
            self.add_result(key, result, journal);
        }
        key
    }

    /// The oldest key that every input leads to.
    fn common_child(&self, record: &Digest, inputs: &[Vec<InputRef>]) -> Option<KeyId> {
        let mut common: Option<BTreeSet<KeyId>> = None;
        for (input, ways) in inputs.iter().enumerate() {
            let (found, _) = self.find(ways, input as u32, record);
            let left = match common {
                None => found,
                Some(common) => common.intersection(&found).copied().collect(),
            };
            if left.is_empty() {
                return None;
            }
            common = Some(left);
        }
        common.and_then(|keys| keys.first().copied())
    }

    fn ensure_root(
        &mut self,
        record: &Digest,
        session_local: bool,
        journal: &dyn Journal,
    ) -> KeyId {
        match self.roots.get(record) {
            Some(key) => *key,
            None => self.new_key(Some(*record), session_local, journal),
        }
    }

    fn new_key(
        &mut self,
        root: Option<Digest>,
        session_local: bool,
        journal: &dyn Journal,
    ) -> KeyId {
        self.last_id += 1;
        let key = KeyId(self.last_id);
        self.keys.insert(
            key,
            Key {
                root,
                session_local,
                ..Key::default()
            },
        );
        if let Some(root) = root {
            self.roots.insert(root, key);
        }
        if !session_local {
            journal.record(Change::AddKey { key, root });
        }
        key
    }

    fn link(&mut self, parent: KeyId, link: Link, child: KeyId, journal: &dyn Journal) {
        if parent == child || !self.keys.contains_key(&child) {
            return;
        }
        let Some(key) = self.keys.get_mut(&parent) else {
            return;
        };
        if !key.children.entry(link).or_default().insert(child) {
            return;
        }
        let persists = !key.session_local;
        if let Some(child) = self.keys.get_mut(&child) {
            child.parents.insert((parent, link));
        }
        if persists {
            journal.record(Change::AddLink {
                parent,
                link,
                child,
            });
        }
    }

    fn add_result(&mut self, key: KeyId, result: StoredResult, journal: &dyn Journal) {
        let Some(entry) = self.keys.get_mut(&key) else {
            return;
        };
        if entry.results.iter().any(|known| known.id == result.id) {
            return;
        }
        let persists = !entry.session_local;
        entry.results.push(result.clone());
        self.by_result
            .entry(result.id.clone())
            .or_default()
            .insert(key);
        if persists {
            journal.record(Change::AddResult {
                key,
                id: result.id,
                created: result.created,
            });
        }
    }

    pub(super) fn release(&mut self, result: &str, journal: &dyn Journal) {
        let Some(keys) = self.by_result.remove(result) else {
            return;
        };
        journal.record(Change::RemoveResult(result.to_owned()));
        for key in &keys {
            if let Some(key) = self.keys.get_mut(key) {
                key.results.retain(|known| known.id != result);
            }
        }
        self.remove(keys.into_iter().collect(), false, journal);
    }

    pub(super) fn forget_root(&mut self, record: &Digest, journal: &dyn Journal) {
        if let Some(key) = self.roots.get(record).copied()
            && self.keys.get(&key).is_some_and(|key| key.session_local)
        {
            self.remove(vec![key], true, journal);
        }
    }

    /// Removes those of `keys` that nothing refers to (or all of them), and then what only they
    /// referred to.
    fn remove(&mut self, keys: Vec<KeyId>, forced: bool, journal: &dyn Journal) {
        let mut pending: Vec<(KeyId, bool)> = keys.into_iter().map(|key| (key, forced)).collect();
        while let Some((id, forced)) = pending.pop() {
            let Entry::Occupied(entry) = self.keys.entry(id) else {
                continue;
            };
            if !forced && !entry.get().is_unreferenced() {
                continue;
            }
            let key = entry.remove();
            if let Some(root) = key.root {
                self.roots.remove(&root);
            }
            if !key.session_local {
                journal.record(Change::RemoveKey(id));
            }
            for result in &key.results {
                if let Some(keys) = self.by_result.get_mut(&result.id) {
                    keys.remove(&id);
                    if keys.is_empty() {
                        self.by_result.remove(&result.id);
                    }
                }
            }
            for (parent, link) in key.parents {
                if let Some(parent) = self.keys.get_mut(&parent)
                    && let Entry::Occupied(mut children) = parent.children.entry(link)
                {
                    children.get_mut().remove(&id);
                    if children.get().is_empty() {
                        children.remove();
                    }
                }
                pending.push((parent, false));
            }
            for (link, children) in key.children {
                for child in children {
                    if let Some(entry) = self.keys.get_mut(&child) {
                        entry.parents.remove(&(id, link));
                        pending.push((child, false));
                    }
                }
            }
        }
    }

    pub(super) fn results(&self, key: KeyRef) -> Vec<StoredResult> {
        let id = self.resolve(key);
        let key = id.and_then(|id| self.keys.get(&id));
        key.map(|key| key.results.clone()).unwrap_or_default()
    }

    pub(super) fn root_digest(&self, key: KeyId) -> Option<Digest> {
        let key = self.keys.get(&key)?;
        key.root.filter(|_| !key.session_local)
    }

    pub(super) fn parents(&self, child: KeyId) -> Vec<(KeyId, Link)> {
        let key = self.keys.get(&child);
        key.map(|key| key.parents.iter().copied().collect())
            .unwrap_or_default()
    }

    pub(super) fn keys_of(&self, result: &str) -> Vec<KeyId> {
        let keys = self.by_result.get(result);
        keys.map(|keys| keys.iter().copied().collect())
            .unwrap_or_default()
    }

    pub(super) fn result_ids(&self) -> Vec<String> {
        self.by_result.keys().cloned().collect()
    }

    pub(super) fn counts(&self) -> KeyCounts {
        KeyCounts {
            keys: self.keys.len(),
            links: self.keys.values().map(|key| key.parents.len()).sum(),
            results: self.keys.values().map(|key| key.results.len()).sum(),
        }
    }
}

fn link(input: u32, record: &Digest, selector: Option<Digest>) -> Link {
    Link {
        input,
        record: *record,
        selector,
    }
}
