//! What all handles share: the maps of records, and the way to the database.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use kiln_content::ContentStore;
use kiln_ids::RefId;
use kiln_oci::Digest;
use kiln_snapshot::Snapshots;
use kiln_store::Database;
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::persist;
use crate::provider::ProviderSource;
use crate::record::{Layer, Lineage, Record, RecordData, TreeSlot};
use crate::{Error, RecordOptions, Result};

/// A callback that learns of removed records.
pub(crate) type Removed = Arc<dyn Fn(&RefId) + Send + Sync>;

/// Says whether something outside of the cache needs a blob.
pub(crate) type Holder = Arc<dyn Fn(&Digest) -> bool + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) db: Database,
    pub(crate) content: ContentStore,
    pub(crate) snapshots: Snapshots,
    pub(crate) tmp_dir: std::path::PathBuf,
    pub(crate) state: Mutex<State>,
    pub(crate) providers: RwLock<Option<Arc<dyn ProviderSource>>>,
    pub(crate) removed: RwLock<Vec<Removed>>,
    pub(crate) holders: RwLock<Vec<Holder>>,
    /// How many layers are extracted or compressed at a time.
    pub(crate) work: Arc<tokio::sync::Semaphore>,
    /// How many values were queued for the database, and how many of them are known to be there.
    pub(crate) values_queued: std::sync::atomic::AtomicU64,
    pub(crate) values_flushed: std::sync::atomic::AtomicU64,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) records: HashMap<RefId, Arc<Record>>,
    /// Immutable plain chains by chain id.
    pub(crate) by_chain: HashMap<Digest, RefId>,
    /// The same by blob chain id.
    pub(crate) by_blob_chain: HashMap<Digest, RefId>,
    pub(crate) by_index: HashMap<String, Vec<RefId>>,
    /// How many layers name a blob.
    pub(crate) blob_uses: HashMap<Digest, usize>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A record that isn't in the maps yet.
    pub(crate) fn new_record(
        id: RefId,
        lineage: Lineage,
        layer: Option<Arc<Layer>>,
        owns_layer: bool,
        mutable: bool,
        options: RecordOptions,
    ) -> Arc<Record> {
        Arc::new(Record {
            id,
            lineage,
            layer,
            handles: 0.into(),
            children: 0.into(),
            data: Mutex::new(RecordData {
                mutable,
                retain: options.retain,
                owns_layer,
                description: options.description,
                kind: options.kind,
                index: options.index,
                created: options.created.unwrap_or_else(SystemTime::now),
                last_used: None,
                usage_count: 0,
                build_time: options.build_time,
                origin: None,
                pinned: false,
                shares_with: None,
                shared_by: None,
                files_size: None,
                values: std::collections::BTreeMap::new(),
            }),
            tree: Mutex::new(TreeSlot::Unknown),
            tree_work: Arc::default(),
        })
    }

    /// Puts a record into the maps and queues its row.
    pub(crate) fn insert(&self, state: &mut State, record: &Arc<Record>) {
        state.insert(record);
        persist::put_record(&self.db, record);
    }

    /// The record, if it is there.
    pub(crate) fn find(&self, id: &RefId) -> Option<Arc<Record>> {
        self.lock().records.get(id).cloned()
    }

    /// Notes the chains of a record whose diff ids became known, so that it is found by them.
    pub(crate) fn index_chains(&self, record: &Arc<Record>) {
        let (chain, blobs) = (record.chain_id(), record.blob_chain_id());
        let mut state = self.lock();
        if state.records.contains_key(&record.id) {
            state.index_chains(record, chain, blobs);
        }
    }

    /// Whether blobs of the layer are in the content store.
    pub(crate) fn has_local_blob(&self, layer: &Layer) -> bool {
        let info = layer.info.lock();
        info.blobs.iter().any(|blob| {
            blob.epoch.is_none() && self.content.info(&blob.descriptor.digest).is_some()
        })
    }

    /// Makes sure that each lazy layer has somebody to deliver it.
    pub(crate) fn attach_providers(&self, record: &Record) -> Result<()> {
        let source = self.providers.read().clone();
        for layer in record.stack() {
            if layer.is_extracted() || self.has_local_blob(&layer) {
                continue;
            }
            let mut info = layer.info.lock();
            let Some(missing) = info.blobs.first().map(|blob| blob.descriptor.digest) else {
                continue;
            };
            let mut found = false;
            for blob in info.blobs.iter_mut().filter(|blob| blob.epoch.is_none()) {
                let usable = blob.provider.take().filter(|provider| !provider.is_gone());
                blob.provider = usable.or_else(|| {
                    let source = source.as_ref()?;
                    source.provider(&blob.descriptor, &blob.sources)
                });
                found |= blob.provider.is_some();
            }
            if !found {
                return Err(Error::NoProvider {
                    record: record.id.clone(),
                    blob: missing,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn announce_removed(&self, id: &RefId) {
        for callback in self.removed.read().iter() {
            callback(id);
        }
    }
}

impl State {
    pub(crate) fn insert(&mut self, record: &Arc<Record>) {
        for parent in record.lineage.parents() {
            parent.children.fetch_add(1, Ordering::AcqRel);
        }
        let data = record.data.lock();
        for key in &data.index {
            self.by_index
                .entry(key.clone())
                .or_default()
                .push(record.id.clone());
        }
        let (mutable, owns) = (data.mutable, data.owns_layer);
        drop(data);
        if owns && let Some(layer) = &record.layer {
            for blob in &layer.info.lock().blobs {
                *self.blob_uses.entry(blob.descriptor.digest).or_default() += 1;
            }
        }
        self.records.insert(record.id.clone(), Arc::clone(record));
        if !mutable {
            let (chain, blobs) = (record.chain_id(), record.blob_chain_id());
            self.index_chains(record, chain, blobs);
        }
    }

    /// Only plain chains are found by their chains: a merge of the same layers isn't a base to build
    /// layers on.
    fn index_chains(&mut self, record: &Arc<Record>, chain: Option<Digest>, blobs: Option<Digest>) {
        if !matches!(record.lineage, Lineage::Base | Lineage::Layer(_)) {
            return;
        }
        if let Some(chain) = chain {
            self.by_chain
                .entry(chain)
                .or_insert_with(|| record.id.clone());
        }
        if let Some(blobs) = blobs {
            self.by_blob_chain
                .entry(blobs)
                .or_insert_with(|| record.id.clone());
        }
    }

    /// Takes a record out of the maps. Its parents may become removable.
    pub(crate) fn take(&mut self, record: &Arc<Record>) {
        self.records.remove(&record.id);
        for parent in record.lineage.parents() {
            parent.children.fetch_sub(1, Ordering::AcqRel);
        }
        let (chain, blobs) = (record.chain_id(), record.blob_chain_id());
        for (map, key) in [
            (&mut self.by_chain, chain),
            (&mut self.by_blob_chain, blobs),
        ] {
            if let Some(key) = key
                && map.get(&key) == Some(&record.id)
            {
                map.remove(&key);
            }
        }
        for key in std::mem::take(&mut record.data.lock().index) {
            if let Some(ids) = self.by_index.get_mut(&key) {
                ids.retain(|id| *id != record.id);
                if ids.is_empty() {
                    self.by_index.remove(&key);
                }
            }
        }
    }
}

/// 25 characters of base 36.
pub(crate) fn new_id() -> RefId {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut bytes = [0_u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        // Only an interrupted call fails, as the pool is seeded long before.
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .unwrap_or(0);
    }
    let mut number = u128::from_le_bytes(bytes);
    let mut text = [b'0'; 25];
    for digit in text.iter_mut().rev() {
        *digit = DIGITS[(number % 36) as usize];
        number /= 36;
    }
    RefId::new(String::from_utf8_lossy(&text).into_owned())
}
