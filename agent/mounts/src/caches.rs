//! Cache mounts from outside of steps: listed, looked into, exported, imported and cleared.
//!
//! Looking is no use: a step gets the mount all the same, and files may change while they are read. What
//! changes a mount (import, clear) takes its key first, which fails while a step has it; steps that come
//! then wait. An import that replaces the files puts the new ones beside the old ones first, so that a
//! broken archive changes nothing; the record is another one then.
//!
//! Invariants: a path never leads out of the mount, whatever links are in it; only regular files are
//! opened; an archive writes nothing outside of the mount, and its device nodes are left out.

mod files;
#[cfg(test)]
mod tests;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use kiln_cache::{CacheManager, MutableRef, RecordOptions, RootPath, UsageKind, UsageRecord};
use kiln_ids::RefId;
use kiln_proto::pb::CacheSharingOpt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::Error;
use crate::cache::{INDEX, Table, Wanted};

pub use files::{Directory, FileEntry, FileKind};

/// Pieces of a file or an archive.
pub type Pieces = mpsc::Receiver<std::io::Result<Bytes>>;

/// The name of a [`Note`] among a record's values.
const NOTE: &str = "cache-mount.v1";

/// What a step that got a cache mount leaves with its record.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Note {
    id: String,
    target: String,
    sharing: String,
    build: String,
}

impl Note {
    pub(crate) fn of(wanted: &Wanted<'_>, sharing: CacheSharingOpt) -> Self {
        let sharing = match sharing {
            CacheSharingOpt::Shared => "shared",
            CacheSharingOpt::Private => "private",
            CacheSharingOpt::Locked => "locked",
        };
        Self {
            id: wanted.id.to_owned(),
            target: wanted.target.to_owned(),
            sharing: sharing.to_owned(),
            build: wanted.build.to_owned(),
        }
    }

    pub(crate) fn keep(&self, record: &MutableRef) {
        // A struct of strings can always be written.
        record.put_value(NOTE, serde_json::to_vec(self).unwrap_or_default());
    }

    /// What is known of a record; of one from before notes were kept the id only.
    fn read(cache: &CacheManager, record: &RefId) -> Self {
        let stored = cache.value_of(record, NOTE);
        stored
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_else(|| Self {
                id: key_of(cache, record).unwrap_or_default(),
                ..Self::default()
            })
    }
}

/// The key under which steps look for a record.
fn key_of(cache: &CacheManager, record: &RefId) -> Option<String> {
    let index = cache.index_of(record);
    index
        .iter()
        .find_map(|key| Some(key.strip_prefix(INDEX)?.to_owned()))
}

/// A cache mount as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMountInfo {
    /// Its record.
    pub record: RefId,
    /// The `id=` of the mount, or its target where none was given.
    pub id: String,
    /// How the last step shared it: `shared`, `private` or `locked`; empty where that is unknown.
    pub sharing: String,
    /// Bytes on disk; 0 while a step writes.
    pub bytes: u64,
    /// When it was made.
    pub created: SystemTime,
    /// When a step last gave it back.
    pub last_used: Option<SystemTime>,
    /// The last build that mounted it; empty where that is unknown.
    pub last_build: String,
    /// A step has it now.
    pub in_use: bool,
}

/// What an import goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheTarget {
    /// An existing cache mount.
    Record(RefId),
    /// The cache mount that steps with this `id=` get; made where there is none.
    Id(String),
}

/// The cache mounts of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caches {
    cache: CacheManager,
    scratch: PathBuf,
    table: Arc<Table>,
}

impl Caches {
    pub(crate) fn new(cache: CacheManager, scratch: PathBuf, table: Arc<Table>) -> Self {
        Self {
            cache,
            scratch,
            table,
        }
    }

    /// All cache mounts, the last used first.
    pub async fn list(&self) -> Result<Vec<CacheMountInfo>, Error> {
        let mut records = self.cache.usage().await?;
        records.retain(|record| record.kind == UsageKind::ExecCacheMount && record.mutable);
        records.sort_by_key(|record| std::cmp::Reverse(record.last_used));
        let cache = self.cache.clone();
        blocking(move || Ok(records.into_iter().map(|one| info(&cache, one)).collect())).await
    }

    /// One of them.
    pub async fn get(&self, record: &RefId) -> Result<CacheMountInfo, Error> {
        let all = self.list().await?;
        all.into_iter()
            .find(|mount| mount.record == *record)
            .ok_or_else(|| Error::NotCacheMount(record.clone()))
    }

    /// The entries of a directory, by their names.
    pub async fn browse(&self, record: &RefId, path: &str) -> Result<Directory, Error> {
        let (root, path) = (self.look(record).await?, path.to_owned());
        blocking(move || files::list(root.path(), &path)).await
    }

