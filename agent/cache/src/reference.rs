//! Handles on immutable records.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kiln_content::CompressionSpec;
use kiln_ids::{RefId, SessionId};
use kiln_oci::Digest;
use kiln_progress::VertexProgress;
use kiln_sys::mount::{Keep, MountSpec, Mountable, TempMount};

use crate::extract::{Asker, names};
use crate::hold::Hold;
use crate::persist;
use crate::record::{Lineage, Record};
use crate::{Error, LayerBlob, Origin, Result};

/// How a record came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefKind {
    /// A layer on nothing.
    Base,
    /// A layer on a parent.
    Layer,
    /// Several states, one over the other.
    Merge,
    /// What makes one state from another.
    Diff,
}

/// A handle on an immutable state. Clones count: while one lives, the record isn't removed. Dropping
/// the last one notes the time of use.
#[derive(Clone)]
pub struct Ref {
    pub(crate) hold: Arc<Hold>,
}

impl Ref {
    pub(crate) fn new(hold: Hold) -> Self {
        Self {
            hold: Arc::new(hold),
        }
    }

    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.hold.record
    }

    /// The record's name.
    pub fn id(&self) -> &RefId {
        &self.record().id
    }

    /// How the record came to be.
    pub fn kind(&self) -> RefKind {
        match self.record().lineage {
            Lineage::Base => RefKind::Base,
            Lineage::Layer(_) => RefKind::Layer,
            Lineage::Merge(_) => RefKind::Merge,
            Lineage::Diff { .. } => RefKind::Diff,
        }
    }

    /// Whether some layer's bytes would have to be fetched before the files can be read.
    pub fn is_lazy(&self) -> bool {
        let shared = &self.hold.shared;
        self.record().stack().iter().any(|layer| {
            !layer.is_extracted()
                && !layer.info.lock().blobs.is_empty()
                && !shared.has_local_blob(layer)
        })
    }

    /// The OCI chain id over the diff ids of its layers; `None` while some diff id isn't known.
    pub fn chain_id(&self) -> Option<Digest> {
        self.record().chain_id()
    }

    /// One ref per layer, the oldest first. Each is a state of its own only where `self` is a plain chain;
    /// for merges and diffs they are what is stacked.
    pub fn layers(&self) -> Vec<Ref> {
        crate::blobs::blob_owners(self.record())
            .iter()
            .map(|record| Ref::new(Hold::new(&self.hold.shared, record, false)))
            .collect()
    }

    /// Fetches and extracts lazy layers, in parallel, so that mounts need not wait.
    pub async fn extract(&self, sessions: &[SessionId], progress: &VertexProgress) -> Result<()> {
        let asker = Asker { sessions, progress };
        self.hold.shared.extract(self.record(), asker).await
    }

    /// Mounts of the state, read-only. Extracts lazy layers first. Fails with [`Error::Immutable`] unless
    /// `readonly`.
    pub async fn mountable(
        &self,
        readonly: bool,
        sessions: &[SessionId],
        progress: &VertexProgress,
    ) -> Result<Mountable> {
        if !readonly {
            return Err(Error::Immutable(self.id().clone()));
        }
        self.extract(sessions, progress).await?;
        Ok(Mountable::new(self.specs()?, self.clone()))
    }

    fn specs(&self) -> Result<Vec<MountSpec>> {
        let stack = names(&self.record().stack());
        let stack: Vec<&str> = stack.iter().map(String::as_str).collect();
        let is_difference = matches!(self.record().lineage, Lineage::Diff { .. });
        Ok(self
            .hold
            .shared
            .snapshots
            .read_only(&stack, is_difference)?)
    }

    /// A directory with the state's files, for reading. No mount is made where the state is one directory.
    pub async fn root_path(
        &self,
        sessions: &[SessionId],
        progress: &VertexProgress,
    ) -> Result<RootPath> {
        self.extract(sessions, progress).await?;
        let mut specs = self.specs()?;
        if let [only] = specs.as_mut_slice()
            && only.fstype == "bind"
        {
            let path = std::mem::take(&mut only.source);
            return Ok(RootPath::new(path, self.clone()));
        }
        let tmp = self.hold.shared.tmp_dir.clone();
        let mounting = tokio::task::spawn_blocking(move || TempMount::new(&specs, &tmp));
        let mount = mounting
            .await
            .map_err(|_| Error::Cancelled)?
            .map_err(kiln_snapshot::Error::from)?;
        // The mount goes before the hold on its layers.
        Ok(RootPath::new(
            mount.path().to_owned(),
            (mount, self.clone()),
        ))
    }

    /// Its layers as blobs, the oldest first. With `create`, missing blobs are made: diffs are computed and
    /// compressed once and remembered per compression; without, a layer that has no blob makes the whole list
    /// empty. Lazy blobs stay lazy unless another compression is forced.
    pub async fn blobs(
        &self,
        spec: &CompressionSpec,
        create: bool,
        sessions: &[SessionId],
        progress: &VertexProgress,
    ) -> Result<Vec<LayerBlob>> {
        let asker = Asker { sessions, progress };
        self.hold
            .shared
            .blobs(self.record(), spec, create, None, asker)
            .await
    }

    /// The same with no time in the layers later than `epoch` (seconds since 1970), as `rewrite-timestamp`
    /// wants it. Layers whose diff id is in `keep` are left as they are (those of a base image).
    pub async fn rewritten_blobs(
        &self,
        spec: &CompressionSpec,
        epoch: i64,
        keep: &[Digest],
        sessions: &[SessionId],
        progress: &VertexProgress,
    ) -> Result<Vec<LayerBlob>> {
        let asker = Asker { sessions, progress };
        self.hold
            .shared
            .blobs(self.record(), spec, true, Some((epoch, keep)), asker)
            .await
    }

    /// What people see of it.
    pub fn description(&self) -> String {
        self.record().data.lock().description.clone()
    }

    /// Changes what people see of it.
    pub fn set_description(&self, description: impl Into<String>) {
        self.record().data.lock().description = description.into();
        persist::amend_record(&self.hold.shared.db, self.record());
    }

    /// When it was made.
    pub fn created(&self) -> std::time::SystemTime {
        self.record().data.lock().created
    }

    /// Notes how long the step took that made the record, and for whom; a record that was there before
    /// `since`, or is told about already, stays as it is.
    pub fn made(&self, since: SystemTime, time: Duration, origin: Option<&Arc<Origin>>) {
        {
            let mut data = self.record().data.lock();
            if data.created < since || data.build_time.is_some() || data.origin.is_some() {
                return;
            }
            data.build_time = Some(time);
            data.origin = origin.cloned();
        }
        let shared = &self.hold.shared;
        persist::amend_record(&shared.db, self.record());
        // What the files are shared with is shown in this one's place when nobody uses it.
        let twin = self.record().data.lock().shares_with.clone();
        if let Some(twin) = twin.and_then(|id| shared.find(&id)) {
            {
                let mut data = twin.data.lock();
                data.build_time = Some(time);
                data.origin = origin.cloned();
            }
            persist::amend_record(&shared.db, &twin);
        }
    }

    /// A value kept with the record.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.hold.shared.value(self.record(), key)
    }

    /// Keeps a value with the record (`key` names its kind).
    pub fn set_value(&self, key: &str, value: Vec<u8>) {
        self.hold.shared.put_value(self.id(), key, value.clone());
        let mut data = self.record().data.lock();
        data.values.insert(key.to_owned(), value);
    }

    /// Bytes on disk of its own layer and blobs.
    pub async fn size(&self) -> Result<u64> {
        self.hold.shared.size(self.record()).await
    }
}

impl std::fmt::Debug for Ref {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ref").field(self.id()).finish()
    }
}

/// A directory that holds a state's files while this lives; a temporary mount goes away with it.
pub struct RootPath {
    path: PathBuf,
    _keep: Box<dyn Keep>,
}

impl RootPath {
    /// A directory that is there as long as `keep`.
    pub(crate) fn new(path: PathBuf, keep: impl Keep + 'static) -> Self {
        Self {
            path,
            _keep: Box::new(keep),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl std::fmt::Debug for RootPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RootPath").field(&self.path).finish()
    }
}
