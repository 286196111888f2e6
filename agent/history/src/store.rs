//! The records themselves: loaded at the start, made while builds run, kept in memory and in the database.

mod change;
mod read;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kiln_content::ContentStore;
use kiln_oci::Digest;
use kiln_proto::moby::buildkit::v1 as control;
use kiln_store::{Database, Epochs, StateRoot};
use prost::Message as _;
use tokio::sync::{mpsc, watch};

use crate::explain::Salt;
use crate::record::{LOG_MEDIA_TYPE, encode_log, owned};
use crate::{Blob, Details, Event, Retention, Running, Traces, spool};

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
    pub(crate) content: ContentStore,
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
