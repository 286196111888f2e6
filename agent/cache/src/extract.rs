//! Makes the files of lazy layers: fetch, decompress, verify and extract at the same time, several
//! layers side by side.
//!
//! Where layers are independent (overlayfs) they are extracted in any order and stacked afterwards.
//! Where a snapshot is a whole state, they come one after the other. A layer that fails leaves nothing;
//! the others stay, and a next attempt goes on from there.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use futures::future::BoxFuture;
use kiln_content::codec::{Decompressor, ReadAhead};
use kiln_ids::SessionId;
use kiln_oci::{Descriptor, Digest, Digester};
use kiln_progress::{Status, VertexProgress};
use kiln_snapshot::apply::Applied;
use kiln_snapshot::tar::Limits;
use parking_lot::Mutex;

use crate::persist;
use crate::record::{BlobVariant, Layer, Lineage, Record};
use crate::shared::Shared;
use crate::{Error, Result};

/// Who asks, and who is told.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) sessions: &'a [SessionId],
    pub(crate) progress: &'a VertexProgress,
}

impl Shared {
    /// Makes sure that the files of a record's whole stack are there.
    pub(crate) fn extract<'a>(
        self: &'a Arc<Self>,
        record: &'a Arc<Record>,
        asker: Asker<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let chain = owners(record);
            if chain.iter().all(|owner| {
                owner
                    .layer
                    .as_ref()
                    .is_none_or(|layer| layer.is_extracted())
            }) {
                return Ok(());
            }
            self.attach_providers(record)?;
            if self.snapshots.layers_are_independent() {
                let lazy = chain.iter().filter(|owner| is_lazy(owner));
                let tasks: Vec<_> = lazy
                    .map(|owner| self.extract_own(owner, Vec::new(), asker))
                    .collect();
                futures::future::try_join_all(tasks).await?;
            } else {
                for owner in chain.iter().filter(|owner| is_lazy(owner)) {
                    let below = names(&owner.stack_below());
                    self.extract_own(owner, below, asker).await?;
                }
            }
            self.settle(record).await
        })
    }

    /// Makes the files of a record's own layer.
    fn extract_own<'a>(
        self: &'a Arc<Self>,
        record: &'a Arc<Record>,
        below: Vec<String>,
        asker: Asker<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some(layer) = &record.layer else {
                return Ok(());
            };
            let has_blob = !layer.info.lock().blobs.is_empty();
            if !has_blob {
                return self.compose_files(record, layer, asker).await;
            }
            let turn = Arc::clone(&layer.work).lock_owned().await;
            if layer.is_extracted() {
                return Ok(());
            }
            let permit = Arc::clone(&self.work)
                .acquire_owned()
                .await
                .map_err(|_| Error::Cancelled)?;
            let blob = self.choose_blob(record, layer)?;
            let started = report(asker.progress, &blob.descriptor, None);
            let (follow, stop) = self.content.follow(&blob.descriptor.digest);
            let (shared, target) = (Arc::clone(self), Arc::clone(layer));
            let variant = blob.clone();
            let is_lowest = matches!(record.lineage, Lineage::Base);
            // The thread holds the layer's turn: if nobody waits any more, it ends soon, as no bytes come,
            // and only then somebody else may try.
            let extraction = tokio::task::spawn_blocking(move || {
                let _held = (turn, permit);
                shared.unpack(&target, &variant, follow, &below, is_lowest)
            });
            let fetched = match &blob.provider {
                Some(provider) if self.content.info(&blob.descriptor.digest).is_none() => {
                    provider
                        .fetch(&blob.descriptor, asker.sessions, asker.progress)
                        .await
                }
                _ => Ok(()),
            };
            drop(stop);
            let extracted = extraction.await.map_err(|_| Error::Cancelled)?;
            // The end of the download explains the end of the extraction.
            fetched.map_err(|source| Error::Fetch {
                blob: blob.descriptor.digest,
                source,
            })?;
            extracted?;
            report(asker.progress, &blob.descriptor, Some(started));
            self.note_build_time(record, started);
            Ok(())
        })
    }

    /// What it costs to have a pulled layer again: as long as it took this time.
    fn note_build_time(&self, record: &Record, started: SystemTime) {
        {
            let mut data = record.data.lock();
            if data.build_time.is_some() {
                return;
            }
            data.build_time = started.elapsed().ok();
        }
        persist::amend_record(&self.db, record);
    }

    /// The form of a layer that is the quickest to have.
    fn choose_blob(&self, record: &Record, layer: &Layer) -> Result<BlobVariant> {
        let info = layer.info.lock();
        let plain = || info.blobs.iter().filter(|blob| blob.epoch.is_none());
        let local = plain().find(|blob| self.content.info(&blob.descriptor.digest).is_some());
        let chosen = local.or_else(|| plain().find(|blob| blob.provider.is_some()));
        chosen.cloned().ok_or_else(|| match info.blobs.first() {
            Some(blob) => Error::NoProvider {
                record: record.id.clone(),
                blob: blob.descriptor.digest,
            },
            None => Error::NotFound(record.id.clone()),
        })
    }

    /// Decompresses and hashes on one thread, extracts on this one.
    fn unpack(
        &self,
        layer: &Layer,
        blob: &BlobVariant,
        source: impl Read + Send + 'static,
        below: &[String],
        is_lowest: bool,
    ) -> Result<()> {
        let digester = Arc::new(Mutex::new(Digester::new()));
        let failed = |source| Error::Io {
            doing: "failed to decompress layer",
            path: blob.descriptor.digest.to_string().into(),
            source,
        };
        let hashed = Hashed {
            inner: Decompressor::new(source).map_err(failed)?,
            digester: Arc::clone(&digester),
        };
        let ahead = ReadAhead::new(hashed).map_err(failed)?;
        let limits = Limits::for_blob(blob.descriptor.size);
        let applied = self.fill_snapshot(layer, below, is_lowest, ahead, limits)?;
        let found = take_digest(&digester);
        if found != blob.diff_id {
            self.snapshots.remove(&layer.snapshot)?;
            return Err(Error::DiffIdMismatch {
                blob: blob.descriptor.digest,
                expected: blob.diff_id,
                found,
            });
        }
        self.finish_files(layer, applied);
        Ok(())
    }

    /// Extracts an archive into the layer's snapshot; a failure leaves no snapshot.
    fn fill_snapshot(
        &self,
        layer: &Layer,
        below: &[String],
        is_lowest: bool,
        archive: impl Read,
        limits: Limits,
    ) -> Result<Applied> {
        let below: Vec<&str> = below.iter().map(String::as_str).collect();
        let buffered = std::io::BufReader::with_capacity(128 << 10, archive);
        let applied = self
            .snapshots
            .create(&layer.snapshot, &below)
            .and_then(|()| {
                self.snapshots
                    .apply(&layer.snapshot, buffered, is_lowest, limits)
            });
        if applied.is_err()
            && let Err(error) = self.snapshots.remove(&layer.snapshot)
        {
            tracing::warn!(%error, "half a layer stays until the next start");
        }
        Ok(applied?)
    }

    /// Notes that the layer's files are there.
    pub(crate) fn finish_files(&self, layer: &Layer, applied: Applied) {
        layer.info.lock().implied = applied.implied_dirs;
        layer.extracted.store(true, Ordering::Release);
        persist::put_layer(&self.db, layer);
    }

    /// Gives implied directories the attributes they have below, the lowest layer first.
    async fn settle(self: &Arc<Self>, record: &Arc<Record>) -> Result<()> {
        let stack = record.stack();
        if stack
            .iter()
            .all(|layer| layer.info.lock().implied.is_empty())
        {
            return Ok(());
        }
        let shared = Arc::clone(self);
        let settled = tokio::task::spawn_blocking(move || {
            for (i, layer) in stack.iter().enumerate() {
                let implied = layer.info.lock().implied.clone();
                if implied.is_empty() {
                    continue;
                }
                let below: Vec<&str> = stack[..i]
                    .iter()
                    .map(|layer| layer.snapshot.as_str())
                    .collect();
                shared.snapshots.settle(&layer.snapshot, &implied, &below)?;
                layer.info.lock().implied.clear();
                persist::put_layer(&shared.db, layer);
            }
            Ok::<_, Error>(())
        });
        settled.await.map_err(|_| Error::Cancelled)?
    }
}

