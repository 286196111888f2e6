//! The records of a state root, and how new ones are made.

use std::collections::HashSet;
use std::sync::Arc;

use kiln_content::ContentStore;
use kiln_ids::RefId;
use kiln_oci::Digest;
use kiln_snapshot::Snapshots;
use kiln_store::StateRoot;

use crate::extract::names;
use crate::hold::Hold;
use crate::persist;
use crate::record::{BlobVariant, Layer, Lineage, Record, blob_id, extend_chain};
use crate::remove::is_unused;
use crate::shared::{Shared, State, new_id};
use crate::{
    Error, LayerBlob, MutableRef, ProviderSource, RecordOptions, Ref, Result, UsageRecord,
};

/// All records of a state root. Cheap to clone.
#[derive(Clone)]
pub struct CacheManager {
    pub(crate) shared: Arc<Shared>,
}

impl CacheManager {
    /// Opens the records, drops those that an unclean end left in doubt, and removes snapshots that no
    /// record names.
    pub async fn new(
        root: &StateRoot,
        content: ContentStore,
        snapshots: Snapshots,
    ) -> Result<Self> {
        let parallel = std::thread::available_parallelism().map_or(4, |n| n.get().max(4));
        let shared = Arc::new(Shared {
            db: root.db(),
            content,
            snapshots,
            tmp_dir: root.tmp_dir(),
            state: parking_lot::Mutex::new(State::default()),
            providers: parking_lot::RwLock::default(),
            removed: parking_lot::RwLock::default(),
            holders: parking_lot::RwLock::default(),
            work: Arc::new(tokio::sync::Semaphore::new(parallel)),
            values_queued: 0.into(),
            values_flushed: 0.into(),
        });
        let (loading, recovery) = (Arc::clone(&shared), root.recovery());
        tokio::task::spawn_blocking(move || crate::load::load(&loading, recovery))
            .await
            .map_err(|_| Error::Cancelled)??;
        Ok(Self { shared })
    }

    /// Who makes providers for lazy layers from before a restart.
    pub fn set_provider_source(&self, source: Arc<dyn ProviderSource>) {
        *self.shared.providers.write() = Some(source);
    }

    /// Called with the id of each record that was removed, whatever removed it. Must not block.
    pub fn on_removed(&self, callback: Arc<dyn Fn(&RefId) + Send + Sync>) {
        self.shared.removed.write().push(callback);
    }

    /// Asked before a blob is deleted that no record names any more: `true` keeps it (an image of the
    /// local store needs it, say). Must not block.
    pub fn on_delete_blob(&self, holder: Arc<dyn Fn(&Digest) -> bool + Send + Sync>) {
        self.shared.holders.write().push(holder);
    }