    /// The bytes of a regular file.
    pub async fn read(&self, record: &RefId, path: &str) -> Result<Pieces, Error> {
        let (root, path) = (self.look(record).await?, path.to_owned());
        let (root, file) = blocking(move || {
            let file = files::open(root.path(), &path)?;
            Ok((root, file))
        })
        .await?;
        Ok(transfer::send_file(root, file))
    }

    /// All files as an uncompressed tar.
    pub async fn export(&self, record: &RefId) -> Result<Pieces, Error> {
        Ok(transfer::send_archive(self.look(record).await?))
    }

    /// Replaces a mount's files by those of a tar (plain or compressed), or adds them where `merge` is set.
    pub async fn import(
        &self,
        target: CacheTarget,
        merge: bool,
        archive: Pieces,
    ) -> Result<CacheMountInfo, Error> {
        let (record, key) = match target {
            CacheTarget::Record(record) => {
                let key = self.key(&record)?;
                (Some(record), key)
            }
            CacheTarget::Id(id) => {
                let known = self.cache.search(&format!("{INDEX}{id}"));
                (known.into_iter().next(), id)
            }
        };
        let _turn = self.table.maintain(&key).await?;
        let old = match &record {
            Some(record) => Some(self.take(record, &key).await?),
            None => None,
        };
        let filled = match old {
            Some(record) if merge => {
                let id = record.id().clone();
                // Its record stays when the handle is dropped, also where the archive is broken.
                transfer::unpack(record, self.scratch.clone(), archive, false).await?;
                id
            }
            old => self.replace(old, &key, archive).await?,
        };
        self.get(&filled).await
    }

    /// Puts the files of an archive in the place of `old`.
    async fn replace(
        &self,
        old: Option<MutableRef>,
        key: &str,
        archive: Pieces,
    ) -> Result<RefId, Error> {
        let seed = old.as_ref().and_then(MutableRef::parent);
        let (note, pinned, description) = match &old {
            Some(old) => {
                let (cache, id) = (self.cache.clone(), old.id().clone());
                let note = blocking(move || Ok(Note::read(&cache, &id))).await?;
                let usage = self.cache.usage().await?;
                let known = usage.into_iter().find(|record| record.id == *old.id());
                let pinned = known.as_ref().is_some_and(|record| record.pinned);
                let description = known.map(|record| record.description);
                (note, pinned, description.unwrap_or_default())
            }
            None => {
                let note = Note {
                    id: key.to_owned(),
                    ..Note::default()
                };
                (
                    note,
                    false,
                    format!("cached mount with id {key:?}, imported"),
                )
            }
        };
        // Not retained before it is filled: half a cache must not be found, after a crash neither.
        let options = RecordOptions {
            kind: UsageKind::ExecCacheMount,
            index: vec![format!("{INDEX}{key}")],
            ..RecordOptions::described(description)
        };
        let fresh = self.cache.new_mutable(seed.as_ref(), options).await?;
        let fresh = transfer::unpack(fresh, self.scratch.clone(), archive, true).await?;
        note.keep(&fresh);
        let id = fresh.id().clone();
        fresh.retain();
        if pinned {
            self.cache.set_pinned(&id, true)?;
        }
        if let Some(old) = old {
            old.discard().await?;
        }
        Ok(id)
    }

    /// Removes a mount; says how many bytes it had. The next step that asks for it begins with an empty one.
    pub async fn clear(&self, record: &RefId) -> Result<u64, Error> {
        let key = self.key(record)?;
        let _turn = self.table.maintain(&key).await?;
        let bytes = self.get(record).await?.bytes;
        self.take(record, &key).await?.discard().await?;
        Ok(bytes)
    }

    fn key(&self, record: &RefId) -> Result<String, Error> {
        key_of(&self.cache, record).ok_or_else(|| Error::NotCacheMount(record.clone()))
    }

    /// The files as they are.
    async fn look(&self, record: &RefId) -> Result<RootPath, Error> {
        self.key(record)?;
        let found = self.cache.peek(record).await?;
        found.ok_or_else(|| Error::NotCacheMount(record.clone()))
    }

    /// The right to write it, which no step has then.
    async fn take(&self, record: &RefId, key: &str) -> Result<MutableRef, Error> {
        match self.cache.get_mutable(record).await {
            Ok(Some(handle)) => Ok(handle),
            Ok(None) => Err(Error::NotCacheMount(record.clone())),
            Err(kiln_cache::Error::InUse(_)) => Err(Error::CacheInUse(key.to_owned())),
            Err(error) => Err(error.into()),
        }
    }
}

fn info(cache: &CacheManager, record: UsageRecord) -> CacheMountInfo {
    let note = Note::read(cache, &record.id);
    CacheMountInfo {
        record: record.id,
        id: note.id,
        sharing: note.sharing,
        bytes: record.size,
        created: record.created,
        last_used: record.last_used,
        last_build: note.build,
        in_use: record.in_use,
    }
}

/// Runs work that waits for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Cancelled)?
}
