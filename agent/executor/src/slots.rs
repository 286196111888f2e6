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

mod job;
mod pool;
mod slot;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kiln_sys::launcher::{Report, wire};
use kiln_sys::polled::Polled;
use kiln_sys::process::PidFd;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::streams::{self, ChildStreams, Pumps};
use crate::task::{blocking, supervised};
use crate::{
    ContainerSpec, Executor, ExecutorError, Exit, ProcessControl, ProcessIo, ProcessSpec, check_id,
    prepare,
};
use pool::{Pool, Seat};
use slot::{Slot, Started};

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
    tracker: TaskTracker,
}

#[derive(Debug)]
struct Inner {
    config: SlotConfig,
    pool: Pool,
    running: Mutex<HashMap<String, Running>>,
}

#[derive(Debug, Clone)]
struct Running {
    spec: Arc<ContainerSpec>,
    /// The slot, once the first process runs; closes with the container.
    slot: watch::Receiver<Option<Arc<Slot>>>,
}

impl SlotExecutor {
    /// Removes what an earlier daemon left. No slot is started yet.
    pub fn new(config: SlotConfig) -> Result<Self, ExecutorError> {
        let inner = Inner {
            pool: Pool::new(&config)?,
            running: Mutex::default(),
            config,
        };
        Ok(Self {
            inner: Arc::new(inner),
            tracker: TaskTracker::new(),
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
        container: Arc<ContainerSpec>,
        process: ProcessSpec,
        io: ProcessIo,
        started: Option<tokio::sync::oneshot::Sender<()>>,
        running: watch::Sender<Option<Arc<Slot>>>,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError> {
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
        let tell = |slot: &Arc<Slot>| {
            running.send_replace(Some(Arc::clone(slot)));
            if let Some(started) = started {
                // Whoever asked may have stopped listening.
                let _ = started.send(());
            }
        };
        let result = self
            .contain(&seat, container, process, io, tell, &cancel)
            .await;
        drop(running);
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
        let not_running = || ExecutorError::NotRunning(id.clone());
        let mut entry = self
            .running
            .lock()
            .get(&id)
            .cloned()
            .ok_or_else(not_running)?;
        let slot = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ExecutorError::Cancelled),
            slot = entry.slot.wait_for(Option::is_some) => match slot {
                Ok(slot) => slot.clone().ok_or_else(not_running)?,
                Err(_) => return Err(not_running()),
            },
        };
        let program = process.args.first().cloned().unwrap_or_default();
        let mut job = job::further(&entry.spec, &process)?;
        let mut connected = Connected::new(io, process.terminal)?;
        let (report, theirs) = job::pipe()?;
        job.connect(theirs, connected.take_child());
        let started = slot.run(job).await.map_err(|error| match error {
            ExecutorError::Prepare { source, .. }
                if source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
            {
                not_running()
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

/// The two sides of a process's streams.
struct Connected {
    child: Option<job::ChildSide>,
    pumps: Pumps,
    io: ProcessIo,
    /// Where a terminal's controlling side will come from.
    console: Option<OwnedFd>,
}

impl Connected {
    fn new(mut io: ProcessIo, terminal: bool) -> Result<Self, ExecutorError> {
        if terminal {
            let (ours, theirs) = wire::pair().map_err(prepare(|| "make a socket".into()))?;
            return Ok(Self {
                child: Some(job::ChildSide::Terminal(theirs)),
                pumps: Pumps::default(),
                io,
                console: Some(ours),
            });
        }
        let (child, pumps) = streams::pipes(&mut io).map_err(prepare(|| "make pipes".into()))?;
        let ChildStreams {
            stdin,
            stdout,
            stderr,
        } = child;
        Ok(Self {
            child: Some(job::ChildSide::Pipes([stdin, stdout, stderr])),
            pumps,
            io,
            console: None,
        })
    }

    fn take_child(&mut self) -> Option<job::ChildSide> {
        self.child.take()
    }

    /// Connects to the terminal that the process opened.
    fn terminal(&mut self) -> Result<Option<OwnedFd>, ExecutorError> {
        let Some(socket) = self.console.take() else {
            return Ok(None);
        };
        let action = || "take over a terminal".to_owned();
        let received = wire::receive::<()>(socket.as_fd()).map_err(prepare(action))?;
        let Some(controller) = received.and_then(|((), fds)| fds.into_iter().next()) else {
            return Ok(None);
        };
        let copy = controller.try_clone().map_err(prepare(action))?;
        self.pumps
            .control(&mut self.io, copy)
            .map_err(prepare(action))?;
        Ok(Some(controller))
    }
}

/// Watches over a process.
struct Attend<'a> {
    started: Started,
    report: OwnedFd,
    program: &'a str,
    connected: Connected,
    patience: Option<Duration>,
    cancel: &'a CancellationToken,
}

impl Attend<'_> {
    /// The exit code. `tell` is called once the program was executed.
    async fn until_exit(self, tell: impl FnOnce()) -> Result<u32, ExecutorError> {
        let Self {
            started: Started { process, mut exit },
            report,
            program,
            mut connected,
            patience,
            cancel,
        } = self;
        let report = Polled::new(report).map_err(prepare(|| "watch a pipe".into()))?;
        let report = tokio::select! {
            biased;
            () = cancel.cancelled() => return killed(&process, exit).await,
            report = read_report(&report) => report,
        };
        let failure = match report {
            Some(report) => Some(failed(report, program)),
            None => {
                tell();
                None
            }
        };
        let controller = match failure {
            Some(_) => None,
            None => connected.terminal()?,
        };
        let mut control = connected.io.control.take();
        let code = loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    return killed(&process, exit).await;
                }
                code = &mut exit => break code.map_err(|_| slot::lost())?,
                request = next(&mut control), if control.is_some() => match request {
                    None => control = None,
                    Some(ProcessControl::Signal(signal)) => {
                        if let Err(error) = process.signal(signal) {
                            tracing::debug!(signal, %error, "a signal could not be sent");
                        }
                    }
                    Some(ProcessControl::Resize { rows, columns }) => {
                        if let Some(controller) = &controller {
                            streams::resize(controller.as_fd(), rows, columns);
                        }
                    }
                }
            }
        };
        connected.pumps.finish(patience).await;
        match failure {
            Some(failure) => Err(failure),
            None => Ok(code),
        }
    }
}

async fn next(
    control: &mut Option<tokio::sync::mpsc::Receiver<ProcessControl>>,
) -> Option<ProcessControl> {
    match control {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Kills a process and waits for its end.
async fn killed(
    process: &PidFd,
    exit: tokio::sync::oneshot::Receiver<u32>,
) -> Result<u32, ExecutorError> {
    process
        .kill()
        .map_err(prepare(|| "kill a container".into()))?;
    // A slot that is lost took its processes along.
    let _ = exit.await;
    Err(ExecutorError::Cancelled)
}

/// What the process says before it becomes the program: nothing, if all went well.
async fn read_report(pipe: &Polled) -> Option<Report> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        text.extend_from_slice(&buffer[..length]);
    }
    if text.is_empty() {
        return None;
    }
    Some(serde_json::from_slice(&text).unwrap_or(Report {
        action: String::from_utf8_lossy(&text).into_owned(),
        errno: rustix::io::Errno::IO.raw_os_error(),
        program: false,
    }))
}

fn failed(report: Report, program: &str) -> ExecutorError {
    let source = std::io::Error::from_raw_os_error(report.errno);
    if report.program {
        return ExecutorError::Program {
            program: program.to_owned(),
            source,
        };
    }
    ExecutorError::Prepare {
        action: report.action,
        source,
    }
}

#[async_trait]
impl Executor for SlotExecutor {
    async fn drain(&self) {
        self.tracker.close();
        self.tracker.wait().await;
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
        check_id(&container.id)?;
        let container = Arc::new(container);
        let (running, slot) = watch::channel(None);
        let id = container.id.clone();
        {
            let mut table = self.inner.running.lock();
            if table.contains_key(&id) {
                return Err(ExecutorError::Prepare {
                    action: format!("create container {id}"),
                    source: std::io::ErrorKind::AlreadyExists.into(),
                });
            }
            let entry = Running {
                spec: Arc::clone(&container),
                slot,
            };
            table.insert(id.clone(), entry);
        }
        let forget = Forget {
            inner: Arc::clone(&self.inner),
            id,
        };
        let inner = Arc::clone(&self.inner);
        supervised(&self.tracker, &cancel, async |token| {
            let result = inner
                .run(container, process, io, started, running, token)
                .await;
            drop(forget);
            result
        })
        .await
    }

    async fn exec(
        &self,
        container: &str,
        process: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError> {
        let inner = Arc::clone(&self.inner);
        let id = container.to_owned();
        supervised(&self.tracker, &cancel, |token| {
            inner.exec(id, process, io, token)
        })
        .await
    }
}

/// Takes a container off the table.
struct Forget {
    inner: Arc<Inner>,
    id: String,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.inner.running.lock().remove(&self.id);
    }
}
