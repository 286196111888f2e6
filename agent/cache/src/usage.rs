//! What a record occupies, and what GC needs to know about it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use kiln_ids::RefId;
use kiln_oci::Digest;

use crate::contenthash::Tree;
use crate::persist;
use crate::record::{Record, TreeSlot, chain};
use crate::shared::{Shared, State};
use crate::{Error, Origin, Result, UsageKind};

/// One record as `docker buildx du` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// Its name.
    pub id: RefId,
    /// It can still be written: a cache mount, a local source.
    pub mutable: bool,
    /// A handle on it or on a record above it exists: it can't be removed now.
    pub in_use: bool,
    /// Bytes on disk of its own layer and blobs; not of its parents. 0 while it is written.
    pub size: u64,
    /// Records it is built on.
    pub parents: Vec<RefId>,
    /// When it was made.
    pub created: SystemTime,
    /// When a handle on it was last released.
    pub last_used: Option<SystemTime>,
    /// How often.
    pub usage_count: u64,
    /// One line for people.
    pub description: String,
    /// What it is for.
    pub kind: UsageKind,
    /// Also named by an image of the local store, so that removing it would free nothing.
    pub shared: bool,
    /// How long the step took that made it, where known.
    pub build_time: Option<Duration>,
    /// For whom it was made, where known.
    pub origin: Option<Arc<Origin>>,
    /// Never removed by a policy or a prune.
    pub pinned: bool,
}

impl Shared {
    pub(crate) async fn usage(self: &Arc<Self>) -> Result<Vec<UsageRecord>> {
        let records = self.listed();
        self.measure(&records).await?;
        let in_use = in_use(&records);
        let pinned = self.pinned();
        let usage = records
            .iter()
            .map(|record| {
                let used = in_use.get(&record.id).copied().unwrap_or(false);
                let size = self.known_size(record);
                let data = record.data.lock();
                let growing = data.mutable && record.handles.load(Ordering::Acquire) > 0;
                UsageRecord {
                    id: record.id.clone(),
                    mutable: data.mutable,
                    in_use: used,
                    size: if growing { 0 } else { size },
                    parents: record
                        .lineage
                        .parents()
                        .into_iter()
                        .map(|parent| parent.id.clone())
                        .collect(),
                    created: data.created,
                    last_used: data.last_used,
                    usage_count: data.usage_count,
                    description: data.description.clone(),
                    kind: data.kind,
                    shared: false,
                    build_time: data.build_time,
                    origin: data.origin.clone(),
                    pinned: pinned.contains(&record.id),
                }
            })
            .collect();
        Ok(usage)
    }

    pub(crate) fn with_layers(&self, images: &[Vec<Digest>]) -> HashSet<RefId> {
        let chains = images
            .iter()
            .filter_map(|image| chain(image.iter().map(|layer| Some(*layer))));
        let state = self.lock();
        let mut found = HashSet::new();
        for id in chains.filter_map(|chain| state.by_chain.get(&chain)) {
            found.insert(id.clone());
            if let Some(record) = state.records.get(id) {
                let data = record.data.lock();
                found.extend(data.shared_by.iter().chain(&data.shares_with).cloned());
            }
        }
        found
    }

    /// The pinned records; with each goes the one that shares its files, since both end together.
    fn pinned(&self) -> HashSet<RefId> {
        let state = self.lock();
        let mut pinned = HashSet::new();
        for record in state.records.values() {
            let data = record.data.lock();
            if data.pinned {
                pinned.insert(record.id.clone());
                pinned.extend(data.shared_by.iter().chain(&data.shares_with).cloned());
            }
        }
        pinned
    }

    /// All records, but of two that share their files only one: the ref if it is used, else what it was
    /// committed from.
    fn listed(&self) -> Vec<Arc<Record>> {
        let state = self.lock();
        state
            .records
            .values()
            .filter(|record| !is_shadowed(&state, record))
            .cloned()
            .collect()
    }

