//! A process in the background, with its output in a file.
//!
//! Invariants: it has a process group of its own, so that what it started ends with it; dropping a service ends
//! it; a service that ended by itself is an error that shows the end of its log.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait::until;

const STOPPED_BY: Duration = Duration::from_secs(20);
const SHOWN_LOG: usize = 3000;

/// A running process.
#[derive(Debug)]
pub struct Service {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `command` with its output in `log`.
    pub fn start(name: &str, command: &mut Command, log: PathBuf) -> Result<Self> {
        let output = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name} doesn't start"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Waits until `ready` holds while the process lives.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let ended = until(what, limit, || match self.child.try_wait() {
            Ok(Some(status)) => Some(Some(status)),
            _ if ready() => Some(None),
            _ => None,
        });
        match ended {
            Ok(None) => Ok(()),
            Ok(Some(status)) => bail!("{} ended with {status}:\n{}", self.name, self.log_tail()),
            Err(error) => bail!("{}: {error}:\n{}", self.name, self.log_tail()),
        }
    }

    /// Asks the process to end and waits for it; kills it at the deadline and calls that an error.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        let child = &mut self.child;
        let ended = until("stopping", STOPPED_BY, || child.try_wait().ok().flatten());
        ended.with_context(|| format!("{} ignores SIGTERM:\n{}", self.name, self.log_tail()))
    }

    /// Kills the process as a crash would, and waits for it.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether the process hasn't ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of its output.
    pub fn log_tail(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let from = bytes.len().saturating_sub(SHOWN_LOG);
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = pid(&self.child) {
            // An error means that the process is gone, which is what the signal is for.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::TERM);
            let child = &mut self.child;
            let _ = until("stopping", STOPPED_BY, || child.try_wait().ok().flatten());
        }
        if let Some(group) = pid(&self.child) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}
