//! The records themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use kiln_content::ContentStore;
use kiln_oci::Digest;
use kiln_proto::moby::buildkit::v1 as control;
use kiln_store::{Database, Epochs, StateRoot};
use prost::Message as _;
use tokio::sync::{mpsc, watch};

use crate::explain::{FileList, FileLists, Ingredients, Salt};
use crate::record::{LOG_MEDIA_TYPE, encode_log, moment, owned, results};
use crate::retention::Kept;
use crate::{Blob, Details, Event, Listen, Listener, Retention, Running, Traces, spool};

/// Why history could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error("history index")]
    Database(#[from] kiln_store::Error),
    /// The content store failed.
    #[error("history blob")]
    Content(#[from] kiln_content::Error),
    /// No such record.
    #[error("no build record {0:?}")]
    NoSuchRecord(String),
    /// A build of this name is running.
    #[error("build {0:?} is still running")]
    Running(String),
}

pub(crate) type Record = Arc<control::BuildHistoryRecord>;

/// A finished build.
#[derive(Debug, Clone)]
pub struct Finished {
    /// As clients see it.
    pub record: Record,
    /// What only Kiln has.
    pub details: Arc<Details>,
}

impl Finished {
    /// The blobs that exist for this record.
    fn owned(&self) -> Vec<Digest> {
        owned(&self.record)
            .into_iter()
            .chain(self.details.blobs())
            .collect()
    }
}

/// How the end of a record is asked for, and how it is told.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) wanted: watch::Sender<bool>,
    /// What Kiln keeps beside the record is complete.
    pub(crate) detailed: watch::Receiver<bool>,
    pub(crate) done: watch::Receiver<()>,
}

#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) running: BTreeMap<String, Record>,
    finished: BTreeMap<String, Finished>,
    pub(crate) ending: BTreeMap<String, Ending>,
    listeners: Vec<mpsc::UnboundedSender<Event>>,
    closed: bool,
}

impl Live {
    pub(crate) fn tell(&mut self, event: &Event) {
        self.listeners
            .retain(|listener| listener.send(event.clone()).is_ok());
    }
}

/// All build records of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct History {
    database: Database,
    epochs: Epochs,
    content: ContentStore,
    pub(crate) spool: PathBuf,
    retention: Retention,
    salt: Salt,
    traces: Traces,
    live: Arc<Mutex<Live>>,
}

impl History {
    /// Loads the records. One that can't be read any more is left out and removed; builds that died with
    /// the daemon before get a record.
    pub async fn open(
        state: &StateRoot,
        content: ContentStore,
        retention: Retention,
    ) -> Result<Self, Error> {
        let database = state.db();
        type Row = (String, Vec<u8>, String);
        let (rows, salt): (Vec<Row>, Vec<u8>) = database
            .read(|connection| {
                let rows = connection
                    .prepare("SELECT ref, record, details FROM history_records")?
                    .query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                    .collect::<Result<_, _>>()?;
                let salt =
                    connection.query_row("SELECT salt FROM history_salt", (), |row| row.get(0))?;
                Ok((rows, salt))
            })
            .await?;
        let mut live = Live::default();
        let mut unreadable = Vec::new();
        for (reference, row, details) in rows {
            let finished = control::BuildHistoryRecord::decode(Bytes::from(row))
                .ok()
                .map(|record| Finished {
                    record: Arc::new(record),
                    details: Arc::new(Details::decode(&details)),
                });
            let is_whole = |finished: &Finished| {
                finished
                    .owned()
                    .iter()
                    .all(|blob| content.info(blob).is_some())
            };
            match finished.filter(is_whole) {
                Some(finished) => {
                    live.finished.insert(reference, finished);
                }
                None => unreadable.push(reference),
            }
        }
        let history = Self {
            database,
            epochs: state.epochs(),
            content,
            spool: state.history_dir(),
            retention,
            salt: Salt(salt),
            traces: Traces::default(),
            live: Arc::new(Mutex::new(live)),
        };
        for reference in unreadable {
            tracing::warn!(
                build = reference,
                "build record dropped: its blobs are gone"
            );
            history.forget_row(reference);
        }
        history.bury_dead().await?;
        Ok(history)
    }

