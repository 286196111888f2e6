//! Chains that a build didn't go but that lead to the same keys: those of the daemon's own store, and of
//! the caches that the build imported.

use std::collections::HashMap;
use std::sync::Arc;

use kiln_oci::Digest;

use super::ExportLink;
use super::chains::Chains;
use crate::import::CacheSource;
use crate::key::KeyNode;
use crate::op::ResultValue;
use crate::store::{KeyId, KeyRef, KeyStore, Link};

/// All stores that have been looked into.
pub(super) struct Backlinks<'a, R: ResultValue> {
    keys: &'a dyn KeyStore,
    own: Made,
    imported: Vec<(Arc<dyn CacheSource<R>>, Made)>,
}

/// Records of a store's keys. A key that is being looked at has none yet: a ring of links ends there.
type Made = HashMap<KeyId, Vec<usize>>;

impl<'a, R: ResultValue> Backlinks<'a, R> {
    pub(super) fn new(keys: &'a dyn KeyStore) -> Self {
        Self {
            keys,
            own: Made::new(),
            imported: Vec::new(),
        }
    }

    /// Adds every chain that leads to the node's key.
    pub(super) fn add<T: PartialEq>(&mut self, node: &KeyNode<R>, chains: &mut Chains<T>) {
        if let Some(KeyRef::Id(key)) = node.own() {
            let parents = |key| self.keys.parents(key);
            let root = |key| self.keys.root_digest(key);
            walk(key, &mut self.own, chains, parents, root);
        }
        for (source, key) in node.imported() {
            let known = self
                .imported
                .iter()
                .position(|(known, _)| Arc::ptr_eq(known, source));
            let index = known.unwrap_or_else(|| {
                self.imported.push((Arc::clone(source), Made::new()));
                self.imported.len() - 1
            });
            let made = &mut self.imported[index].1;
            let parents = |key| source.parents(key);
            walk(*key, made, chains, parents, |key| source.root_digest(key));
        }
    }
}

/// Walks depth first without recursion: chains may be as long as a cache.
fn walk<T: PartialEq>(
    top: KeyId,
    made: &mut Made,
    chains: &mut Chains<T>,
    parents: impl Fn(KeyId) -> Vec<(KeyId, Link)>,
    root: impl Fn(KeyId) -> Option<Digest>,
) {
    let mut pending = vec![(top, false)];
    while let Some((key, parents_done)) = pending.pop() {
        if parents_done {
            let records = records(key, made, chains, &parents, &root);
            made.insert(key, records);
            continue;
        }
        if made.contains_key(&key) {
            continue;
        }
        made.insert(key, Vec::new());
        pending.push((key, true));
        for (parent, _) in parents(key) {
            pending.push((parent, false));
        }
    }
}

fn records<T: PartialEq>(
    key: KeyId,
    made: &Made,
    chains: &mut Chains<T>,
    parents: impl Fn(KeyId) -> Vec<(KeyId, Link)>,
    root: impl Fn(KeyId) -> Option<Digest>,
) -> Vec<usize> {
    let parents = parents(key);
    if parents.is_empty() {
        return root(key)
            .and_then(|root| chains.add(root, &[], Vec::new()))
            .into_iter()
            .collect();
    }
    let mut by_record: HashMap<Digest, Vec<Vec<ExportLink>>> = HashMap::new();
    for (parent, link) in parents {
        let inputs = by_record.entry(link.record).or_default();
        let input = link.input as usize;
        if inputs.len() <= input {
            inputs.resize(input + 1, Vec::new());
        }
        let records = made.get(&parent).into_iter().flatten();
        inputs[input].extend(records.map(|record| ExportLink {
            selector: link.selector,
            record: *record,
        }));
    }
    by_record
        .into_iter()
        .filter_map(|(digest, inputs)| chains.add(digest, &inputs, Vec::new()))
        .collect()
}
