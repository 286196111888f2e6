//! The record of a build, from its begin to what is added after its end.

use std::sync::Arc;

use bytes::Bytes;
use kiln_proto::moby::buildkit::v1 as control;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{Ending, Error, Finished, History, Record};
use crate::{Details, Event, spool};

/// The record of a build that runs.
#[derive(Debug)]
pub struct Running {
    pub(crate) history: History,
    pub(crate) record: Record,
    pub(crate) done: bool,
}

impl Running {
    /// The record as it was at the start.
    pub fn record(&self) -> &control::BuildHistoryRecord {
        &self.record
    }

    /// Where the build spools its log, for [`spool::record`].
    pub fn spool(&self, progress: kiln_progress::Reader) -> Recording {
        let ended = CancellationToken::new();
        let record = spool::record(
            self.history.spool.clone(),
            self.record.as_ref().clone(),
            progress,
            ended.clone(),
        );
        Recording {
            task: tokio::spawn(record),
            ended,
        }
    }

    /// The build ended: from now on its record is found among the finished ones. What is returned may add to
    /// it; until it is dropped, [`History::finalize`] waits.
    pub fn complete(mut self, record: control::BuildHistoryRecord, details: Details) -> Completed {
        self.done = true;
        let reference = record.r#ref.clone();
        let (wanted, is_wanted) = watch::channel(false);
        let (still_there, done) = watch::channel(());
        let (detailed, is_detailed) = watch::channel(false);
        let ending = Ending {
            wanted,
            detailed: is_detailed,
            done,
        };
        self.history.lock().ending.insert(reference.clone(), ending);
        self.history.remember(Finished {
            record: Arc::new(record),
            details: Arc::new(details),
        });
        Completed {
            history: self.history.clone(),
            reference,
            is_wanted,
            detailed,
            _still_there: still_there,
        }
    }
}

/// The log of a running build, on its way to disk.
#[derive(Debug)]
pub struct Recording {
    task: tokio::task::JoinHandle<Option<Bytes>>,
    ended: CancellationToken,
}

impl Recording {
    /// The whole log, once the progress has ended; `None` where it couldn't be kept.
    pub async fn finish(self) -> Option<Bytes> {
        self.ended.cancel();
        self.task.await.ok().flatten()
    }
}

/// A record that may still be added to.
#[derive(Debug)]
pub struct Completed {
    history: History,
    reference: String,
    is_wanted: watch::Receiver<bool>,
    detailed: watch::Sender<bool>,
    _still_there: watch::Sender<()>,
}

impl Completed {
    /// The build.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// What Kiln keeps of the build is complete.
    pub fn set_detailed(&self) {
        self.detailed.send_replace(true);
    }

    /// Waits until somebody wants the record as it will stay.
    pub async fn wanted(&mut self) {
        if self.is_wanted.wait_for(|wanted| *wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Makes the record durable and lets go of the spool.
    pub async fn settle(self) -> Result<(), Error> {
        self.history.settle().await?;
        let directory = spool::directory(&self.history.spool, &self.reference);
        // Failures of threads and of removing leave a directory that the next start takes care of.
        let _ = tokio::task::spawn_blocking(move || spool::remove(&directory)).await;
        Ok(())
    }
}

impl Drop for Completed {
    fn drop(&mut self) {
        self.history.lock().ending.remove(&self.reference);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut live = self.history.lock();
        live.running.remove(&self.record.r#ref);
        let reference = self.record.r#ref.clone();
        live.tell(&Event::Deleted(reference));
        spool::remove(&spool::directory(&self.history.spool, &self.record.r#ref));
    }
}
