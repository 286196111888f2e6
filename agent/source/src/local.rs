//! A client's directory as a source.
//!
//! Each directory of each client has one mutable record that stays from build to build; a build brings
//! it up to date, which moves only what changed, and takes an immutable ref of it. The record's hash
//! tree is updated as files arrive, so that nothing is read again to know what changed.
//!
//! ```text
//!  record for the key? ── yes, free ──► sync ──► hash tree kept ──► commit ──► Ref
//!        │ no, or used by another build     └─ failed or dropped ──► record discarded
//!        └──► new record ──► sync …
//! ```
//! **Invariant:** a hash tree is kept only with exactly the files that it describes: a record whose
//! sync didn't end well is discarded, even when the daemon died meanwhile ([`DIRTY`]).

mod request;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kiln_cache::{CacheManager, MutableRef, RecordOptions, Ref, UsageKind};
use kiln_filesync::{FileRequest, Progress, ReceiveOptions};
use kiln_ids::SessionId;
use kiln_progress::{Status, VertexProgress};
use kiln_session::{Caller, SessionManager};
use kiln_sys::mount::TempMount;
use parking_lot::Mutex;

pub use request::LocalRequest;
use tree::TreeHook;

/// Set with a record while its files and its hash tree may differ.
const DIRTY: &str = "local.dirty";
/// Progress isn't reported more often than this.
const REPORT: Duration = Duration::from_millis(100);

