//! Cache mounts: directories that outlive steps.
//!
//! A cache mount is a mutable record that is found by a key: its id, and the record it was seeded
//! from, if any. Who uses one holds a [`CacheMount`].
//!
//! | sharing | while another step has it |
//! |---|---|
//! | shared | both have the same directory |
//! | locked | waits |
//! | private | gets another one, which also stays for later |

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kiln_cache::{CacheManager, MutableRef, RecordOptions, Ref, UsageKind};
use kiln_proto::pb::CacheSharingOpt;
use kiln_sys::mount::{MountSpec, Mountable, TempMount};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::caches::Note;
use crate::{Caches, Error};

/// What the keys of cache mounts begin with among those that records are found by.
pub(crate) const INDEX: &str = "cache-mount:";

/// A record may also be in use by others than steps (a prune, a copy), who don't tell when they are done.
const RETRY: Duration = Duration::from_millis(250);

/// The cache mounts in use.
#[derive(Debug)]
pub(crate) struct CacheMounts {
    cache: CacheManager,
    scratch: PathBuf,
    table: Arc<Table>,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    shared: Mutex<HashMap<String, Weak<CacheMount>>>,
    /// Keys that are worked on from outside of steps, who wait for it.
    maintained: Mutex<HashSet<String>>,
    /// One at a time looks for a record and makes it.
    searching: tokio::sync::Mutex<()>,
    released: Notify,
}

/// The right to replace what a key leads to. Steps wait until it is dropped.
#[derive(Debug)]
pub(crate) struct Maintained {
    table: Arc<Table>,
    key: String,
}

impl Table {
    /// Takes a key that no step has.
    pub(crate) async fn maintain(self: &Arc<Self>, key: &str) -> Result<Maintained, Error> {
        let _alone = self.searching.lock().await;
        let is_used = self.shared.lock().contains_key(key);
        if is_used || !self.maintained.lock().insert(key.to_owned()) {
            return Err(Error::CacheInUse(key.to_owned()));
        }
        Ok(Maintained {
            table: Arc::clone(self),
            key: key.to_owned(),
        })
    }
}

impl Drop for Maintained {
    fn drop(&mut self) {
        self.table.maintained.lock().remove(&self.key);
        self.table.released.notify_waiters();
    }
}

/// A cache mount in use. Dropping the last handle gives it back.
#[derive(Debug)]
pub(crate) struct CacheMount {
    key: String,
    table: Arc<Table>,
    // In this order: what is mounted goes before the record.
    mounted: Mutex<Option<TempMount>>,
    record: Mutex<Option<MutableRef>>,
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        self.mounted.get_mut().take();
        // Records of cache mounts are made to stay.
        if let Some(record) = self.record.get_mut().take() {
            record.retain();
        }
        let mut shared = self.table.shared.lock();
        if shared
            .get(&self.key)
            .is_some_and(|entry| entry.strong_count() == 0)
        {
            shared.remove(&self.key);
        }
        drop(shared);
        self.table.released.notify_waiters();
    }
}

impl CacheMount {
    /// A mount of the directory, which may be used by several steps at once.
    pub(crate) fn mountable(
        self: &Arc<Self>,
        scratch: &Path,
        target: &Path,
    ) -> Result<Mountable, Error> {
        let specs = match &*self.record.lock() {
            Some(record) => record.mountable(false)?,
            None => return Err(Error::Cancelled),
        };
        if let [spec] = &specs.specs[..]
            && spec.fstype == "bind"
        {
            return Ok(Mountable::new(
                specs.specs.clone(),
                (specs, Arc::clone(self)),
            ));
        }
        // An overlay can't be mounted twice: it is mounted once and bound by each step.
        let mut mounted = self.mounted.lock();
        let mount = match mounted.take() {
            Some(mount) => mount,
            None => TempMount::new(&specs.specs, scratch).map_err(|source| Error::Mount {
                target: target.to_owned(),
                source,
            })?,
        };
        let spec = MountSpec::bind(mount.path(), false);
        *mounted = Some(mount);
        Ok(Mountable::new(vec![spec], (specs, Arc::clone(self))))
    }
}

