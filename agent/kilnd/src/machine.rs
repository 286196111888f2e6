//! The machine that the daemon runs on, for `kiln.agent.v1`.

mod shell;
mod usage;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use kiln_agent_api::{
    Activity, Machine, MachineInfo, MachineUse, Place, ShellCommand, ShellInput, ShellOutput,
};
use kiln_engine::Engine;
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_gc::{AfterRun, Collector};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::connections::Connections;

/// What a person should know who may still use the cache, but not for long.
const DAMAGED: &str = "the data disk is damaged: `kiln restart` checks it, and says what to do";

/// What a daemon knows of the machine before it is composed.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) place: Place,
    pub(crate) warnings: Arc<Mutex<Vec<String>>>,
    pub(crate) connections: Connections,
    /// Collections that freed something.
    pub(crate) disk_changes: watch::Sender<u64>,
    /// Cancelled when somebody asks for the end.
    pub(crate) stop: CancellationToken,
}

impl Surroundings {
    pub(crate) fn new(place: Place) -> Self {
        Self {
            place,
            warnings: Arc::default(),
            connections: Connections::new(),
            disk_changes: watch::Sender::default(),
            stop: CancellationToken::new(),
        }
    }
}

/// This machine.
pub(crate) struct ThisMachine {
    pub(crate) surroundings: Surroundings,
    pub(crate) root: PathBuf,
    pub(crate) engine: Engine,
    pub(crate) collector: Arc<Collector>,
    pub(crate) started: SystemTime,
}

impl std::fmt::Debug for ThisMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThisMachine")
            .field("surroundings", &self.surroundings)
            .finish_non_exhaustive()
    }
}

/// What follows a collection that freed something: in a guest the host gets the space back, and whoever watches
/// the machine hears that its disk is another.
pub(crate) fn after_collection(surroundings: &Surroundings, root: &Path) -> AfterRun {
    let (surroundings, root) = (surroundings.clone(), root.to_owned());
    Arc::new(move || {
        let (surroundings, root) = (surroundings.clone(), root.clone());
        async move {
            if surroundings.place == Place::Guest {
                match tokio::task::spawn_blocking(move || trim(&root)).await {
                    Ok(Ok(bytes)) => tracing::info!(bytes, "the host has its space back"),
                    Ok(Err(error)) => tracing::warn!(%error, "the disk isn't trimmed"),
                    Err(error) => tracing::warn!(%error, "the disk isn't trimmed"),
                }
            }
            surroundings.disk_changes.send_modify(|count| *count += 1);
        }
        .boxed()
    })
}

/// Gives free blocks back. What was removed is free for that only once it is written down.
fn trim(root: &Path) -> std::io::Result<u64> {
    let directory = std::fs::File::open(root)?;
    rustix::fs::syncfs(&directory)?;
    kiln_sys::trim::trim(directory)
}

fn failed(doing: &str, error: impl std::fmt::Display) -> SharedError {
    WithDetail::message(Kind::Internal, format!("{doing}: {error}")).shared()
}

impl ThisMachine {
    fn guest_only(&self, what: &str) -> Result<(), SharedError> {
        if self.surroundings.place == Place::Guest {
            return Ok(());
        }
        let text =
            format!("{what}: this daemon is a process of its host, which keeps that to itself");
        Err(WithDetail::message(Kind::Config, text).shared())
    }
}

/// Bytes of the state's file system.
struct Disk {
    total: u64,
    used: u64,
}

impl ThisMachine {
    fn disk(&self) -> Result<Disk, SharedError> {
        let disk = rustix::fs::statvfs(&self.root).map_err(|error| failed("disk", error))?;
        Ok(Disk {
            total: disk.f_blocks * disk.f_frsize,
            used: disk.f_blocks.saturating_sub(disk.f_bfree) * disk.f_frsize,
        })
    }
}

