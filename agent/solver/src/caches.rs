//! The daemon's own cache and the imported ones, asked as one.
//!
//! Each store is searched by its own chain of keys, from root keys on: an id found in one store says
//! nothing in another. A result that an imported cache has is written into the daemon's own cache with
//! the whole chain of keys that led to it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use kiln_oci::Digest;

use crate::import::CacheSource;
use crate::key::{KeyNode, Of, Origin, Record, Way, Ways, own_refs};
use crate::op::{OpContext, OpError, ResultStore, ResultValue};
use crate::store::{KeyId, KeyStore, Link, StoredResult};

/// A key that a query found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Found {
    Own(KeyId),
    /// By the index of the imported cache.
    Imported(usize, KeyId),
}

/// What one search asks.
pub(crate) struct Caches<R: ResultValue> {
    pub(crate) keys: Arc<dyn KeyStore>,
    pub(crate) results: Arc<dyn ResultStore<R>>,
    pub(crate) imports: Vec<Arc<dyn CacheSource<R>>>,
}

impl<R: ResultValue> Caches<R> {
    /// Keys of outputs that the keys of an input lead to.
    pub(crate) fn query(&self, ways: &[Way<R>], input: u32, record: &Digest) -> BTreeSet<Found> {
        let mut found: BTreeSet<Found> = self
            .keys
            .query(&own_refs(ways.iter()), input, record)
            .into_iter()
            .map(Found::Own)
            .collect();
        for (index, source) in self.imports.iter().enumerate() {
            for way in ways {
                let Some(parent) = way.node.key_in(source) else {
                    continue;
                };
                let link = Link {
                    input,
                    record: *record,
                    selector: way.selector,
                };
                let children = source.children(parent, &link);
                found.extend(children.into_iter().map(|key| Found::Imported(index, key)));
            }
        }
        found
    }

    /// The node of a key that was found, with its results.
    pub(crate) fn node(
        &self,
        found: Found,
        record: Digest,
        of: Of,
        ways: Ways<R>,
    ) -> Arc<KeyNode<R>> {
        let node = match found {
            Found::Own(key) => KeyNode::inner(record, of, ways, Some(key)),
            Found::Imported(index, key) => {
                KeyNode::inner_of(record, of, ways, Arc::clone(&self.imports[index]), key)
            }
        };
        node.set_records(self.records_of(&node));
        Arc::new(node)
    }

    /// Looks up the results of a root node.
    pub(crate) fn look_up(&self, root: &KeyNode<R>) {
        root.set_records(self.records_of(root));
    }

    /// Results of a node in all caches, the preferred one first: the newest, the daemon's own where
    /// they are of one age.
    fn records_of(&self, node: &KeyNode<R>) -> Vec<Record<R>> {
        let mut records = Vec::new();
        if let Some(own) = node.own() {
            for result in self.keys.results(own) {
                if self.results.exists(&result.id) {
                    records.push(Record {
                        origin: Origin::Own,
                        id: result.id,
                        created: result.created,
                    });
                } else {
                    self.keys.release(&result.id);
                }
            }
        }
        for source in &self.imports {
            let Some(key) = node.key_in(source) else {
                continue;
            };
            for result in source.results(key) {
                let source = Arc::clone(source);
                records.push(Record {
                    origin: Origin::Imported { source, key },
                    id: result.id,
                    created: result.created,
                });
            }
        }
        records.sort_by_key(|record| std::cmp::Reverse(record.created));
        records
    }

    /// Loads a result of `node`. `None` where it is gone.
    pub(crate) async fn load(
        &self,
        node: &Arc<KeyNode<R>>,
        record: &Record<R>,
        cx: OpContext,
    ) -> Result<Option<R>, OpError> {
        let Origin::Imported { source, key } = &record.origin else {
            let loaded = self.results.load(&record.id).await?;
            if loaded.is_none() {
                self.keys.release(&record.id);
            }
            return Ok(loaded);
        };
        let loaded = source.load(*key, &record.id, cx).await?;
        let mut wanted = None;
        let mut parts = HashMap::new();
        for imported in loaded {
            if wanted.is_none() {
                wanted = Some(imported);
            } else {
                parts.insert(imported.key, imported);
            }
        }
        let Some(wanted) = wanted else {
            return Ok(None);
        };
        let record = self.save(node, &wanted.result, wanted.created).await?;
        node.add_record(record);
        for part in nodes_below(node) {
            if let Some(imported) = part.key_in(source).and_then(|key| parts.remove(&key)) {
                let record = self.save(&part, &imported.result, imported.created).await?;
                part.add_record(record);
            }
        }
        Ok(Some(wanted.result))
    }

    /// Stores a result under the key of `node` and makes sure that its chain of keys is there.
    pub(crate) async fn save(
        &self,
        node: &Arc<KeyNode<R>>,
        result: &R,
        created: SystemTime,
    ) -> Result<Record<R>, OpError> {
        let id = self.results.save(result).await?;
        Ok(self.record(node, id, created))
    }

    /// Names a stored result under the key of `node`.
    pub(crate) fn record(
        &self,
        node: &Arc<KeyNode<R>>,
        id: String,
        created: SystemTime,
    ) -> Record<R> {
        let stored = StoredResult {
            id: id.clone(),
            created,
        };
        node.persist(self.keys.as_ref(), Some(&stored));
        Record {
            origin: Origin::Own,
            id,
            created,
        }
    }
}

/// All nodes that `node` is made from, without itself, each once.
pub(crate) fn nodes_below<R: ResultValue>(node: &Arc<KeyNode<R>>) -> Vec<Arc<KeyNode<R>>> {
    let mut seen: HashSet<u64> = HashSet::new();
    let mut below = Vec::new();
    let mut pending = vec![Arc::clone(node)];
    while let Some(next) = pending.pop() {
        for way in next.ways.iter().flatten() {
            if seen.insert(way.node.number) {
                below.push(Arc::clone(&way.node));
                pending.push(Arc::clone(&way.node));
            }
        }
    }
    below
}
