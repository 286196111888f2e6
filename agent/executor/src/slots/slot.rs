//! The daemon's hand on a slot process.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_sys::launcher::{Job, Prepare, Reply, SLOT, wire};
use kiln_sys::polled::Polled;
use kiln_sys::process::PidFd;
use parking_lot::Mutex;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::job::Jobs;
use crate::{ExecutorError, prepare};

/// A process that a slot started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) process: PidFd,
    /// Gets its exit code.
    pub(super) exit: oneshot::Receiver<u32>,
}

#[derive(Debug)]
struct Waiting {
    started: Option<oneshot::Sender<Result<PidFd, ExecutorError>>>,
    exit: Option<oneshot::Sender<u32>>,
}

type Table = Arc<Mutex<HashMap<u64, Waiting>>>;

/// A slot process. Dropping it kills it, and with it all that it started.
#[derive(Debug)]
pub(super) struct Slot {
    socket: Arc<Polled>,
    waiting: Table,
    next: AtomicU64,
    listener: AbortHandle,
    child: Mutex<Option<Child>>,
}

pub(super) fn lost() -> ExecutorError {
    ExecutorError::Prepare {
        action: "ask a slot".into(),
        source: io::ErrorKind::BrokenPipe.into(),
    }
}

impl Slot {
    /// Starts a slot from a program in memory.
    pub(super) fn start(program: &OwnedFd) -> Result<Self, ExecutorError> {
        let action = || "start a slot".to_owned();
        let (ours, theirs) = wire::pair().map_err(prepare(action))?;
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0(SLOT)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(prepare(action))?;
        let socket = Arc::new(Polled::new(ours).map_err(prepare(action))?);
        let waiting = Table::default();
        let listener = tokio::spawn(listen(Arc::clone(&socket), Arc::clone(&waiting)));
        Ok(Self {
            socket,
            waiting,
            next: AtomicU64::new(1),
            listener: listener.abort_handle(),
            child: Mutex::new(Some(child)),
        })
    }

    /// The process's number.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.lock().as_ref().and_then(Child::id)
    }

    /// Whether it still listens.
    pub(super) fn is_alive(&self) -> bool {
        !self.listener.is_finished()
    }

    pub(super) async fn prepare(
        &self,
        prepare: Prepare,
        fds: Vec<OwnedFd>,
    ) -> Result<(), ExecutorError> {
        self.send(&Job::Prepare(prepare), &fds).await
    }

    /// Has it start a process.
    pub(super) async fn run(&self, mut job: Jobs) -> Result<Started, ExecutorError> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        job.set_token(token);
        let (started, is_started) = oneshot::channel();
        let (exit, has_ended) = oneshot::channel();
        self.waiting.lock().insert(
            token,
            Waiting {
                started: Some(started),
                exit: Some(exit),
            },
        );
        let Jobs { job, fds, .. } = job;
        self.send(&job, &fds).await?;
        drop(fds);
        let process = is_started.await.map_err(|_| lost())??;
        Ok(Started {
            process,
            exit: has_ended,
        })
    }

    async fn send(&self, job: &Job, fds: &[OwnedFd]) -> Result<(), ExecutorError> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.socket
            .writable(|socket| wire::send(socket, job, &fds))
            .await
            .map_err(prepare(|| "ask a slot".into()))
    }

    /// Kills it and waits for its end.
    pub(super) async fn stop(&self) {
        let child = self.child.lock().take();
        if let Some(mut child) = child
            && let Err(error) = child.kill().await
        {
            tracing::warn!(%error, "a slot could not be killed");
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn listen(socket: Arc<Polled>, waiting: Table) {
    loop {
        match socket.readable(wire::receive::<Reply>).await {
            Ok(Some((reply, fds))) => take(&waiting, reply, fds),
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "a slot is lost");
                break;
            }
        }
    }
    // Dropping what they wait on tells those who wait.
    waiting.lock().clear();
}

fn take(waiting: &Table, reply: Reply, fds: Vec<OwnedFd>) {
    let mut table = waiting.lock();
    match reply {
        Reply::Started { token } => {
            let process = fds.into_iter().next().map(PidFd::from_fd);
            if let (Some(entry), Some(process)) = (table.get_mut(&token), process)
                && let Some(started) = entry.started.take()
                && let Err(Ok(process)) = started.send(Ok(process))
            {
                // Nobody waits for it any more.
                let _ = process.kill();
            }
        }
        Reply::Failed { token, report } => {
            if let Some(mut entry) = table.remove(&token)
                && let Some(started) = entry.started.take()
            {
                let source = io::Error::from_raw_os_error(report.errno);
                let _ = started.send(Err(ExecutorError::Prepare {
                    action: report.action,
                    source,
                }));
            }
        }
        Reply::Exited { token, code } => {
            if let Some(mut entry) = table.remove(&token)
                && let Some(exit) = entry.exit.take()
            {
                let _ = exit.send(code);
            }
        }
    }
}
