//! The end of a record: out of the maps first, then its rows, then its files and blobs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kiln_ids::RefId;
use kiln_oci::Digest;

use crate::persist;
use crate::record::{Layer, Record};
use crate::shared::{Shared, State};
use crate::{Error, Result};

/// What is left to do for records that are out of the maps.
#[derive(Debug, Default)]
#[must_use = "files stay behind until it is finished"]
pub(crate) struct Removal {
    ids: Vec<RefId>,
    snapshots: Vec<String>,
    blobs: Vec<Digest>,
}

/// Whether nothing uses a record, so that it could be removed now.
pub(crate) fn is_unused(state: &State, record: &Record) -> bool {
    if record.handles.load(Ordering::Acquire) > 0 || record.children.load(Ordering::Acquire) > 0 {
        return false;
    }
    let data = record.data.lock();
    let twin = data.shared_by.as_ref().or(data.shares_with.as_ref());
    let twin = twin.and_then(|id| state.records.get(id));
    twin.is_none_or(|twin| {
        twin.handles.load(Ordering::Acquire) == 0 && twin.children.load(Ordering::Acquire) == 0
    })
}

/// Whether somebody asked for a record to stay, or for the one that shares its files.
pub(crate) fn is_pinned(state: &State, record: &Record) -> bool {
    let twin = {
        let data = record.data.lock();
        if data.pinned {
            return true;
        }
        data.shared_by.clone().or_else(|| data.shares_with.clone())
    };
    twin.and_then(|id| state.records.get(&id))
        .is_some_and(|twin| twin.data.lock().pinned)
}

impl Shared {
    /// Takes a record that nothing uses out of the maps and queues the end of its rows; with it goes the
    /// record that shares its files.
    pub(crate) fn take_out(&self, state: &mut State, record: &Arc<Record>) -> Removal {
        let mut removal = Removal::default();
        self.take_one(state, record, &mut removal);
        let twin = {
            let mut data = record.data.lock();
            data.shared_by.take().or_else(|| data.shares_with.take())
        };
        if let Some(twin) = twin.and_then(|id| state.records.get(&id).cloned()) {
            self.take_one(state, &twin, &mut removal);
        }
        removal
    }

    /// Takes a view out of the maps, whose files stay with the mutable record.
    pub(crate) fn take_view(&self, state: &mut State, view: &Arc<Record>) -> Removal {
        let mut removal = Removal::default();
        self.take_one(state, view, &mut removal);
        removal
    }

    fn take_one(&self, state: &mut State, record: &Arc<Record>, removal: &mut Removal) {
        state.take(record);
        removal.ids.push(record.id.clone());
        let owned = record
            .layer
            .as_ref()
            .filter(|_| record.data.lock().owns_layer);
        if let Some(layer) = owned {
            removal.snapshots.push(layer.snapshot.clone());
            for blob in &layer.info.lock().blobs {
                let digest = blob.descriptor.digest;
                let uses = state.blob_uses.entry(digest).or_default();
                *uses = uses.saturating_sub(1);
                if *uses == 0 {
                    state.blob_uses.remove(&digest);
                    removal.blobs.push(digest);
                }
            }
        }
        persist::delete_record(
            &self.db,
            &record.id,
            owned.map(|layer| layer.snapshot.clone()),
        );
    }

    /// Adds a form of a layer to what is known and stored of it.
    pub(crate) fn add_blob(&self, layer: &Layer, variant: crate::record::BlobVariant) {
        let digest = variant.descriptor.digest;
        let mut state = self.lock();
        if layer.add_blob(variant) {
            *state.blob_uses.entry(digest).or_default() += 1;
        }
        drop(state);
        persist::put_blobs(&self.db, layer);
    }

    /// Removes a record that nothing uses.
    pub(crate) async fn remove(self: &Arc<Self>, id: &RefId) -> Result<()> {
        let removal = {
            let mut state = self.lock();
            let record = state
                .records
                .get(id)
                .cloned()
                .ok_or_else(|| Error::NotFound(id.clone()))?;
            if !is_unused(&state, &record) {
                return Err(Error::InUse(id.clone()));
            }
            self.take_out(&mut state, &record)
        };
        removal.finish(self).await
    }

    /// Removes those of the records that nothing uses and nobody pinned, in this order; says which went.
    pub(crate) async fn remove_all(self: &Arc<Self>, ids: &[RefId]) -> Result<Vec<RefId>> {
        let mut gone = Vec::with_capacity(ids.len());
        let mut removals = Removal::default();
        {
            let mut state = self.lock();
            for id in ids {
                let Some(record) = state.records.get(id).cloned() else {
                    continue;
                };
                if is_unused(&state, &record) && !is_pinned(&state, &record) {
                    let removal = self.take_out(&mut state, &record);
                    removals.ids.extend(removal.ids);
                    removals.snapshots.extend(removal.snapshots);
                    removals.blobs.extend(removal.blobs);
                    gone.push(id.clone());
                }
            }
        }
        removals.finish(self).await?;
        Ok(gone)
    }

    fn remove_files(&self, snapshots: &[String]) -> Result<()> {
        for snapshot in snapshots {
            self.snapshots.remove(snapshot)?;
        }
        Ok(())
    }

    /// Whether a record, a lease or somebody outside needs a blob.
    pub(crate) fn is_blob_needed(&self, digest: &Digest) -> bool {
        self.lock().blob_uses.contains_key(digest)
            || self.content.leases().is_held(&digest.to_string())
            || self.holders.read().iter().any(|holds| holds(digest))
    }

    async fn remove_blobs(&self, blobs: Vec<Digest>) -> Result<()> {
        let unneeded = blobs.iter().filter(|digest| !self.is_blob_needed(digest));
        // Together, so that the database takes them in one transaction.
        futures::future::try_join_all(unneeded.map(|digest| self.content.delete(digest))).await?;
        Ok(())
    }
}

impl Removal {
    /// Removes the files and blobs. What a crash or an error leaves behind goes at the next start.
    pub(crate) async fn finish(self, shared: &Arc<Shared>) -> Result<()> {
        for id in &self.ids {
            shared.announce_removed(id);
        }
        let owner = Arc::clone(shared);
        let snapshots = self.snapshots;
        if !snapshots.is_empty() {
            tokio::task::spawn_blocking(move || owner.remove_files(&snapshots))
                .await
                .map_err(|_| Error::Cancelled)??;
        }
        shared.remove_blobs(self.blobs).await
    }

    /// The same without waiting, from where nothing can wait.
    pub(crate) fn finish_in_background(self, shared: &Arc<Shared>) {
        let shared = Arc::clone(shared);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = self.finish(&shared).await {
                    tracing::warn!(%error, "files of a discarded record stay until the next start");
                }
            });
        } else if let Err(error) = shared.remove_files(&self.snapshots) {
            tracing::warn!(%error, "files of a discarded record stay until the next start");
        }
    }
}
