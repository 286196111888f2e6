//! Carries a process's streams: pipes or a terminal on its side, async readers and writers on ours.
//!
//! Invariants: a reader that fails or a writer that is gone never blocks the process (its output is
//! read and thrown away); output that was written before the process ended is delivered before
//! [`Pumps::finish`] returns.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use kiln_sys::polled::Polled;
use kiln_sys::pty::Pty;
use rustix::pipe::PipeFlags;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::{AbortHandle, JoinSet};

use crate::ProcessIo;

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

const BUFFER: usize = 64 << 10;

/// The process's side.
#[derive(Debug)]
pub(crate) struct ChildStreams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Our side.
#[derive(Debug, Default)]
pub(crate) struct Pumps {
    outputs: JoinSet<()>,
    stdin: Option<AbortHandle>,
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

fn dev_null() -> io::Result<OwnedFd> {
    Ok(File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into())
}

/// Pipes for the streams that are there, `/dev/null` for the others.
pub(crate) fn pipes(io: &mut ProcessIo) -> io::Result<(ChildStreams, Pumps)> {
    let mut pumps = Pumps::default();
    let stdin = match io.stdin.take() {
        None => dev_null()?,
        Some(reader) => {
            let (theirs, ours) = pipe()?;
            pumps.feed(reader, Arc::new(Polled::new(ours)?));
            theirs
        }
    };
    let mut output = |writer: Option<Writer>| match writer {
        None => dev_null(),
        Some(writer) => {
            let (ours, theirs) = pipe()?;
            pumps.drain(Arc::new(Polled::new(ours)?), Some(writer));
            Ok(theirs)
        }
    };
    let stdout = output(io.stdout.take())?;
    let stderr = output(io.stderr.take())?;
    Ok((
        ChildStreams {
            stdin,
            stdout,
            stderr,
        },
        pumps,
    ))
}

/// A terminal for all three streams. The descriptor is the controlling side.
pub(crate) fn terminal(io: &mut ProcessIo) -> io::Result<(ChildStreams, Pumps, OwnedFd)> {
    let Pty {
        controller,
        terminal,
    } = Pty::open()?;
    let streams = ChildStreams {
        stdin: terminal.try_clone()?,
        stdout: terminal.try_clone()?,
        stderr: terminal,
    };
    let mut pumps = Pumps::default();
    pumps.control(io, controller.try_clone()?)?;
    Ok((streams, pumps, controller))
}

impl Pumps {
    /// Connects the streams to the controlling side of a terminal.
    pub(crate) fn control(&mut self, io: &mut ProcessIo, controller: OwnedFd) -> io::Result<()> {
        let controller = Arc::new(Polled::new(controller)?);
        if let Some(reader) = io.stdin.take() {
            self.feed(reader, Arc::clone(&controller));
        }
        self.drain(controller, io.stdout.take());
        Ok(())
    }

    fn feed(&mut self, mut from: Reader, to: Arc<Polled>) {
        let mut tasks = std::mem::take(&mut self.outputs);
        self.stdin = Some(tasks.spawn(async move {
            let mut buffer = vec![0; BUFFER];
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                if to.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
            }
        }));
        self.outputs = tasks;
    }

    fn drain(&mut self, from: Arc<Polled>, mut to: Option<Writer>) {
        self.outputs.spawn(async move {
            let mut buffer = vec![0; BUFFER];
            // A terminal ends with an error once nobody has its other side.
            while let Ok(length @ 1..) = from.read(&mut buffer).await {
                if let Some(writer) = &mut to {
                    let sent = async {
                        writer.write_all(&buffer[..length]).await?;
                        writer.flush().await
                    };
                    if let Err(error) = sent.await {
                        tracing::debug!(%error, "output goes nowhere from here on");
                        to = None;
                    }
                }
            }
            if let Some(mut writer) = to {
                // Whoever reads has what was written; that closing fails tells them nothing.
                let _ = writer.shutdown().await;
            }
        });
    }

    /// After the process ended: stops feeding it and waits for the rest of its output. Processes
    /// that outlive it may hold its pipes; `patience` is how long they are waited for.
    pub(crate) async fn finish(mut self, patience: Option<Duration>) {
        if let Some(stdin) = self.stdin.take() {
            stdin.abort();
        }
        let all = async { while self.outputs.join_next().await.is_some() {} };
        match patience {
            None => all.await,
            Some(patience) => {
                if tokio::time::timeout(patience, all).await.is_err() {
                    tracing::debug!("a process that was left behind holds the output open");
                }
            }
        }
    }
}

/// Tells a terminal its size; that it is gone already is no news.
pub(crate) fn resize(controller: BorrowedFd<'_>, rows: u16, columns: u16) {
    if let Err(error) = kiln_sys::pty::resize(controller.as_fd(), rows, columns) {
        tracing::debug!(%error, "a terminal could not be resized");
    }
}