/// Names of the snapshots of a stack.
pub(crate) fn names(stack: &[Arc<Layer>]) -> Vec<String> {
    stack.iter().map(|layer| layer.snapshot.clone()).collect()
}

fn is_lazy(record: &Record) -> bool {
    record
        .layer
        .as_ref()
        .is_some_and(|layer| !layer.is_extracted())
}

/// The records whose layers make a record's stack, the lowest first.
pub(crate) fn owners(record: &Arc<Record>) -> Vec<Arc<Record>> {
    let mut owners = Vec::new();
    push_owners(record, &mut owners);
    owners
}

fn push_owners(record: &Arc<Record>, owners: &mut Vec<Arc<Record>>) {
    let mut chain = Vec::new();
    let mut at = record;
    loop {
        match (&at.lineage, &at.layer) {
            (Lineage::Layer(parent), Some(_)) => {
                chain.push(Arc::clone(at));
                at = parent;
            }
            (_, Some(_)) => {
                chain.push(Arc::clone(at));
                break;
            }
            (lineage, None) => {
                for parent in lineage.parents() {
                    push_owners(parent, owners);
                }
                break;
            }
        }
    }
    owners.extend(chain.into_iter().rev());
}

fn report(
    progress: &VertexProgress,
    descriptor: &Descriptor,
    started: Option<SystemTime>,
) -> SystemTime {
    let begun = started.unwrap_or_else(SystemTime::now);
    progress.status(Status {
        id: format!("extracting {}", descriptor.digest),
        name: String::new(),
        current: 0,
        total: 0,
        started: Some(begun),
        completed: started.map(|_| SystemTime::now()),
    });
    begun
}

/// Hashes what is read through it.
pub(crate) struct Hashed<R> {
    pub(crate) inner: R,
    pub(crate) digester: Arc<Mutex<Digester>>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.digester.lock().update(&buffer[..n]);
        Ok(n)
    }
}

/// The digest of all bytes that went through a [`Hashed`] or a hashing writer.
pub(crate) fn take_digest(digester: &Mutex<Digester>) -> Digest {
    std::mem::take(&mut *digester.lock()).finish()
}
