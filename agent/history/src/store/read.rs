//! What is asked of records: one, all, those of a project, what follows.

use std::collections::{BTreeSet, HashMap};

use kiln_oci::Digest;
use kiln_proto::moby::buildkit::v1 as control;
use tokio::sync::mpsc;

use super::{Error, Finished, History, Record};
use crate::explain::{FileList, FileLists, Ingredients};
use crate::record::{moment, results};
use crate::{Event, Listen, Listener, images};

impl History {
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
        self.earlier(finished).into_iter().next()
    }

    /// The builds of the same project before this one, the newest first.
    pub(crate) fn earlier(&self, finished: &Finished) -> Vec<Finished> {
        let Some(project) = &finished.details.project else {
            return Vec::new();
        };
        let order = |record: &control::BuildHistoryRecord| {
            (moment(record.created_at.as_ref()), record.r#ref.clone())
        };
        let own = order(&finished.record);
        let mut earlier = self.all();
        earlier.retain(|other| {
            let same = other.details.project.as_ref();
            same.is_some_and(|one| one.key == project.key) && order(&other.record) < own
        });
        earlier
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

    /// Which build made each of the images: of several that came to the same, the first. Reads no blobs.
    pub fn makers(&self, digests: &BTreeSet<Digest>) -> HashMap<Digest, String> {
        images::makers(self.lock().finished.values(), digests)
    }

    /// The builds that had one of the images among their sources, the newest first. Reads no blobs.
    pub fn users(&self, digests: &BTreeSet<Digest>) -> Vec<Record> {
        images::users(self.lock().finished.values(), digests)
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
}
