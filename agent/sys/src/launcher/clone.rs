//! Making processes, in a process that has one thread.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `libc` has it in a type that it doesn't fit into.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a clone this is.
#[derive(Debug)]
pub(super) enum Side {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// A copy of this process in new namespaces. The caller has one thread.
pub(super) fn clone(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    let mut pidfd: i32 = -1;
    let mut flags = libc::CLONE_PIDFD as u64 | namespaces as u64;
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let args = libc::clone_args {
        flags,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: without CLONE_VM the child runs on a copy of this memory, like after `fork`. The slot
    // has one thread, so no lock of the allocator or of libc can be held by another one. The kernel
    // reads `args` and writes one `i32` to `pidfd`; both live across the call.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            std::mem::size_of::<libc::clone_args>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent {
            pid: pid as i32,
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Moves this process (or, for pid namespaces, its future children) into namespaces of `of`: a
/// process's descriptor with flags, or a namespace's own with 0.
pub(super) fn enter(of: BorrowedFd<'_>, namespaces: i32) -> io::Result<()> {
    // SAFETY: takes two numbers and touches no memory.
    check(unsafe { libc::setns(of.as_raw_fd(), namespaces) })
}

/// Moves this process into new namespaces.
pub(super) fn unshare(namespaces: i32) -> io::Result<()> {
    // SAFETY: takes a number and touches no memory of this process.
    check(unsafe { libc::unshare(namespaces) })
}

/// The answer of a call that returns 0 if it succeeds.
pub(super) fn check(answer: i32) -> io::Result<()> {
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes stream number `stream` a copy of `of`, open across `exec`.
pub(super) fn become_stream(of: BorrowedFd<'_>, stream: i32) -> io::Result<()> {
    // SAFETY: takes two numbers; 0, 1 and 2 have no owner in a slot that would be surprised.
    let answer = unsafe { libc::dup2(of.as_raw_fd(), stream) };
    if answer == stream {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