/// The cache mount that a step asks for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) id: &'a str,
    pub(crate) target: &'a str,
    pub(crate) sharing: i32,
    /// Its content when it is new.
    pub(crate) seed: Option<&'a Ref>,
    /// What of the build asks, for the record's description.
    pub(crate) user: &'a str,
    /// The build that asks; empty where that is unknown.
    pub(crate) build: &'a str,
}

impl CacheMounts {
    pub(crate) fn new(cache: CacheManager, scratch: PathBuf) -> Self {
        Self {
            cache,
            scratch,
            table: Arc::default(),
        }
    }

    /// The cache mount, once it may be used. Dropping the future gives up the place.
    pub(crate) async fn get(&self, wanted: &Wanted<'_>) -> Result<Arc<CacheMount>, Error> {
        let sharing = CacheSharingOpt::try_from(wanted.sharing)
            .map_err(|_| Error::Sharing(wanted.sharing))?;
        let key = match wanted.seed {
            Some(seed) => format!("{}:{}", wanted.id, seed.id()),
            None => wanted.id.to_owned(),
        };
        loop {
            let released = self.table.released.notified();
            tokio::pin!(released);
            // From here on no release is missed.
            released.as_mut().enable();
            if let Some(mount) = self.attempt(&key, sharing, wanted).await? {
                return Ok(mount);
            }
            tokio::select! {
                () = released => {}
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn attempt(
        &self,
        key: &str,
        sharing: CacheSharingOpt,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Arc<CacheMount>>, Error> {
        let _alone = self.table.searching.lock().await;
        if self.table.maintained.lock().contains(key) {
            return Ok(None);
        }
        if sharing == CacheSharingOpt::Shared
            && let Some(entry) = self.table.shared.lock().get(key)
        {
            // An entry without a handle is just being given back: its record is free in a moment, and a new
            // one in its place would be a cache that has forgotten everything.
            let mount = entry.upgrade();
            if let Some(mount) = &mount
                && let Some(record) = &*mount.record.lock()
            {
                Note::of(wanted, sharing).keep(record);
            }
            return Ok(mount);
        }
        let index = format!("{INDEX}{key}");
        let mut found = None;
        let mut busy = false;
        for id in self.cache.search(&index) {
            match self.cache.get_mutable(&id).await {
                Ok(Some(record)) => {
                    found = Some(record);
                    break;
                }
                Ok(None) => {}
                Err(kiln_cache::Error::InUse(_)) => busy = true,
                Err(error) => {
                    tracing::error!(%id, %error, "a cache mount can't be used again");
                }
            }
        }
        let record = match found {
            Some(record) => record,
            None if busy && sharing == CacheSharingOpt::Locked => return Ok(None),
            None => {
                let mut description =
                    format!("cached mount {} from {}", wanted.target, wanted.user);
                if wanted.id != wanted.target {
                    description = format!("{description} with id {:?}", wanted.id);
                }
                let options = RecordOptions {
                    description,
                    kind: UsageKind::ExecCacheMount,
                    retain: true,
                    index: vec![index],
                    ..RecordOptions::default()
                };
                self.cache.new_mutable(wanted.seed, options).await?
            }
        };
        Note::of(wanted, sharing).keep(&record);
        let mount = Arc::new(CacheMount {
            key: key.to_owned(),
            table: Arc::clone(&self.table),
            mounted: Mutex::new(None),
            record: Mutex::new(Some(record)),
        });
        if sharing == CacheSharingOpt::Shared {
            self.table
                .shared
                .lock()
                .insert(key.to_owned(), Arc::downgrade(&mount));
        }
        Ok(Some(mount))
    }

    pub(crate) fn caches(&self) -> Caches {
        Caches::new(
            self.cache.clone(),
            self.scratch.clone(),
            Arc::clone(&self.table),
        )
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }
}

#[cfg(test)]
mod tests;