    /// The record, or `None` if it is gone, still mutable, or a lazy layer of it can't be had any more.
    /// Touches no layer data.
    #[expect(
        clippy::unused_async,
        reason = "a store over the network would wait here"
    )]
    pub async fn get(&self, id: &RefId) -> Result<Option<Ref>> {
        Ok(self.take_ref(id))
    }

    /// Whether `get` would find it. Doesn't wait.
    pub fn exists(&self, id: &RefId) -> bool {
        self.shared
            .find(id)
            .is_some_and(|record| !record.data.lock().mutable)
    }

    fn take_ref(&self, id: &RefId) -> Option<Ref> {
        let state = self.shared.lock();
        let record = state.records.get(id)?;
        if record.data.lock().mutable {
            return None;
        }
        let found = Ref::new(Hold::new(&self.shared, record, true));
        drop(state);
        match self.shared.attach_providers(&found.hold.record) {
            Ok(()) => Some(found),
            Err(error) => {
                tracing::debug!(%error, "a cached result can't be used");
                None
            }
        }
    }

    /// The handle on a retained mutable record; [`Error::InUse`] while somebody has it, or has the ref that
    /// was committed from it. `None` where there is none.
    pub async fn get_mutable(&self, id: &RefId) -> Result<Option<MutableRef>> {
        let (hold, removal) = {
            let mut state = self.shared.lock();
            let Some(record) = state.records.get(id).cloned() else {
                return Ok(None);
            };
            if !record.data.lock().mutable {
                return Ok(None);
            }
            if !is_unused(&state, &record) {
                return Err(Error::InUse(id.clone()));
            }
            let view = record.data.lock().shared_by.take();
            let removal = view
                .and_then(|view| state.records.get(&view).cloned())
                .map(|view| self.shared.take_view(&mut state, &view));
            (Hold::new(&self.shared, &record, true), removal)
        };
        if let Some(removal) = removal {
            removal.finish(&self.shared).await?;
        }
        Ok(Some(MutableRef::new(hold)))
    }

    /// A new state to write, on top of `parent`, whose layers are fetched without a session where that
    /// hasn't been done ([`Ref::extract`]).
    pub async fn new_mutable(
        &self,
        parent: Option<&Ref>,
        options: RecordOptions,
    ) -> Result<MutableRef> {
        if let Some(parent) = parent {
            let silent = kiln_progress::VertexProgress::silent();
            parent.extract(&[], &silent).await?;
            self.shared.settle_view(&parent.hold.record).await?;
        }
        let id = new_id();
        let lineage = match parent {
            Some(parent) => Lineage::Layer(Arc::clone(&parent.hold.record)),
            None => Lineage::Base,
        };
        let layer = Layer::new(id.as_str(), true);
        let retain = options.retain;
        let record = Shared::new_record(id, lineage, Some(layer), true, true, options);
        let making = Arc::clone(&self.shared);
        let (snapshot, below) = (record.id.clone(), names(&record.stack_below()));
        tokio::task::spawn_blocking(move || {
            let below: Vec<&str> = below.iter().map(String::as_str).collect();
            making.snapshots.create(snapshot.as_str(), &below)
        })
        .await
        .map_err(|_| Error::Cancelled)??;
        let mut state = self.shared.lock();
        state.insert(&record);
        // What isn't retained has no row before it is committed: after a crash it is as if it never was.
        if retain {
            persist::put_record(&self.shared.db, &record);
            if let Some(layer) = &record.layer {
                persist::put_layer(&self.shared.db, layer);
            }
        }
        Ok(MutableRef::new(Hold::new(&self.shared, &record, true)))
    }

    /// A chain of layers on `parent`, none of which need be here; existing records with equal chains are
    /// reused and get the providers. Fails on an empty list without a parent.
    pub async fn layers_from_blobs(
        &self,
        parent: Option<&Ref>,
        blobs: Vec<LayerBlob>,
        options: RecordOptions,
    ) -> Result<Ref> {
        if let Some(parent) = parent {
            self.shared.settle_view(&parent.hold.record).await?;
        }
        let mut at = parent.cloned();
        let last = blobs.len().saturating_sub(1);
        for (i, blob) in blobs.into_iter().enumerate() {
            let mut options = options.clone();
            if i < last {
                options.index.clear();
            }
            if !blob.description.is_empty() {
                options.description.clone_from(&blob.description);
            }
            options.created = blob.created.or(options.created);
            at = Some(self.layer_from_blob(at.as_ref(), blob, options));
        }
        at.ok_or(Error::NoLayers)
    }

    fn layer_from_blob(
        &self,
        parent: Option<&Ref>,
        blob: LayerBlob,
        options: RecordOptions,
    ) -> Ref {
        let parent = parent.map(|parent| &parent.hold.record);
        let own = blob_id(blob.descriptor.digest, blob.diff_id);
        let (chain, blob_chain) = match parent {
            None => (Some(blob.diff_id), Some(own)),
            Some(parent) => (
                parent
                    .chain_id()
                    .map(|below| extend_chain(below, blob.diff_id)),
                parent.blob_chain_id().map(|below| extend_chain(below, own)),
            ),
        };
        let variant = BlobVariant {
            sources: blob
                .provider
                .as_ref()
                .map(|provider| provider.sources())
                .unwrap_or_default(),
            descriptor: blob.descriptor,
            diff_id: blob.diff_id,
            epoch: None,
            provider: blob.provider,
        };
        let (found, is_new) = {
            let mut state = self.shared.lock();
            let known = blob_chain
                .and_then(|chain| state.by_blob_chain.get(&chain))
                .or_else(|| chain.and_then(|chain| state.by_chain.get(&chain)))
                .and_then(|id| state.records.get(id))
                .cloned();
            match known {
                Some(record) => (Ref::new(Hold::new(&self.shared, &record, true)), false),
                None => {
                    let id = new_id();
                    let layer = Layer::new(id.as_str(), false);
                    layer.add_blob(variant.clone());
                    let lineage =
                        parent.map_or(Lineage::Base, |parent| Lineage::Layer(Arc::clone(parent)));
                    let record = Shared::new_record(id, lineage, Some(layer), true, false, options);
                    self.shared.insert(&mut state, &record);
                    (Ref::new(Hold::new(&self.shared, &record, true)), true)
                }
            }
        };
        if let Some(layer) = &found.hold.record.layer {
            if is_new {
                persist::put_blobs(&self.shared.db, layer);
            } else {
                self.shared.add_blob(layer, variant);
            }
        }
        found
    }

    /// The states one over the other, the first one lowest. Lazy. Fails on an empty list.
    pub async fn merge(&self, mut refs: Vec<Ref>, options: RecordOptions) -> Result<Ref> {
        if refs.len() <= 1 {
            return refs.pop().ok_or(Error::NoLayers);
        }
        for part in &refs {
            self.shared.settle_view(&part.hold.record).await?;
        }
        let parents = refs
            .iter()
            .map(|part| Arc::clone(&part.hold.record))
            .collect();
        let record = self.shared.new_merge(parents, options);
        let mut state = self.shared.lock();
        self.shared.insert(&mut state, &record);
        Ok(Ref::new(Hold::new(&self.shared, &record, true)))
    }

    /// What makes `upper` from `lower`; `None` where that is nothing. Lazy.
    pub async fn diff(
        &self,
        lower: Option<Ref>,
        upper: Option<Ref>,
        options: RecordOptions,
    ) -> Result<Option<Ref>> {
        for side in lower.iter().chain(&upper) {
            self.shared.settle_view(&side.hold.record).await?;
        }
        let record = |side: &Option<Ref>| side.as_ref().map(|side| Arc::clone(&side.hold.record));
        let Some(record) = self
            .shared
            .new_diff(record(&lower), record(&upper), options)
        else {
            return Ok(None);
        };
        let mut state = self.shared.lock();
        if !state.records.contains_key(&record.id) {
            self.shared.insert(&mut state, &record);
        }
        Ok(Some(Ref::new(Hold::new(&self.shared, &record, true))))
    }

    /// Records with the index key, the most recently used first.
    pub fn search(&self, index_key: &str) -> Vec<RefId> {
        let state = self.shared.lock();
        let mut found: Vec<_> = state
            .by_index
            .get(index_key)
            .into_iter()
            .flatten()
            .filter_map(|id| state.records.get(id))
            .map(|record| {
                let data = record.data.lock();
                (data.last_used.unwrap_or(data.created), record.id.clone())
            })
            .collect();
        found.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// What all records occupy. Sizes that aren't known yet are measured.
    pub async fn usage(&self) -> Result<Vec<UsageRecord>> {
        self.shared.usage().await
    }

    /// The records whose layers are just those of one of these images, told by their diff ids, and the records
    /// that share files with them.
    pub fn with_layers(&self, images: &[Vec<Digest>]) -> HashSet<RefId> {
        self.shared.with_layers(images)
    }

    /// Removes a record that nothing uses; [`Error::InUse`] otherwise.
    pub async fn remove(&self, id: &RefId) -> Result<()> {
        self.shared.remove(id).await
    }

    /// Removes those of the records that nothing uses and nobody pinned, in this order (what is built on a
    /// record goes before it); says which went.
    pub async fn remove_all(&self, ids: &[RefId]) -> Result<Vec<RefId>> {
        self.shared.remove_all(ids).await
    }

    /// Whether a record, a lease or somebody outside ([`on_delete_blob`](Self::on_delete_blob)) needs a blob.
    pub fn needs_blob(&self, digest: &Digest) -> bool {
        self.shared.is_blob_needed(digest)
    }

    /// Keeps a record from being pruned by policies, or lets it go.
    pub fn set_pinned(&self, id: &RefId, pinned: bool) -> Result<()> {
        let record = self
            .shared
            .find(id)
            .ok_or_else(|| Error::NotFound(id.clone()))?;
        record.data.lock().pinned = pinned;
        persist::amend_record(&self.shared.db, &record);
        Ok(())
    }
}

impl Shared {
    /// Gives a ref that shares a mutable record's files these files for good, because something is to be
    /// built on it. The mutable record goes.
    pub(crate) async fn settle_view(self: &Arc<Self>, record: &Arc<Record>) -> Result<()> {
        let removal = {
            let mut state = self.lock();
            let Some(mutable) = record.data.lock().shares_with.take() else {
                return Ok(());
            };
            let Some(mutable) = state.records.get(&mutable).cloned() else {
                return Ok(());
            };
            {
                let mut data = mutable.data.lock();
                data.owns_layer = false;
                data.shared_by = None;
            }
            record.data.lock().owns_layer = true;
            let tree = std::mem::take(&mut *mutable.tree.lock());
            if let crate::record::TreeSlot::Loaded(tree) = tree {
                self.put_value(&record.id, persist::TREE, tree.to_bytes());
                *record.tree.lock() = crate::record::TreeSlot::Loaded(tree);
            }
            persist::put_record(&self.db, record);
            self.take_view(&mut state, &mutable)
        };
        removal.finish(self).await
    }
}

impl std::fmt::Debug for CacheManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheManager")
            .field("records", &self.shared.lock().records.len())
            .finish_non_exhaustive()
    }
}
