//! What happens to a record after its build: pinned, added to, made final, removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use kiln_oci::Digest;
use kiln_proto::moby::buildkit::v1 as control;

use super::{Error, Finished, History};
use crate::retention::Kept;
use crate::{Details, Event};

impl History {
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
}
