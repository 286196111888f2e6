//! A virtio-serial port: bytes between a guest and its host.
//!
//! A port has no connections, only a host that is there or not: without one a read returns nothing and polling
//! says "hang-up", which the runtime remembers for ever. So each life of the other side gets a registration of
//! its own with the runtime, and ends with an error as soon as the host goes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The guest's end. The kernel lets one process open it.
#[derive(Debug)]
pub struct SerialPort(OwnedFd);

/// The port for as long as one host is there.
#[derive(Debug)]
pub struct SerialConnection(AsyncFd<OwnedFd>);

impl SerialPort {
    /// Opens the device.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Whether a host has its end open, now.
    pub fn host_is_there(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.0, PollFlags::OUT)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut polled, Some(&now))?;
        Ok(!polled[0].revents().contains(PollFlags::HUP))
    }

    /// A connection to the host that is there. Needs a runtime.
    pub fn connect(&self) -> io::Result<SerialConnection> {
        // SAFETY: an `OwnedFd` keeps its descriptor open and names the same one all its life, and nothing here
        // lets it out of the `AsyncFd`.
        Ok(SerialConnection(unsafe {
            AsyncFd::register(self.0.try_clone()?)
        }?))
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the host left the port")
}

impl AsyncRead for SerialConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let closed = guard.ready().is_read_closed();
            let room = buffer.initialize_unfilled();
            let read = guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), room)?));
            return Poll::Ready(match read {
                Ok(Ok(0)) => Err(gone()),
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    Ok(())
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(Err(error)) => Err(error),
                // The host left and another came: this life is over all the same.
                Err(_would_block) if closed => Err(gone()),
                Err(_would_block) => continue,
            });
        }
    }
}

impl AsyncWrite for SerialConnection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            let closed = guard.ready().is_write_closed();
            let written = guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?));
            return Poll::Ready(match written {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(done) => done,
                Err(_would_block) if closed => Err(gone()),
                Err(_would_block) => continue,
            });
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
