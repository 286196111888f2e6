//! Network namespaces, held by descriptor: nothing of them is left when the last holder is gone.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network of its own.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// Makes one, and does something in it on a thread that is nowhere else.
    pub fn create<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<(Self, T)> {
        on_a_thread(|| {
            // SAFETY: takes a number and touches no memory. It moves this thread alone, which runs
            // nothing but this closure and ends with it.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            let namespace = File::open("/proc/thread-self/ns/net")?;
            Ok((Self(namespace.into()), work()))
        })
    }

    /// Does something in it.
    pub fn with<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_a_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })
    }

    /// A path for others to enter it by, for as long as this is held.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
