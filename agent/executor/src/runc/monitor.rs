//! Runs the `runc` program and watches over the container behind it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kiln_sys::process::PidFd;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use crate::streams::{self, Pumps};
use crate::{ExecutorError, ProcessControl, ProcessIo, prepare};

/// How often the file is looked for that `runc` writes once the process runs.
const POLL: Duration = Duration::from_millis(4);

/// How long a cancelled start is waited for.
const STARTING: Duration = Duration::from_millis(500);

/// How long `runc` may take to see that the process was killed.
const ENDING: Duration = Duration::from_millis(200);

/// One call of `runc` that runs a process.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) binary: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) terminal: bool,
    /// Where it writes the process's number, and where its log.
    pub(super) pid_file: PathBuf,
    pub(super) log: PathBuf,
}

/// How the call ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: u32,
    /// The process never ran, or `runc` failed in another way: its last words.
    pub(super) failure: Option<String>,
}

impl Call {
    /// Runs it to its end, and kills its process when cancelled. Calls `started` once the process runs.
    pub(super) async fn run(
        &self,
        mut io: ProcessIo,
        started: impl FnOnce(),
        patience: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Result<Ended, ExecutorError> {
        let (streams, pumps, controller) = if self.terminal {
            let (streams, pumps, controller) =
                streams::terminal(&mut io).map_err(prepare(|| "open a terminal".into()))?;
            (streams, pumps, Some(controller))
        } else {
            let (streams, pumps) =
                streams::pipes(&mut io).map_err(prepare(|| "make pipes".into()))?;
            (streams, pumps, None)
        };
        let mut child = Command::new(&self.binary)
            .args(&self.arguments)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .stdin(Stdio::from(streams.stdin))
            .stdout(Stdio::from(streams.stdout))
            .stderr(Stdio::from(streams.stderr))
            .process_group(0)
            .spawn()
            .map_err(prepare(|| format!("run {}", self.binary.display())))?;
        let code = self
            .attend(&mut child, io.control.take(), controller, started, cancel)
            .await?;
        finish(pumps, patience).await;
        Ok(Ended {
            code,
            failure: last_words(&self.log),
        })
    }

    async fn attend(
        &self,
        child: &mut Child,
        mut control: Option<Receiver<ProcessControl>>,
        controller: Option<OwnedFd>,
        started: impl FnOnce(),
        cancel: &CancellationToken,
    ) -> Result<u32, ExecutorError> {
        let waiting = |e| ExecutorError::Prepare {
            action: "wait for runc".into(),
            source: e,
        };
        let mut started = Some(started);
        let mut process = None;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    self.stop(child, process).await.map_err(waiting)?;
                    return Err(ExecutorError::Cancelled);
                }
                status = child.wait() => {
                    if self.pid_file.exists() && let Some(started) = started.take() {
                        started();
                    }
                    return Ok(exit_code(status.map_err(waiting)?));
                }
                () = tokio::time::sleep(POLL), if process.is_none() => {
                    process = pid_of(&self.pid_file);
                    if process.is_some() && let Some(started) = started.take() {
                        started();
                    }
                }
                request = next(&mut control), if process.is_some() => match request {
                    None => control = None,
                    Some(ProcessControl::Signal(signal)) => {
                        if let Some(process) = &process
                            && let Err(error) = process.signal(signal)
                        {
                            tracing::debug!(signal, %error, "a signal could not be sent");
                        }
                    }
                    Some(ProcessControl::Resize { rows, columns }) => {
                        if let Some(controller) = &controller {
                            streams::resize(controller.as_fd(), rows, columns);
                            // The terminal inside the container is runc's to resize.
                            if let Some(monitor) = child.id().and_then(|id| PidFd::open(id as i32).ok()) {
                                let _ = monitor.signal(rustix::process::Signal::WINCH.as_raw());
                            }
                        }
                    }
                }
            }
        }
    }

    /// Kills the process, which may be about to start.
    async fn stop(&self, child: &mut Child, mut process: Option<PidFd>) -> io::Result<()> {
        let begin = Instant::now();
        // A process that runc starts later than this is found by its container.
        while process.is_none() && begin.elapsed() < STARTING && child.try_wait()?.is_none() {
            process = pid_of(&self.pid_file);
            tokio::time::sleep(POLL).await;
        }
        match process {
            None => child.start_kill()?,
            Some(process) => {
                if let Err(error) = process.kill() {
                    tracing::warn!(%error, "a container's process could not be killed");
                }
            }
        }
        // What the process left behind may hold its streams, which runc waits for.
        if tokio::time::timeout(ENDING, child.wait()).await.is_err() {
            child.start_kill()?;
            child.wait().await?;
        }
        Ok(())
    }
}

/// The next request; never, where nobody can make one.
async fn next(control: &mut Option<Receiver<ProcessControl>>) -> Option<ProcessControl> {
    match control {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

async fn finish(pumps: Pumps, patience: Option<Duration>) {
    pumps.finish(patience).await;
}

fn pid_of(file: &Path) -> Option<PidFd> {
    let text = std::fs::read_to_string(file).ok()?;
    PidFd::open(text.trim().parse().ok()?).ok()
}

fn exit_code(status: std::process::ExitStatus) -> u32 {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u32,
        (None, signal) => 128 + signal.unwrap_or(0) as u32,
    }
}

/// The message of the last error in `runc`'s log.
fn last_words(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    text.lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|entry| entry["level"] == "error")
        .and_then(|entry| entry["msg"].as_str().map(str::to_owned))
}

/// Turns `runc`'s words into what they are about.
pub(super) fn failure(message: String, program: &str) -> ExecutorError {
    let kinds = [
        (
            "executable file not found in $PATH",
            rustix::io::Errno::NOENT,
        ),
        ("no such file or directory", rustix::io::Errno::NOENT),
        ("permission denied", rustix::io::Errno::ACCESS),
        ("exec format error", rustix::io::Errno::NOEXEC),
    ];
    let about_program = message.contains(": exec: ") || message.contains("exec user process");
    match kinds
        .iter()
        .find(|(words, _)| about_program && message.contains(words))
    {
        Some((_, errno)) => ExecutorError::Program {
            program: program.to_owned(),
            source: io::Error::from(*errno),
        },
        None => ExecutorError::Runtime {
            runtime: "runc".into(),
            message,
        },
    }
}
