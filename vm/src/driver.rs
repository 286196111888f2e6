//! What runs the engine: a virtual machine ([`qemu`]), or a child process (`native`).
//!
//! ```text
//! Driver::start ─► Machine ─► connect, connect, … ─► stop ─► gone
//!      │ fails                      │ ended(): by itself
//!      ▼                            ▼
//!  StartError                   a reason
//! ```
//! A driver owes: when `start` returns, the engine has answered; when it fails or its future is dropped,
//! nothing of it stays behind (what is still dying is noted in [`record_path`] and waited for by the next start); a dropped
//! [`Machine`] is on its way out. A caller owes: one machine at a time per state directory.
//!
//! `tests/it/contract.rs` has the suite that each driver passes.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kiln_config::{HostPaths, HostSettings};
pub use kiln_link::Service;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::console::Console;

pub mod native;
pub mod qemu;

/// A stream to the engine.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
/// A stream to the engine.
pub type EngineStream = Box<dyn Duplex>;

/// What a start has to go by.
#[derive(Debug, Clone)]
pub struct StartOrder {
    /// What the user wants.
    pub settings: HostSettings,
    /// Where things are.
    pub paths: HostPaths,
    /// Where the machine's output goes.
    pub console: Console,
    /// What the start is at, for people.
    pub progress: watch::Sender<String>,
    /// Mend a damaged disk, at the cost of what is damaged.
    pub repair_disk: bool,
}

impl StartOrder {
    /// Says what the start is at.
    pub fn at(&self, step: &str) {
        tracing::debug!(step, "starting");
        self.progress.send_replace(step.to_owned());
    }
}

/// What is known of a machine that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// "kvm", "tcg"; empty without a machine.
    pub accelerator: String,
    /// Why a better one isn't used.
    pub accelerator_reason: String,
    /// Of the machine's process.
    pub pid: i32,
    /// Processors that the engine has.
    pub cpus: u32,
    /// Memory that the engine has.
    pub memory: u64,
    /// As the engine says it; not believed, only shown.
    pub engine_version: String,
    /// What the user should know for as long as this machine runs.
    pub notices: Vec<String>,
}

/// Starts machines.
#[async_trait]
pub trait Driver: Send + Sync + fmt::Debug {
    /// As in the settings: "native", "qemu".
    fn name(&self) -> &'static str;
    /// Starts one, and returns when its engine has answered.
    async fn start(&self, order: StartOrder) -> Result<Arc<dyn Machine>, StartError>;
}

/// One that runs.
#[async_trait]
pub trait Machine: Send + Sync + fmt::Debug {
    /// What is known of it.
    fn facts(&self) -> Facts;
    /// What the user should know for now; empty if nothing.
    fn notice(&self) -> watch::Receiver<String> {
        watch::channel(String::new()).1
    }
    /// A stream to a service of its engine.
    async fn connect(&self, service: Service) -> io::Result<EngineStream>;
    /// Returns when it is gone, with why. May be awaited often and given up.
    async fn ended(&self) -> String;
    /// Stops it in order, then by force, and returns when it is gone.
    async fn stop(&self, patience: Duration);
    /// Lets its disk grow to so many bytes. No-op where it has none of its own.
    async fn grow_disk(&self, bytes: u64) -> io::Result<()>;
}

/// Why there is no machine. Each text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A program or file isn't there.
    #[error("{what} isn't found: {fix}")]
    Missing {
        /// Which one.
        what: &'static str,
        /// What to do.
        fix: String,
    },
    /// The host can't do what the settings ask for.
    #[error("setting {setting}: {problem}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// Why not, and what would go.
        problem: String,
    },
    /// The settings can't be used.
    #[error("{0}")]
    Settings(String),
    /// A process can't be started.
    #[error("can't start {}: {source}", .program.display())]
    Spawn {
        /// Which one.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended before it answered.
    #[error("{program} ended while it started ({how}): {last_words}")]
    EndedEarly {
        /// Which one.
        program: &'static str,
        /// Its status.
        how: String,
        /// The end of its output.
        last_words: String,
    },
    /// It didn't answer.
    #[error("no answer from {program} within {} s: {last_words}", .patience.as_secs())]
    NoAnswer {
        /// Which one.
        program: &'static str,
        /// How long was waited.
        patience: Duration,
        /// The end of its output.
        last_words: String,
    },
    /// The file system said no.
    #[error("can't {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// QEMU or the link to the guest failed.
    #[error("no connection to the machine: {0}")]
    Link(String),
    /// The guest says that it can't work.
    #[error("the machine can't work: {reason}")]
    Guest {
        /// In its words.
        reason: String,
    },
    /// Somebody asked for a stop meanwhile.
    #[error("stopped while it was starting")]
    Cancelled,
}

impl StartError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// Where the machine's process is noted down.
pub(crate) fn record_path(paths: &HostPaths) -> PathBuf {
    paths.machine_dir().join("child.json")
}
