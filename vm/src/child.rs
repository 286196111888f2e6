//! A child process whose life is tied to this one's.
//!
//! ```text
//! kiln-vmd ── starts ──► kiln-vmd @child PARENT SIGNAL PROGRAM…
//!                          asks the kernel for SIGNAL at the parent's death,
//!                          looks whether the parent still lives,
//!                          and becomes PROGRAM
//! ```
//! The detour costs a millisecond and needs no code between fork and exec.
//!
//! Invariants: a dropped [`Child`] is on its way out (asked, then killed); a [`Record`] on disk tells the
//! next owner of one that is still dying; signals go through a pidfd and so never to a stranger.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::console::Console;

const BECOME: &str = "@child";

/// What the kernel sends to the child when this process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtDeath {
    /// It may clean up.
    Terminate,
    /// It has nothing to clean up, or can't be trusted to.
    Kill,
}

/// If the command line says so, becomes the child; returns only if that failed, or if this is no child.
pub fn become_child(mut arguments: impl Iterator<Item = OsString>) -> Option<io::Error> {
    let _own = arguments.next()?;
    if arguments.next()? != BECOME {
        return None;
    }
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "a child's command line");
    let attempt = move || -> io::Result<()> {
        let parent = arguments.next().ok_or_else(invalid)?;
        let signal = match arguments.next() {
            Some(text) if text == "kill" => Signal::KILL,
            Some(_) => Signal::TERM,
            None => return Err(invalid()),
        };
        let program = arguments.next().ok_or_else(invalid)?;
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        let still = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
        if still.as_deref() != parent.to_str() {
            return Err(io::Error::other("the parent died first"));
        }
        // Memory of the engine and of the machine holds secrets.
        let no_core = rustix::process::Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        rustix::process::setrlimit(rustix::process::Resource::Core, no_core)?;
        Err(std::process::Command::new(program).args(arguments).exec())
    };
    attempt().err()
}

/// What goes before the program and its arguments, so that `kiln-vmd` becomes that child of this process.
pub(crate) fn words_of_a_child(at_death: AtDeath) -> [String; 3] {
    let signal = match at_death {
        AtDeath::Terminate => "terminate",
        AtDeath::Kill => "kill",
    };
    [
        BECOME.to_owned(),
        std::process::id().to_string(),
        signal.to_owned(),
    ]
}

/// Names a process for whoever comes after us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// In ticks since the system's start: with the pid, no other process has it.
    started: u64,
}

/// A running child.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    handle: Arc<OwnedFd>,
    ended: watch::Receiver<Option<String>>,
    /// Asks the task that owns the process to end it.
    _end: tokio_util::sync::DropGuard,
}

/// What to start, and how.
#[derive(Debug)]
pub struct Order<'a> {
    /// `kiln-vmd` itself.
    pub own: &'a Path,
    /// The program and its arguments.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables that it gets beside ours.
    pub environment: Vec<(String, String)>,
    /// What happens to it when we die.
    pub at_death: AtDeath,
    /// Where its output goes.
    pub console: Console,
    /// Where to note it down.
    pub record: PathBuf,
    /// How long it may take to end when it was asked to.
    pub patience: Duration,
}

impl Child {
    /// Starts it.
    pub fn start(order: Order<'_>) -> io::Result<Self> {
        let Order {
            console, patience, ..
        } = order;
        let mut command = Command::new(order.own);
        command
            .args(words_of_a_child(order.at_death))
            .arg(order.program)
            .args(order.arguments)
            .envs(order.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for us; we tell it ourselves.
            .process_group(0);
        let mut process = command.spawn()?;
        let pid = process
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .ok_or_else(|| io::Error::other("the child has no process id"))?;
        let handle = Arc::new(pidfd(pid)?);
        let record = order.record;
        if let Some(started) = start_time(pid) {
            let text = serde_json::to_string(&Record { pid, started })?;
            fs::write(&record, text)?;
        }
        let end = CancellationToken::new();
        let (tell, ended) = watch::channel(None);
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        let task = {
            let (end, handle) = (end.clone(), Arc::clone(&handle));
            async move {
                let pump = async {
                    tokio::join!(console.pump(stdout), console.pump(stderr));
                };
                let wait = async {
                    let asked = async {
                        end.cancelled().await;
                        signal(&handle, Signal::TERM);
                        tokio::time::sleep(patience).await;
                        signal(&handle, Signal::KILL);
                        std::future::pending::<Infallible>().await
                    };
                    tokio::select! {
                        status = process.wait() => status,
                        never = asked => match never {},
                    }
                };
                // Its output may be held open by what it started; what is there is taken, no more.
                let mut pump = std::pin::pin!(pump);
                let mut wait = std::pin::pin!(wait);
                let status = tokio::select! {
                    status = &mut wait => {
                        drop(tokio::time::timeout(Duration::from_millis(200), pump).await);
                        status
                    }
                    () = &mut pump => wait.await,
                };
                let how = match status {
                    Ok(status) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                drop(fs::remove_file(&record));
                // Nobody may be left to hear it.
                drop(tell.send(Some(how)));
            }
        };
        tokio::spawn(task);
        Ok(Self {
            pid,
            handle,
            ended,
            _end: end.drop_guard(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns when it has ended, with how: `exit status: 1`.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let how = ended.wait_for(Option::is_some).await;
        how.ok()
            .and_then(|how| how.clone())
            .unwrap_or_else(|| "lost".to_owned())
    }

    /// Asks it to end, kills it after `patience`, and returns when it is gone. Whether it went by itself.
    pub async fn stop(&self, patience: Duration) -> bool {
        signal(&self.handle, Signal::TERM);
        if tokio::time::timeout(patience, self.ended()).await.is_ok() {
            return true;
        }
        self.kill().await;
        false
    }

    /// Kills it and returns when it is gone.
    pub async fn kill(&self) {
        signal(&self.handle, Signal::KILL);
        self.ended().await;
    }
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process id"))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

fn signal(handle: &OwnedFd, signal: Signal) {
    // It may be gone already, which is what was wanted.
    let _ = rustix::process::pidfd_send_signal(handle, signal);
}

/// The 22nd field of `/proc/PID/stat`; the name in the second may hold anything.
fn start_time(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Waits for a child of an owner that died to be gone, and kills it when that takes too long.
pub async fn wait_for_leftover(record: &Path, patience: Duration) {
    let Some(old) = fs::read(record)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok())
    else {
        return;
    };
    // It isn't our child, so nobody tells us of its end but the pidfd, which is waited for on a thread.
    let wait = tokio::task::spawn_blocking(move || {
        let Ok(handle) = pidfd(old.pid) else { return };
        // Between the record and here its number may have gone to another.
        if start_time(old.pid) != Some(old.started) {
            return;
        }
        tracing::info!(pid = old.pid, "waiting for a child of an earlier owner");
        if !gone_within(&handle, patience) {
            tracing::warn!(pid = old.pid, "killing a child of an earlier owner");
            signal(&handle, Signal::KILL);
            gone_within(&handle, patience);
        }
    });
    drop(wait.await);
    drop(fs::remove_file(record));
}

fn gone_within(handle: &OwnedFd, patience: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: patience.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    };
    let mut watched = [PollFd::new(handle, PollFlags::IN)];
    // An interrupted wait counts as over: what follows is a signal to a process that should be gone.
    matches!(poll(&mut watched, Some(&timeout)), Ok(1..))
}
