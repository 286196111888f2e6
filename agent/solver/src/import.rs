//! Caches that a build imported: immutable, asked with the same queries as the daemon's own keys.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use kiln_oci::Digest;

use crate::op::{OpContext, OpError, ResultValue};
use crate::store::{KeyId, Link, StoredResult};

/// One record of an imported cache, as `application/vnd.buildkit.cacheconfig.v0` has it.
#[derive(Debug, Clone, Default)]
pub struct ImportRecord {
    /// The record digest, or `None` where it is no sha256 digest.
    pub digest: Option<Digest>,
    /// For each input, the records that may be it, by index, with the selectors of the links.
    pub inputs: Vec<Vec<(Option<Digest>, usize)>>,
    /// Its results: an id that the loader knows, and the time of creation.
    pub results: Vec<(String, SystemTime)>,
}

/// Turns results of an imported cache into results of the daemon's.
#[async_trait]
pub trait ImportLoader<R: ResultValue>: Send + Sync {
    /// The result, usually lazy: nothing is pulled here.
    async fn load(&self, result: &str, cx: OpContext) -> Result<R, OpError>;

    /// Whether `part` is a beginning of `whole` (its layers are the first layers of it). Such results
    /// of a record's inputs come with the record, so that a step in the middle of the chain is a hit
    /// later without asking the import again.
    fn is_part(&self, part: &str, whole: &str) -> bool;
}

/// What a search needs of an imported cache.
#[async_trait]
pub trait CacheSource<R: ResultValue>: Send + Sync {
    /// Names the cache in logs, and tells whether two sources are the same one.
    fn name(&self) -> &str;
    /// The root key of that record digest.
    fn root(&self, record: &Digest) -> Option<KeyId>;
    /// Keys that the link leads to from `parent`.
    fn children(&self, parent: KeyId, link: &Link) -> Vec<KeyId>;
    /// Keys that `key` is made from, with the links that lead from them to it. None for a root key.
    fn parents(&self, key: KeyId) -> Vec<(KeyId, Link)>;
    /// The record digest of a root key.
    fn root_digest(&self, key: KeyId) -> Option<Digest>;
    /// Results of `key`.
    fn results(&self, key: KeyId) -> Vec<StoredResult>;
    /// Loads a result of `key` and nothing else. `None` where the cache has no such result.
    async fn load_one(&self, key: KeyId, result: &str, cx: OpContext)
    -> Result<Option<R>, OpError>;
    /// Loads a result of `key`, and results of keys that it is made from where they come with it. The
    /// first one is what was asked for.
    async fn load(
        &self,
        key: KeyId,
        result: &str,
        cx: OpContext,
    ) -> Result<Vec<Imported<R>>, OpError>;
}

/// A result that was loaded from an imported cache.
#[derive(Debug, Clone)]
pub struct Imported<R> {
    /// The key that it was found under.
    pub key: KeyId,
    /// When it was made.
    pub created: SystemTime,
    /// The result.
    pub result: R,
}

/// An imported cache in memory, made from its records. Shared by the builds that import it.
pub struct ImportedCache<R: ResultValue> {
    name: String,
    loader: Arc<dyn ImportLoader<R>>,
    records: Vec<ImportRecord>,
    roots: HashMap<Digest, KeyId>,
    children: HashMap<(KeyId, Link), Vec<KeyId>>,
}

/// Why the records of an imported cache can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// A link leads to a record that isn't there.
    #[error("record {record} of the cache links to record {link}, and there are {count}")]
    NoSuchRecord {
        /// The record with the link.
        record: usize,
        /// Where it leads.
        link: usize,
        /// How many records there are.
        count: usize,
    },
    /// A record is made from itself.
    #[error("record {record} of the cache is among its own inputs")]
    Loop {
        /// Some record of the ring.
        record: usize,
    },
}

impl<R: ResultValue> ImportedCache<R> {
    /// Checks the records and indexes them. Records without a digest, or made from one, are never found.
    pub fn new(
        name: impl Into<String>,
        records: Vec<ImportRecord>,
        loader: Arc<dyn ImportLoader<R>>,
    ) -> Result<Self, ImportError> {
        check(&records)?;
        let mut roots = HashMap::new();
        let mut children: HashMap<(KeyId, Link), Vec<KeyId>> = HashMap::new();
        for (index, record) in records.iter().enumerate() {
            let Some(digest) = record.digest else {
                continue;
            };
            let key = KeyId(index as u64);
            if record.inputs.is_empty() {
                roots.entry(digest).or_insert(key);
            }
            for (input, links) in record.inputs.iter().enumerate() {
                for (selector, parent) in links {
                    let link = Link {
                        input: input as u32,
                        record: digest,
                        selector: *selector,
                    };
                    let known = children.entry((KeyId(*parent as u64), link)).or_default();
                    known.push(key);
                }
            }
        }
        // Root records of one digest are one key.
        let mut cache = Self {
            name: name.into(),
            loader,
            records,
            roots,
            children,
        };
        cache.join_roots();
        Ok(cache)
    }

