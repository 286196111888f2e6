//! Watches over a process of a slot: its streams, its terminal, signals to it, its end.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use kiln_sys::launcher::{Report, wire};
use kiln_sys::polled::Polled;
use kiln_sys::process::PidFd;
use tokio_util::sync::CancellationToken;

use super::job;
use super::slot::{self, Started};
use crate::streams::{self, ChildStreams, Pumps};
use crate::{ExecutorError, ProcessControl, ProcessIo, prepare};

/// The two sides of a process's streams.
pub(super) struct Connected {
    child: Option<job::ChildSide>,
    pumps: Pumps,
    io: ProcessIo,
    /// Where a terminal's controlling side will come from.
    console: Option<OwnedFd>,
}

impl Connected {
    pub(super) fn new(mut io: ProcessIo, terminal: bool) -> Result<Self, ExecutorError> {
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

    pub(super) fn take_child(&mut self) -> Option<job::ChildSide> {
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
pub(super) struct Attend<'a> {
    pub(super) started: Started,
    pub(super) report: OwnedFd,
    pub(super) program: &'a str,
    pub(super) connected: Connected,
    pub(super) patience: Option<Duration>,
    pub(super) cancel: &'a CancellationToken,
}

impl Attend<'_> {
    /// The exit code. `tell` is called once the program was executed.
    pub(super) async fn until_exit(self, tell: impl FnOnce()) -> Result<u32, ExecutorError> {
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
