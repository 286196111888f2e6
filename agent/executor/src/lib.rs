//! Runs one process in a container: `runc` and Kiln's own slots behind one trait.
//!
//! Invariants: an executor never resolves names (users, groups and paths arrive as numbers and mounts);
//! a container that ended, failed or was cancelled leaves no process, mount, cgroup or file.

mod containers;
pub mod isolation;
mod limits;
mod runc;
pub mod seccomp;
mod slots;
mod sources;
mod streams;
mod task;

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use kiln_sys::mount::Mountable;
use tokio_util::sync::CancellationToken;

pub use limits::cpu_weight;
pub use runc::{RuncConfig, RuncExecutor};
pub use slots::{SlotConfig, SlotExecutor};

/// The file systems and the isolation that a process runs in.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// Unique while it runs; `[a-z0-9]+`.
    pub id: String,
    /// The root file system; writable unless `readonly_root`.
    pub root: Mountable,
    /// Refuse writes to the root.
    pub readonly_root: bool,
    /// Mounted after the root, in order.
    pub mounts: Vec<ContainerMount>,
    /// `buildkitsandbox` where the client didn't say.
    pub hostname: String,
    /// Contents of `/etc/hosts` and `/etc/resolv.conf`, bound over the root's; `None` keeps the root's own.
    pub etc_hosts: Option<PathBuf>,
    /// See `etc_hosts`.
    pub resolv_conf: Option<PathBuf>,
    /// The network.
    pub network: Network,
    /// Everything allowed (`--security=insecure`).
    pub privileged: bool,
    /// A parent for the cgroup, below the daemon's own where empty.
    pub cgroup_parent: String,
    /// `RLIMIT` name in lower case (`nofile`), soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Size of `/dev/shm` in bytes; the runtime's default where absent.
    pub shm_size: Option<u64>,
    /// Limits for cgroup controllers, in the units of cgroup v2: `memory.max`, `cpu.max`, `pids.max`.
    pub limits: BTreeMap<String, String>,
}

/// One mount inside a container.
#[derive(Debug, Clone)]
pub struct ContainerMount {
    /// An absolute path, resolved inside the root without leaving it.
    pub target: PathBuf,
    /// What is mounted.
    pub source: Mountable,
    /// A file or directory below the source, resolved without leaving it; empty for all of it.
    pub subpath: PathBuf,
    /// Refuse writes.
    pub readonly: bool,
}

/// The network that a process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// The daemon's own.
    Host,
    /// A loopback device and nothing else.
    None,
    /// The network namespace that this path names.
    Namespace(PathBuf),
}

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct ProcessSpec {
    /// `args[0]` is looked up in `PATH` of `env` inside the container.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Made if it doesn't exist.
    pub cwd: PathBuf,
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// Give it a terminal.
    pub terminal: bool,
}

/// The process's streams; absent ones are `/dev/null`. With a terminal `stderr` is unused.
#[derive(Default)]
pub struct ProcessIo {
    /// Read until it ends.
    pub stdin: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
    /// Gets output as it comes.
    pub stdout: Option<Box<dyn tokio::io::AsyncWrite + Send + Unpin>>,
    /// Gets output as it comes.
    pub stderr: Option<Box<dyn tokio::io::AsyncWrite + Send + Unpin>>,
    /// Signals and window sizes while it runs.
    pub control: Option<tokio::sync::mpsc::Receiver<ProcessControl>>,
}

impl std::fmt::Debug for ProcessIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProcessIo")
    }
}

/// Sent to a running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessControl {
    /// A signal by number.
    Signal(i32),
    /// The terminal's size in characters.
    Resize {
        /// Height.
        rows: u16,
        /// Width.
        columns: u16,
    },
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exit {
    /// 0 to 255; 128 + signal where a signal ended it.
    pub code: u32,
    /// The kernel killed it, or a child of it, for want of memory.
    pub out_of_memory: bool,
}

/// Why a process could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The token was cancelled; all processes of the container are gone.
    #[error("canceled")]
    Cancelled,
    /// `args[0]` isn't there, or may not be executed. The reason has also been written to the
    /// process's standard error, where people look for it.
    #[error("exec: {program:?}: {source}")]
    Program {
        /// As it was asked for.
        program: String,
        /// `ENOENT`, `EACCES`, `ENOEXEC`, …
        #[source]
        source: std::io::Error,
    },
    /// A step of the preparation failed.
    #[error("{action}: {source}")]
    Prepare {
        /// What was tried, with the path it was tried on.
        action: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// No such running container (for `exec`).
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The external runtime said this.
    #[error("{runtime}: {message}")]
    Runtime {
        /// Which one.
        runtime: String,
        /// Its last words.
        message: String,
    },
}

/// Names what was tried when it failed.
fn prepare(action: impl FnOnce() -> String) -> impl FnOnce(std::io::Error) -> ExecutorError {
    move |source| ExecutorError::Prepare {
        action: action(),
        source,
    }
}

/// Ids become names of directories and cgroups.
fn check_id(id: &str) -> Result<(), ExecutorError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !id.is_empty() && id.len() <= 64 && id.chars().all(fits) {
        return Ok(());
    }
    Err(ExecutorError::Prepare {
        action: format!("create container {id:?}"),
        source: std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "its name is not 1 to 64 letters and digits",
        ),
    })
}

/// Runs processes in containers.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Makes the container, runs `process` as its first one and removes it. Sends on `started` once
    /// the process runs. A non-zero exit is an `Ok`. Dropping the future kills the container too.
    async fn run(
        &self,
        container: ContainerSpec,
        process: ProcessSpec,
        io: ProcessIo,
        started: Option<tokio::sync::oneshot::Sender<()>>,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError>;

    /// Runs a further process in a running container, with the same isolation as the first.
    async fn exec(
        &self,
        container: &str,
        process: ProcessSpec,
        io: ProcessIo,
        cancel: CancellationToken,
    ) -> Result<Exit, ExecutorError>;

    /// Returns once every container has ended and nothing is kept for further ones. Whoever wants
    /// containers to end cancels them; new ones must not be asked for.
    async fn drain(&self);
}