    fn join_roots(&mut self) {
        let mut moved = Vec::new();
        for (parent, link) in self.children.keys() {
            if let Some(root) = self.canonical_root(*parent)
                && root != *parent
            {
                moved.push((*parent, *link, root));
            }
        }
        for (parent, link, root) in moved {
            if let Some(keys) = self.children.remove(&(parent, link)) {
                self.children.entry((root, link)).or_default().extend(keys);
            }
        }
    }

    fn canonical_root(&self, key: KeyId) -> Option<KeyId> {
        let record = self.record(key)?;
        if !record.inputs.is_empty() {
            return None;
        }
        self.roots.get(&record.digest?).copied()
    }

    fn record(&self, key: KeyId) -> Option<&ImportRecord> {
        self.records.get(usize::try_from(key.0).ok()?)
    }

    /// Records that `key` is made from, nearest first.
    fn below(&self, key: KeyId) -> Vec<KeyId> {
        let mut seen = HashSet::from([key]);
        let mut order = VecDeque::from([key]);
        let mut below = Vec::new();
        while let Some(next) = order.pop_front() {
            let links = self
                .record(next)
                .into_iter()
                .flat_map(|record| &record.inputs);
            for (_, parent) in links.flatten() {
                let parent = KeyId(*parent as u64);
                if seen.insert(parent) {
                    below.push(parent);
                    order.push_back(parent);
                }
            }
        }
        below
    }
}

/// Every link leads to a record, and no record to itself.
fn check(records: &[ImportRecord]) -> Result<(), ImportError> {
    const NEW: u8 = 0;
    const OPEN: u8 = 1;
    const CLOSED: u8 = 2;
    let mut state = vec![NEW; records.len()];
    for start in 0..records.len() {
        let mut pending = vec![(start, false)];
        while let Some((index, inputs_done)) = pending.pop() {
            if inputs_done {
                state[index] = CLOSED;
                continue;
            }
            if state[index] != NEW {
                continue;
            }
            state[index] = OPEN;
            pending.push((index, true));
            for (_, link) in records[index].inputs.iter().flatten() {
                match state.get(*link) {
                    None => {
                        return Err(ImportError::NoSuchRecord {
                            record: index,
                            link: *link,
                            count: records.len(),
                        });
                    }
                    Some(&OPEN) => return Err(ImportError::Loop { record: *link }),
                    Some(_) => pending.push((*link, false)),
                }
            }
        }
    }
    Ok(())
}

#[async_trait]
impl<R: ResultValue> CacheSource<R> for ImportedCache<R> {
    fn name(&self) -> &str {
        &self.name
    }

    fn root(&self, record: &Digest) -> Option<KeyId> {
        self.roots.get(record).copied()
    }

    fn children(&self, parent: KeyId, link: &Link) -> Vec<KeyId> {
        let keys = self.children.get(&(parent, *link));
        keys.cloned().unwrap_or_default()
    }

    fn parents(&self, key: KeyId) -> Vec<(KeyId, Link)> {
        let Some((record, digest)) = self
            .record(key)
            .and_then(|record| Some((record, record.digest?)))
        else {
            return Vec::new();
        };
        let inputs = record.inputs.iter().enumerate();
        inputs
            .flat_map(|(input, links)| {
                links.iter().map(move |(selector, parent)| {
                    let link = Link {
                        input: input as u32,
                        record: digest,
                        selector: *selector,
                    };
                    (KeyId(*parent as u64), link)
                })
            })
            .collect()
    }

    fn root_digest(&self, key: KeyId) -> Option<Digest> {
        let record = self.record(key)?;
        record.digest.filter(|_| record.inputs.is_empty())
    }

    fn results(&self, key: KeyId) -> Vec<StoredResult> {
        let results = self
            .record(key)
            .into_iter()
            .flat_map(|record| &record.results);
        results
            .map(|(id, created)| StoredResult {
                id: id.clone(),
                created: *created,
            })
            .collect()
    }

    async fn load_one(
        &self,
        key: KeyId,
        result: &str,
        cx: OpContext,
    ) -> Result<Option<R>, OpError> {
        let is_known = self.results(key).iter().any(|known| known.id == result);
        if !is_known {
            return Ok(None);
        }
        self.loader.load(result, cx).await.map(Some)
    }

    async fn load(
        &self,
        key: KeyId,
        result: &str,
        cx: OpContext,
    ) -> Result<Vec<Imported<R>>, OpError> {
        let created = self
            .results(key)
            .into_iter()
            .find(|known| known.id == result)
            .map(|known| known.created);
        let Some(created) = created else {
            return Ok(Vec::new());
        };
        let mut loaded = vec![Imported {
            key,
            created,
            result: self.loader.load(result, cx.clone()).await?,
        }];
        for key in self.below(key) {
            let part = self
                .results(key)
                .into_iter()
                .find(|known| self.loader.is_part(&known.id, result));
            if let Some(part) = part {
                loaded.push(Imported {
                    key,
                    created: part.created,
                    result: self.loader.load(&part.id, cx.clone()).await?,
                });
            }
        }
        Ok(loaded)
    }
}

impl<R: ResultValue> std::fmt::Debug for ImportedCache<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportedCache")
            .field("name", &self.name)
            .field("records", &self.records.len())
            .finish_non_exhaustive()
    }
}
