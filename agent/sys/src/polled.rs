//! A descriptor that the async runtime watches.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use tokio::io::unix::AsyncFd;

/// A pipe, terminal, socket or pidfd whose readiness tasks can wait for.
#[derive(Debug)]
pub struct Polled(AsyncFd<OwnedFd>);

impl Polled {
    /// Makes it non-blocking and watches it. Needs a runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` keeps its descriptor open and names the same one all its life, and
        // nothing here lets it out of the `AsyncFd`.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }

    /// Reads once; 0 at the end.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.readable(|fd| Ok(rustix::io::read(fd, &mut *buffer)?))
            .await
    }

    /// Writes all.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .writable(|fd| Ok(rustix::io::write(fd, bytes)?))
                .await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Does `f` whenever it may be read, until it no longer would block.
    pub async fn readable<T>(
        &self,
        mut f: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| f(fd.get_ref().as_fd())) {
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Does `f` whenever it may be written, until it no longer would block.
    pub async fn writable<T>(
        &self,
        mut f: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| f(fd.get_ref().as_fd())) {
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

impl AsFd for Polled {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
