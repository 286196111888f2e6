//! Processes by descriptor: a number may be given to another process, a descriptor stays.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal};

/// A process that is or was there.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Refers to the process with this number. The caller knows that the number is still its own:
    /// the process is its child, or it says so itself.
    pub fn open(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self(rustix::process::pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Takes a descriptor that came from elsewhere.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends a signal. A process that has ended is not an error.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // A number that is no signal is the caller's mistake, told as the kernel tells it.
        let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
        match rustix::process::pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Kills it.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL.as_raw())
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
