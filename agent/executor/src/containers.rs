//! The containers that run, by name: what every executor does around the work that is its own.
//!
//! ```text
//! enter ─► Place ─► runs(handle): whoever waits for the container may go on ─► ended ─► off the table
//! ```
//! Invariants: a name is taken from [`Containers::enter`] until its [`Place`] is dropped, on whatever way;
//! work that was begun comes to its end even if nobody waits for it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::task::supervised;
use crate::{ContainerSpec, ExecutorError, check_id};

type Table<H> = Arc<Mutex<HashMap<String, Entry<H>>>>;

/// The table. `H` is how a further process gets into a container.
#[derive(Debug)]
pub(crate) struct Containers<H> {
    table: Table<H>,
    tracker: TaskTracker,
}

#[derive(Debug, Clone)]
struct Entry<H> {
    spec: Arc<ContainerSpec>,
    handle: watch::Receiver<Option<H>>,
}

impl<H> Default for Containers<H> {
    fn default() -> Self {
        Self {
            table: Table::default(),
            tracker: TaskTracker::new(),
        }
    }
}

impl<H: Clone> Containers<H> {
    /// Puts a container on the table. `started` is told once its first process runs.
    pub(crate) fn enter(
        &self,
        spec: ContainerSpec,
        started: Option<oneshot::Sender<()>>,
    ) -> Result<Place<H>, ExecutorError> {
        check_id(&spec.id)?;
        let spec = Arc::new(spec);
        let (sender, handle) = watch::channel(None);
        let mut table = self.table.lock();
        if table.contains_key(&spec.id) {
            return Err(ExecutorError::Prepare {
                action: format!("create container {}", spec.id),
                source: std::io::ErrorKind::AlreadyExists.into(),
            });
        }
        let entry = Entry {
            spec: Arc::clone(&spec),
            handle,
        };
        table.insert(spec.id.clone(), entry);
        drop(table);
        Ok(Place {
            spec,
            table: Arc::clone(&self.table),
            handle: Some(sender),
            started,
        })
    }

    /// Waits until the first process of a container runs.
    pub(crate) async fn running(
        &self,
        id: &str,
        cancel: &CancellationToken,
    ) -> Result<Running<H>, ExecutorError> {
        let not_running = || ExecutorError::NotRunning(id.to_owned());
        let entry = self.table.lock().get(id).cloned();
        let mut entry = entry.ok_or_else(not_running)?;
        let handle = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ExecutorError::Cancelled),
            found = entry.handle.wait_for(Option::is_some) => {
                found.ok().and_then(|handle| handle.clone()).ok_or_else(not_running)?
            }
        };
        Ok(Running { handle, entry })
    }

    /// Does the work as a task of its own. Dropping this future cancels the token that the work gets.
    pub(crate) async fn supervise<T, F>(
        &self,
        cancel: &CancellationToken,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Result<T, ExecutorError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ExecutorError>> + Send + 'static,
    {
        supervised(&self.tracker, cancel, work).await
    }

    /// Returns once all work has ended; no more may be begun.
    pub(crate) async fn drain(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// A container's name, taken.
#[derive(Debug)]
pub(crate) struct Place<H> {
    pub(crate) spec: Arc<ContainerSpec>,
    table: Table<H>,
    handle: Option<watch::Sender<Option<H>>>,
    started: Option<oneshot::Sender<()>>,
}

impl<H> Place<H> {
    /// The first process runs.
    pub(crate) fn runs(&mut self, handle: H) {
        if let Some(sender) = &self.handle {
            sender.send_replace(Some(handle));
        }
        if let Some(started) = self.started.take() {
            // Whoever asked may have stopped listening.
            let _ = started.send(());
        }
    }

    /// The first process has ended; what is left is to clean up.
    pub(crate) fn ended(&mut self) {
        self.handle = None;
    }
}

impl<H> Drop for Place<H> {
    fn drop(&mut self) {
        self.table.lock().remove(&self.spec.id);
    }
}

/// A container whose first process runs, or did a moment ago.
#[derive(Debug)]
pub(crate) struct Running<H> {
    pub(crate) handle: H,
    entry: Entry<H>,
}

impl<H> Running<H> {
    pub(crate) fn spec(&self) -> &ContainerSpec {
        &self.entry.spec
    }

    /// Whether the first process has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.entry.handle.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kiln_sys::mount::Mountable;

    use super::*;
    use crate::Network;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            id: "one".into(),
            root: Mountable::new(Vec::new(), ()),
            readonly_root: false,
            mounts: Vec::new(),
            hostname: String::new(),
            etc_hosts: None,
            resolv_conf: None,
            network: Network::None,
            privileged: false,
            cgroup_parent: String::new(),
            ulimits: Vec::new(),
            shm_size: None,
            limits: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn a_name_is_taken_until_its_work_ends() {
        let containers = Containers::<u32>::default();
        let cancel = CancellationToken::new();
        let (started, is_started) = oneshot::channel();
        let mut place = containers.enter(spec(), Some(started)).unwrap();
        assert!(containers.enter(spec(), None).is_err());
        place.runs(7);
        is_started.await.unwrap();
        let running = containers.running("one", &cancel).await.unwrap();
        assert_eq!((running.handle, running.is_over()), (7, false));
        place.ended();
        assert!(running.is_over());
        drop(place);
        let gone = containers.running("one", &cancel).await;
        assert!(matches!(gone, Err(ExecutorError::NotRunning(_))));
        containers.enter(spec(), None).unwrap();
    }

    #[tokio::test]
    async fn work_that_never_begins_gives_its_name_back() {
        let containers = Containers::<u32>::default();
        let cancel = CancellationToken::new();
        cancel.cancel();
        let place = containers.enter(spec(), None).unwrap();
        let work = async |_: CancellationToken| {
            drop(place);
            Ok(())
        };
        let result = containers.supervise(&cancel, work).await;
        assert!(matches!(result, Err(ExecutorError::Cancelled)));
        containers.enter(spec(), None).unwrap();
    }
}