    /// Measures the snapshots whose size isn't known.
    async fn measure(self: &Arc<Self>, records: &[Arc<Record>]) -> Result<()> {
        let unknown: Vec<_> = records
            .iter()
            .filter(|record| needs_measuring(record))
            .cloned()
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            for record in &unknown {
                let Some(layer) = &record.layer else { continue };
                match shared.snapshots.usage(&layer.snapshot) {
                    Ok(usage) => {
                        record.data.lock().files_size = Some(usage.bytes);
                        persist::put_usage(&shared.db, record);
                    }
                    // It went while it was measured.
                    Err(_) if shared.find(&record.id).is_none() => {}
                    // Files that come and go are nothing to fail for: it is in use.
                    Err(error) => {
                        tracing::debug!(record = %record.id, %error, "a record can't be measured");
                    }
                }
            }
        })
        .await
        .map_err(|_| Error::Cancelled)
    }

    pub(crate) async fn size(self: &Arc<Self>, record: &Arc<Record>) -> Result<u64> {
        self.measure(std::slice::from_ref(record)).await?;
        Ok(self.known_size(record))
    }

    /// Bytes of a record's files, if measured, and blobs. What another record lends it counts there, but
    /// for the files of the mutable record that it shares.
    fn known_size(&self, record: &Record) -> u64 {
        let (owns, files, shares) = {
            let data = record.data.lock();
            (
                data.owns_layer,
                data.files_size.unwrap_or(0),
                data.shares_with.is_some(),
            )
        };
        let Some(layer) = record.layer.as_ref().filter(|_| owns || shares) else {
            return 0;
        };
        let blobs: u64 = layer
            .info
            .lock()
            .blobs
            .iter()
            .filter_map(|blob| Some(self.content.info(&blob.descriptor.digest)?.size))
            .sum();
        files + blobs
    }

    /// A value kept with a record.
    pub(crate) fn value(&self, record: &Record, key: &str) -> Option<Vec<u8>> {
        if let Some(value) = record.data.lock().values.get(key) {
            return Some(value.clone());
        }
        let read = self.flush_values().and_then(|()| {
            self.db
                .read_blocking(|connection| persist::read_value(connection, &record.id, key))
        });
        match read {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(record = %record.id, key, %error, "a record's value can't be read");
                None
            }
        }
    }

    /// Queues a value of a record.
    pub(crate) fn put_value(&self, record: &RefId, name: &str, value: Vec<u8>) {
        persist::put_value(&self.db, record, name, value);
        self.values_queued.fetch_add(1, Ordering::AcqRel);
    }

    /// Waits until the values that were queued can be read.
    fn flush_values(&self) -> kiln_store::Result<()> {
        let queued = self.values_queued.load(Ordering::Acquire);
        if self.values_flushed.load(Ordering::Acquire) < queued {
            self.db.write_blocking(|_| Ok(()))?;
            self.values_flushed.fetch_max(queued, Ordering::AcqRel);
        }
        Ok(())
    }

    /// The hash tree of a record; empty if there is none.
    pub(crate) fn tree(&self, record: &Record) -> Arc<Tree> {
        if let TreeSlot::Loaded(tree) = &*record.tree.lock() {
            return Arc::clone(tree);
        }
        let stored = self.value(record, persist::TREE);
        let tree = stored.and_then(|bytes| Tree::from_bytes(&bytes));
        let mut tree = tree.unwrap_or_default();
        tree.mark_stored();
        let tree = Arc::new(tree);
        *record.tree.lock() = TreeSlot::Loaded(Arc::clone(&tree));
        tree
    }

    /// Keeps a hash tree that was completed.
    pub(crate) fn put_tree(&self, record: &Record, tree: Arc<Tree>) {
        self.put_value(&record.id, persist::TREE, tree.to_bytes());
        *record.tree.lock() = TreeSlot::Loaded(tree);
    }

    /// The record that keeps the hash tree of a state: of two that share files the mutable one.
    pub(crate) fn tree_owner(&self, record: &Arc<Record>) -> Arc<Record> {
        let state = self.lock();
        let mutable = record.data.lock().shares_with.clone();
        mutable
            .and_then(|id| state.records.get(&id).cloned())
            .unwrap_or_else(|| Arc::clone(record))
    }
}

fn needs_measuring(record: &Record) -> bool {
    let data = record.data.lock();
    let growing = data.mutable && record.handles.load(Ordering::Acquire) > 0;
    (data.owns_layer || data.shares_with.is_some())
        && data.files_size.is_none()
        && !growing
        && record
            .layer
            .as_ref()
            .is_some_and(|layer| layer.is_extracted())
}

/// Whether another record is shown in a record's place.
fn is_shadowed(state: &State, record: &Record) -> bool {
    let data = record.data.lock();
    let used = |id: &RefId| {
        state.records.get(id).is_some_and(|other| {
            other.handles.load(Ordering::Acquire) > 0 || other.children.load(Ordering::Acquire) > 0
        })
    };
    match (&data.shares_with, &data.shared_by) {
        (Some(_), _) => {
            record.handles.load(Ordering::Acquire) == 0
                && record.children.load(Ordering::Acquire) == 0
        }
        (None, Some(view)) => used(view),
        (None, None) => false,
    }
}

/// Which records are used, directly or by one built on them.
fn in_use(records: &[Arc<Record>]) -> HashMap<RefId, bool> {
    let mut used: HashMap<RefId, bool> = HashMap::with_capacity(records.len());
    let mut rest: Vec<&Arc<Record>> = records
        .iter()
        .filter(|record| record.handles.load(Ordering::Acquire) > 0)
        .collect();
    while let Some(record) = rest.pop() {
        if used.insert(record.id.clone(), true) != Some(true) {
            rest.extend(record.lineage.parents());
        }
    }
    used
}
