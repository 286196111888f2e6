//! Containers by Kiln's own slot processes.
//!
//! ```text
//! run ─► a slot from the pool (or a new one) ─► mounts made detached, here ─► job to the slot
//!     ─► pidfd comes back ─► report pipe closes: it runs ─► exit code comes back ─► slot to the pool
//! ```
//! What a container start costs elsewhere is paid once per slot here: the program, the seccomp filter,
//! the cgroup. The daemon makes the mounts, for they refer to its files; the slot only moves them.
//!
//! Invariants: a container is killed by its first process's descriptor, and its pid namespace takes
//! the rest along; a slot goes back to the pool only after its container ended in an orderly way.

mod attend;
mod job;
mod pool;
mod slot;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::containers::{Containers, Place};
use crate::task::blocking;
use crate::{ContainerSpec, Executor, ExecutorError, Exit, ProcessIo, ProcessSpec};
use attend::{Attend, Connected};
use pool::{Pool, Seat};
use slot::Slot;

/// Output of children that a further process left is waited for this long.
const EXEC_PATIENCE: Duration = Duration::from_millis(200);

/// What the executor needs to know.
#[derive(Debug, Clone)]
pub struct SlotConfig {
    /// The program that becomes a slot when it is run under the name
    /// [`SLOT`](kiln_sys::launcher::SLOT); the daemon's own.
    pub program: PathBuf,
    /// A directory of its own.
    pub root: PathBuf,
    /// For containers that name no parent of their own; below the daemon's own group where empty.
    pub cgroup_parent: String,
    /// Idle slots that are kept.
    pub idle: usize,
}

/// See the module.
#[derive(Debug)]
pub struct SlotExecutor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: SlotConfig,
    pool: Pool,
    containers: Containers<Arc<Slot>>,
}

impl SlotExecutor {
    /// Removes what an earlier daemon left. No slot is started yet.
    pub fn new(config: SlotConfig) -> Result<Self, ExecutorError> {
        let inner = Inner {
            pool: Pool::new(&config)?,
            containers: Containers::default(),
            config,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Starts a slot ahead of the first container.
    pub async fn warm(&self) -> Result<(), ExecutorError> {
        let seat = self
            .inner
            .pool
            .seat(&self.inner.config.cgroup_parent, false)
            .await?;
        self.inner.pool.give_back(seat);
        Ok(())
    }
}

impl Inner {
    async fn run(
        self: Arc<Self>,
        mut place: Place<Arc<Slot>>,
        process: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError> {
        let container = Arc::clone(&place.spec);
        let parent = if container.cgroup_parent.is_empty() {
            &self.config.cgroup_parent
        } else {
            &container.cgroup_parent
        };
        let seat = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ExecutorError::Cancelled),
            seat = self.pool.seat(parent, container.privileged) => seat?,
        };
        let tell = |slot: &Arc<Slot>| place.runs(Arc::clone(slot));
        let result = self
            .contain(&seat, container, process, io, tell, &cancel)
            .await;
        place.ended();
        match &result {
            // After anything unusual a slot is not trusted with another container.
            Ok(_) | Err(ExecutorError::Program { .. } | ExecutorError::Cancelled) => {
                self.pool.give_back(seat);
            }
            Err(_) => self.pool.dismiss(seat).await,
        }
        result
    }

    async fn contain(
        &self,
        seat: &Seat,
        container: Arc<ContainerSpec>,
        process: ProcessSpec,
        io: ProcessIo,
        tell: impl FnOnce(&Arc<Slot>),
        cancel: &CancellationToken,
    ) -> Result<Exit, ExecutorError> {
        let limits = container.limits.clone();
        let program = process.args.first().cloned().unwrap_or_default();
        let (scratch, group) = (self.config.root.clone(), seat.group.clone());
        let (mut job, kills) = {
            let (container, process) = (Arc::clone(&container), process.clone());
            let nodev = seat.nodev;
            blocking(move || {
                group.limit(&limits)?;
                let job = job::container(&container, &process, nodev, &scratch)?;
                Ok((job, group.oom_kills()))
            })
            .await?
        };
        if let Some(fd) = seat.group.start_in(&mut job)? {
            job.fds.push(fd);
        }
        let mut connected = Connected::new(io, process.terminal)?;
        let (report, theirs) = job::pipe()?;
        job.connect(theirs, connected.take_child());
        let code = {
            let started = seat.slot.run(job).await?;
            let attend = Attend {
                started,
                report,
                program: &program,
                connected,
                patience: None,
                cancel,
            };
            attend.until_exit(|| tell(&seat.slot)).await
        };
        let group = seat.group.clone();
        let after = blocking(move || {
            let kills = group.oom_kills().saturating_sub(kills);
            group.reset()?;
            Ok(kills)
        })
        .await?;
        Ok(Exit {
            code: code?,
            out_of_memory: after > 0,
        })
    }

    async fn exec(
        self: Arc<Self>,
        id: String,
        process: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError> {
        let running = self.containers.running(&id, &cancel).await?;
        let program = process.args.first().cloned().unwrap_or_default();
        let mut job = job::further(running.spec(), &process)?;
        let mut connected = Connected::new(io, process.terminal)?;
        let (report, theirs) = job::pipe()?;
        job.connect(theirs, connected.take_child());
        let started = running.handle.run(job).await.map_err(|error| match error {
            ExecutorError::Prepare { source, .. }
                if source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
            {
                ExecutorError::NotRunning(id)
            }
            other => other,
        })?;
        let attend = Attend {
            started,
            report,
            program: &program,
            connected,
            patience: Some(EXEC_PATIENCE),
            cancel: &cancel,
        };
        let code = attend.until_exit(|| {}).await?;
        Ok(Exit {
            code,
            out_of_memory: false,
        })
    }
}

#[async_trait]
impl Executor for SlotExecutor {
    async fn drain(&self) {
        self.inner.containers.drain().await;
        self.inner.pool.clear().await;
    }

    async fn run(
        &self,
        container: ContainerSpec,
        process: ProcessSpec,
        io: ProcessIo,
        started: Option<tokio::sync::oneshot::Sender<()>>,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError> {
        let place = self.inner.containers.enter(container, started)?;
        let inner = Arc::clone(&self.inner);
        let work = |token| inner.run(place, process, io, token);
        self.inner.containers.supervise(&cancel, work).await
    }

    async fn exec(
        &self,
        container: &str,
        process: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError> {
        let (inner, id) = (Arc::clone(&self.inner), container.to_owned());
        let work = |token| inner.exec(id, process, io, token);
        self.inner.containers.supervise(&cancel, work).await
    }
}