/// Why a client's directory couldn't be had.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Local sources need a client.
    #[error("could not access local files without session")]
    NoSession,
    /// An attribute that can't be read.
    #[error("invalid value for {key} {value:?}")]
    Attribute {
        /// The attribute.
        key: String,
        /// Its value.
        value: String,
    },
    /// Patterns that don't parse, or a transfer that failed.
    #[error(transparent)]
    Files(#[from] kiln_filesync::Error),
    /// The client failed.
    #[error(transparent)]
    Session(#[from] kiln_session::Error),
    /// The record failed.
    #[error(transparent)]
    Cache(#[from] kiln_cache::Error),
    /// The record couldn't be mounted.
    #[error("mount the record of local source {name:?}")]
    Mount {
        /// The source's name.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Brings clients' directories in.
#[derive(Debug, Clone)]
pub struct LocalSource {
    sessions: SessionManager,
    cache: CacheManager,
    scratch: PathBuf,
}

impl LocalSource {
    /// Directories of the clients of `sessions`, in records of `cache`. What has to be mounted is mounted in `scratch`,
    /// which the daemon's next start clears.
    pub fn new(sessions: SessionManager, cache: CacheManager, scratch: PathBuf) -> Self {
        Self {
            sessions,
            cache,
            scratch,
        }
    }

    /// The directory's present state. A session that isn't there, or hasn't got the directory, is
    /// replaced by the next of the build's.
    pub async fn snapshot(
        &self,
        request: &LocalRequest,
        sessions: &[SessionId],
        progress: &VertexProgress,
    ) -> Result<Ref, LocalError> {
        if let Some(id) = &request.session {
            match self.sessions.get(id).await {
                Ok(caller) => match self.sync(request, caller, progress).await {
                    Err(LocalError::Session(kiln_session::Error::NoDirectory { .. })) => {}
                    result => return result,
                },
                Err(error) => tracing::debug!(%error, "the source's own session is gone"),
            }
        }
        if sessions.is_empty() {
            return Err(LocalError::NoSession);
        }
        self.sessions
            .any(sessions, |caller| self.sync(request, caller, progress))
            .await
    }

    async fn sync(
        &self,
        request: &LocalRequest,
        caller: Caller,
        progress: &VertexProgress,
    ) -> Result<Ref, LocalError> {
        let key = request.shared_key(caller.shared_key());
        let metadata_only = request.metadata_options()?;
        let record = self.record(request, &key).await?;
        let (path, mount) = self.directory(&record, request)?;
        let hook = Arc::new(TreeHook::new(record.take_tree()));
        let held = Arc::new(Held {
            record: Mutex::new(Some(record)),
            _mount: mount,
        });
        {
            let held = Arc::clone(&held);
            hook.on_first_change(move || held.mark_dirty());
        }
        let options = ReceiveOptions {
            differ: request.differ,
            hook: Some(hook.clone()),
            progress: Some(report(progress, &format!("transferring {}:", request.name))),
            metadata_only,
            // The thread that writes may outlive this future by a moment.
            keep: Some(held.clone()),
            ..ReceiveOptions::default()
        };
        let files = FileRequest {
            name: request.name.clone(),
            filter: request.filter.clone(),
        };
        let summary = caller.sync_files(&files, &path, options).await?;
        tracing::debug!(name = %request.name, ?summary, "local source synced");
        // From here on nothing writes any more; taking the record out keeps it from being discarded.
        let Some(record) = held.record.lock().take() else {
            return Err(LocalError::NoSession);
        };
        drop(held);
        record.set_tree(hook.take());
        if hook.changed() {
            record.set_value(DIRTY, Vec::new())?;
        }
        Ok(record
            .commit(RecordOptions {
                description: format!("local source for {}", request.name),
                kind: UsageKind::SourceLocal,
                ..RecordOptions::default()
            })
            .await?)
    }

    /// The record of an earlier build if no other build uses it, else a new one.
    async fn record(&self, request: &LocalRequest, key: &str) -> Result<MutableRef, LocalError> {
        for id in self.cache.search(key) {
            match self.cache.get_mutable(&id).await {
                Ok(Some(record)) if record.value(DIRTY).is_none_or(|mark| mark.is_empty()) => {
                    return Ok(record);
                }
                Ok(Some(record)) => record.discard().await?,
                Ok(None) | Err(kiln_cache::Error::InUse(_)) => {}
                Err(error) => {
                    tracing::warn!(record = %id, %error, "not reusing a local source");
                }
            }
        }
        let options = RecordOptions {
            description: format!("local source for {}", request.name),
            kind: UsageKind::SourceLocal,
            retain: true,
            index: vec![key.to_owned()],
            ..RecordOptions::default()
        };
        Ok(self.cache.new_mutable(None, options).await?)
    }

    /// Where the record's files are, with the mount that this may take.
    fn directory(
        &self,
        record: &MutableRef,
        request: &LocalRequest,
    ) -> Result<(PathBuf, Option<TempMount>), LocalError> {
        if let Some(path) = record.root_path() {
            return Ok((path, None));
        }
        let mountable = record.mountable(false)?;
        let mount = TempMount::new(&mountable.specs, &self.scratch).map_err(|source| {
            LocalError::Mount {
                name: request.name.clone(),
                source: std::io::Error::other(source),
            }
        })?;
        Ok((mount.path().to_owned(), Some(mount)))
    }
}

/// A record that is being written. Unless it is taken out, it is discarded with this.
struct Held {
    record: Mutex<Option<MutableRef>>,
    _mount: Option<TempMount>,
}

impl Held {
    fn mark_dirty(&self) -> Result<(), kiln_cache::Error> {
        match &*self.record.lock() {
            Some(record) => record.set_value(DIRTY, vec![1]),
            None => Ok(()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(record) = self.record.lock().take() else {
            return;
        };
        // Without a runtime the daemon is ending; the mark makes the next one discard the record.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = record.discard().await {
                    tracing::warn!(%error, "an unfinished local source stays behind");
                }
            });
        }
    }
}

/// Reports bytes as they come in, at most every [`REPORT`], and the end.
fn report(progress: &VertexProgress, id: &str) -> Progress {
    let started = SystemTime::now();
    let progress = progress.clone();
    let status = move |id: &str, current: u64, completed| Status {
        id: id.to_owned(),
        name: String::new(),
        current: current.try_into().unwrap_or(i64::MAX),
        total: 0,
        started: Some(started),
        completed,
    };
    progress.status(status(id, 0, None));
    let id = id.to_owned();
    let last = Mutex::new(Instant::now());
    Arc::new(move |moved, end| {
        if end {
            progress.status(status(&id, moved, Some(SystemTime::now())));
            return;
        }
        let mut last = last.lock();
        if last.elapsed() >= REPORT {
            *last = Instant::now();
            progress.status(status(&id, moved, None));
        }
    })
}