#[async_trait::async_trait]
impl Machine for ThisMachine {
    async fn info(&self) -> Result<MachineInfo, SharedError> {
        let disk = self.disk()?;
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let records = self
            .collector
            .disk_usage(&kiln_gc::Filters::default(), Duration::ZERO)
            .await
            .map_err(|error| Arc::new(error) as SharedError)?;
        let idle = records.iter().filter(|record| !record.in_use);
        let mut warnings = self.surroundings.warnings.lock().clone();
        if self.surroundings.place == Place::Guest && crate::init::disk_errors() > 0 {
            warnings.push(DAMAGED.to_owned());
        }
        Ok(MachineInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            place: self.surroundings.place,
            cpus: std::thread::available_parallelism().map_or(1, |all| all.get() as u32),
            memory_total: usage::meminfo(&memory, "MemTotal"),
            memory_available: usage::meminfo(&memory, "MemAvailable"),
            disk_total: disk.total,
            disk_used: disk.used,
            disk_reclaimable: idle.map(|record| record.size).sum(),
            started: self.started,
            warnings,
        })
    }

    async fn usage(&self) -> Result<MachineUse, SharedError> {
        let disk = self.disk()?;
        let place = self.surroundings.place;
        let usage = tokio::task::spawn_blocking(move || usage::of(place))
            .await
            .map_err(|error| failed("use", error))?;
        Ok(MachineUse {
            cpu: usage.cpu,
            memory: usage.memory,
            disk_total: disk.total,
            disk_used: disk.used,
        })
    }

    async fn set_clock(&self, now: SystemTime) -> Result<(), SharedError> {
        self.guest_only("setting the clock")?;
        crate::init::set_clock(now).map_err(|error| failed("setting the clock", error))
    }

    async fn trim(&self) -> Result<u64, SharedError> {
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || trim(&root))
            .await
            .map_err(|error| failed("trimming the disk", error))?
            .map_err(|error| match error.raw_os_error() {
                // ENOTTY, EOPNOTSUPP: this file system, or what is under it, has nothing to give back.
                Some(25 | 95) => {
                    WithDetail::message(Kind::Config, "trimming the disk: it doesn't support that")
                        .shared()
                }
                _ => failed("trimming the disk", error),
            })
    }

    async fn grow_disk(&self) -> Result<u64, SharedError> {
        self.guest_only("growing the disk")?;
        tokio::task::spawn_blocking(crate::init::grow_disk)
            .await
            .map_err(|error| failed("growing the disk", error))?
            .map_err(|error| failed("growing the disk", format!("{error:#}")))
    }

    async fn shut_down(&self) -> Result<(), SharedError> {
        self.guest_only("powering off")?;
        tracing::info!("the host asks for the end");
        self.surroundings.stop.cancel();
        Ok(())
    }

    fn activity(&self) -> BoxStream<'static, Activity> {
        let mut watched = Watched {
            builds: self.engine.watch_active(),
            connections: self.surroundings.connections.watch(),
            disk_changes: self.surroundings.disk_changes.subscribe(),
        };
        let first = watched.now();
        let later = futures::stream::unfold(watched, |mut watched| async move {
            let changed = tokio::select! {
                changed = watched.builds.changed() => changed,
                changed = watched.connections.changed() => changed,
                changed = watched.disk_changes.changed() => changed,
            };
            changed.ok()?;
            Some((watched.now(), watched))
        });
        futures::stream::iter([first]).chain(later).boxed()
    }

    async fn shell(
        &self,
        command: ShellCommand,
        input: BoxStream<'static, ShellInput>,
    ) -> Result<BoxStream<'static, ShellOutput>, SharedError> {
        self.guest_only("running a command")?;
        shell::run(&command, input)
            .map_err(|error| failed("running a command", format!("{error:#}")))
    }
}

/// What an [`Activity`] is made of.
struct Watched {
    builds: watch::Receiver<usize>,
    connections: watch::Receiver<u32>,
    disk_changes: watch::Receiver<u64>,
}

impl Watched {
    fn now(&mut self) -> Activity {
        Activity {
            builds: *self.builds.borrow_and_update() as u32,
            connections: *self.connections.borrow_and_update(),
            disk_changes: *self.disk_changes.borrow_and_update(),
        }
    }
}