    /// Makes records of the builds that died with the daemon before.
    async fn bury_dead(&self) -> Result<(), Error> {
        let dead = spool::find_dead(&self.spool);
        if dead.is_empty() {
            return Ok(());
        }
        let mut directories = Vec::new();
        for one in dead {
            directories.push(one.directory.clone());
            if self.get(&one.record.r#ref).is_some() {
                continue;
            }
            let (mut record, log) = spool::obituary(one);
            tracing::warn!(build = record.r#ref, "a build died with the daemon before");
            let log = self
                .put(LOG_MEDIA_TYPE, Vec::new(), encode_log(&log))
                .await?;
            let details = Details {
                bytes: log.size,
                ..Details::default()
            };
            record.logs = Some(log.to_wire());
            self.remember(Finished {
                record: Arc::new(record),
                details: Arc::new(details),
            });
        }
        self.epochs.barrier().await?;
        for directory in directories {
            spool::remove(&directory);
        }
        Ok(())
    }

    /// Returns once everything that was recorded so far survives a loss of power.
    pub async fn settle(&self) -> Result<(), Error> {
        Ok(self.epochs.barrier().await?)
    }

    /// The spans of clients.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Makes digests of values.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// A build begins. Its record ends with [`Running::complete`], or as cancelled when dropped.
    pub fn start(&self, record: control::BuildHistoryRecord) -> Running {
        let record = Arc::new(record);
        let mut live = self.lock();
        live.running
            .insert(record.r#ref.clone(), Arc::clone(&record));
        live.tell(&Event::Started(Arc::clone(&record)));
        Running {
            history: self.clone(),
            record,
            done: false,
        }
    }

    /// Stores a blob that a record will name.
    pub async fn put(
        &self,
        media_type: &str,
        annotations: Vec<(String, String)>,
        bytes: Bytes,
    ) -> Result<Blob, Error> {
        let info = self.content.put(bytes).await?;
        Ok(Blob {
            digest: info.digest,
            size: info.size,
            media_type: media_type.to_owned(),
            annotations,
        })
    }

    /// The finished record.
    pub fn get(&self, reference: &str) -> Option<Record> {
        self.finished(reference).map(|finished| finished.record)
    }

    /// The finished record with what only Kiln has of it.
    pub fn finished(&self, reference: &str) -> Option<Finished> {
        self.lock().finished.get(reference).cloned()
    }

    /// All finished builds, the newest first.
    pub fn all(&self) -> Vec<Finished> {
        let mut all: Vec<Finished> = self.lock().finished.values().cloned().collect();
        all.sort_by_key(|one| std::cmp::Reverse(moment(one.record.created_at.as_ref())));
        all
    }

    /// The last build of the same project before this one.
    pub fn previous(&self, finished: &Finished) -> Option<Finished> {
        let project = finished.details.project.as_ref()?;
        let order = |record: &control::BuildHistoryRecord| {
            (moment(record.created_at.as_ref()), record.r#ref.clone())
        };
        let own = order(&finished.record);
        self.all().into_iter().find(|other| {
            let same = other.details.project.as_ref();
            same.is_some_and(|one| one.key == project.key) && order(&other.record) < own
        })
    }

    /// What a build's steps were made from; `None` where that isn't known.
    pub async fn ingredients(&self, finished: &Finished) -> Result<Option<Ingredients>, Error> {
        let Some(digest) = finished.details.ingredients else {
            return Ok(None);
        };
        Ok(Ingredients::decode(&self.content.read(&digest).await?))
    }

    /// Lists of files by digest. One that is gone is left out.
    pub async fn file_lists(&self, digests: &[Digest]) -> FileLists {
        let mut lists = FileLists::new();
        for digest in digests {
            if let Ok(blob) = self.content.read(digest).await {
                lists.insert(*digest, FileList::decode(&blob));
            }
        }
        lists
    }

    /// Names of the builds that run.
    pub fn running(&self) -> Vec<String> {
        self.lock().running.keys().cloned().collect()
    }

    /// The log of a finished build; `None` where there is no such build.
    pub async fn log(
        &self,
        reference: &str,
    ) -> Result<Option<Vec<control::StatusResponse>>, Error> {
        let Some(record) = self.get(reference) else {
            return Ok(None);
        };
        let digest = record
            .logs
            .as_ref()
            .and_then(|logs| logs.digest.parse::<Digest>().ok());
        match digest {
            Some(digest) => Ok(Some(crate::read_log(self.content.read(&digest).await?))),
            None => Ok(Some(Vec::new())),
        }
    }

    /// What is there, then what happens.
    pub fn listen(&self, listen: Listen) -> Listener {
        let mut live = self.lock();
        let wanted =
            |record: &&Record| listen.reference.is_empty() || record.r#ref == listen.reference;
        let mut there: Vec<Event> = live
            .running
            .values()
            .filter(wanted)
            .cloned()
            .map(Event::Started)
            .collect();
        if !listen.active_only {
            let mut finished: Vec<Record> = live
                .finished
                .values()
                .map(|finished| &finished.record)
                .filter(wanted)
                .filter(|record| listen.filter.matches(record))
                .cloned()
                .collect();
            if listen.limit > 0 {
                finished
                    .sort_by_key(|record| std::cmp::Reverse(moment(record.created_at.as_ref())));
                finished.truncate(listen.limit);
            }
            there.extend(finished.into_iter().map(Event::Completed));
        }
        let later = (!listen.early_exit && !live.closed).then(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            live.listeners.push(sender);
            receiver
        });
        Listener {
            there: there.into_iter(),
            later,
            reference: listen.reference,
        }
    }

    /// Protects a record from retention, or stops protecting it.
    pub async fn pin(&self, reference: &str, pinned: bool) -> Result<(), Error> {
        self.change(reference, |record| record.pinned = pinned)?;
        self.settle().await
    }

    /// Changes a finished record and tells listeners.
    pub fn change(
        &self,
        reference: &str,
        change: impl FnOnce(&mut control::BuildHistoryRecord),
    ) -> Result<(), Error> {
        let mut live = self.lock();
        let old = live
            .finished
            .get(reference)
            .ok_or_else(|| Error::NoSuchRecord(reference.to_owned()))?;
        let mut record = control::BuildHistoryRecord::clone(&old.record);
        change(&mut record);
        record.generation += 1;
        let changed = Finished {
            record: Arc::new(record),
            details: Arc::clone(&old.details),
        };
        self.write_row(&changed);
        live.tell(&Event::Completed(Arc::clone(&changed.record)));
        live.finished.insert(reference.to_owned(), changed);
        Ok(())
    }

    /// Adds to what Kiln keeps of a finished record, and counts the bytes of what was added. Listeners see
    /// nothing of it.
    pub fn add_details(
        &self,
        reference: &str,
        change: impl FnOnce(&mut Details),
    ) -> Result<(), Error> {
        let mut live = self.lock();
        let old = live
            .finished
            .get_mut(reference)
            .ok_or_else(|| Error::NoSuchRecord(reference.to_owned()))?;
        change(Arc::make_mut(&mut old.details));
        self.write_row(old);
        Ok(())
    }

    /// Waits until what Kiln keeps of a finished build is complete.
    pub async fn detailed(&self, reference: &str) {
        let detailed = self
            .lock()
            .ending
            .get(reference)
            .map(|ending| ending.detailed.clone());
        if let Some(mut detailed) = detailed {
            // Dropped means that nothing comes any more.
            let _ = detailed.wait_for(|detailed| *detailed).await;
        }
    }

    /// Asks for the end of a record that is still being added to (its trace), and waits for it. Returns once
    /// the record is durable.
    pub async fn finalize(&self, reference: &str) -> Result<(), Error> {
        let done = {
            let live = self.lock();
            live.ending.get(reference).map(|ending| {
                ending.wanted.send_replace(true);
                ending.done.clone()
            })
        };
        if let Some(mut done) = done {
            // Ends when the other side is dropped.
            while done.changed().await.is_ok() {}
        }
        self.settle().await
    }

    /// Removes a finished record and the blobs that only it names. Removing one that isn't there is
    /// no failure.
    pub async fn delete(&self, reference: &str) -> Result<(), Error> {
        let blobs = {
            let mut live = self.lock();
            if live.running.contains_key(reference) {
                return Err(Error::Running(reference.to_owned()));
            }
            let Some(finished) = live.finished.remove(reference) else {
                return Ok(());
            };
            live.tell(&Event::Deleted(reference.to_owned()));
            let kept: BTreeSet<Digest> = live.finished.values().flat_map(Finished::owned).collect();
            let mut blobs = finished.owned();
            blobs.retain(|blob| !kept.contains(blob));
            blobs
        };
        self.forget_row(reference.to_owned());
        for blob in blobs {
            self.content.delete(&blob).await?;
        }
        Ok(())
    }

    /// Removes what retention doesn't keep.
    pub async fn expire(&self) -> Result<(), Error> {
        let expired = {
            let live = self.lock();
            let kept = live.finished.values().map(|finished| Kept {
                record: &finished.record,
                bytes: finished.details.bytes,
            });
            self.retention.expired(kept, SystemTime::now())
        };
        for reference in expired {
            self.delete(&reference).await?;
        }
        Ok(())
    }

    /// Digests of blobs that records name: garbage collection leaves them alone.
    pub fn blobs(&self) -> BTreeSet<Digest> {
        self.lock()
            .finished
            .values()
            .flat_map(|one| one.owned().into_iter().chain(results(&one.record)))
            .collect()
    }

    /// Whether some record names the blob.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.lock()
            .finished
            .values()
            .any(|one| one.owned().contains(digest) || results(&one.record).contains(digest))
    }

    /// Ends all listeners: the daemon stops.
    pub fn close(&self) {
        let mut live = self.lock();
        live.closed = true;
        live.listeners.clear();
    }

    /// A record that is new here.
    pub(crate) fn remember(&self, finished: Finished) {
        self.write_row(&finished);
        let mut live = self.lock();
        live.running.remove(&finished.record.r#ref);
        live.tell(&Event::Completed(Arc::clone(&finished.record)));
        live.finished
            .insert(finished.record.r#ref.clone(), finished);
    }

    fn write_row(&self, finished: &Finished) {
        let reference = finished.record.r#ref.clone();
        let row = finished.record.encode_to_vec();
        let details = finished.details.encode();
        self.database.enqueue(move |tx| {
            tx.execute(
                "INSERT INTO history_records (ref, record, details, epoch) VALUES (?1, ?2, ?3, current_epoch())
                 ON CONFLICT (ref) DO UPDATE
                 SET record = excluded.record, details = excluded.details, epoch = excluded.epoch",
                (reference, row, details),
            )
            .map(|_| ())
        });
    }

    fn forget_row(&self, reference: String) {
        self.database.enqueue(move |tx| {
            tx.execute("DELETE FROM history_records WHERE ref = ?1", (reference,))
                .map(|_| ())
        });
    }

    /// Changes under the lock are whole once made: a poisoned state is still a right one.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
