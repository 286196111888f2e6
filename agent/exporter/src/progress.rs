//! Statuses below an exporter's vertex.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kiln_filesync::Progress;
use kiln_progress::{Status, VertexProgress};
use parking_lot::Mutex;

const REPORT: Duration = Duration::from_millis(100);

fn status(id: &str, started: SystemTime, current: u64, ended: bool) -> Status {
    Status {
        id: id.to_owned(),
        name: String::new(),
        current: current.try_into().unwrap_or(i64::MAX),
        total: 0,
        started: Some(started),
        completed: ended.then(SystemTime::now),
    }
}

/// A status from its beginning to its drop.
pub(crate) struct Step {
    progress: VertexProgress,
    id: String,
    started: SystemTime,
}

impl Step {
    pub(crate) fn begin(progress: &VertexProgress, id: impl Into<String>) -> Self {
        let step = Self {
            progress: progress.clone(),
            id: id.into(),
            started: SystemTime::now(),
        };
        step.progress
            .status(status(&step.id, step.started, 0, false));
        step
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.progress
            .status(status(&self.id, self.started, 0, true));
    }
}

/// Reports the bytes of a transfer of files, not too often.
pub(crate) fn transfer(progress: &VertexProgress, id: &str) -> Progress {
    let started = SystemTime::now();
    let (progress, id) = (progress.clone(), id.to_owned());
    progress.status(status(&id, started, 0, false));
    let last = Mutex::new(Instant::now());
    Arc::new(move |moved, end| {
        let mut last = last.lock();
        if end || last.elapsed() >= REPORT {
            *last = Instant::now();
            progress.status(status(&id, started, moved, end));
        }
    })
}

/// Reports the bytes of an upload.
pub(crate) fn upload(
    progress: &VertexProgress,
    id: &str,
    total: u64,
) -> Arc<dyn Fn(u64) + Send + Sync> {
    let started = SystemTime::now();
    let (progress, id) = (progress.clone(), id.to_owned());
    let last = Mutex::new(Instant::now());
    Arc::new(move |sent| {
        let mut last = last.lock();
        if sent >= total || last.elapsed() >= REPORT {
            *last = Instant::now();
            let mut status = status(&id, started, sent, sent >= total);
            status.total = total.try_into().unwrap_or(i64::MAX);
            progress.status(status);
        }
    })
}
