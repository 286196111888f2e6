//! The first process of a machine inherits every orphan, and buries it.
//!
//! Invariant: the process that calls this is single-threaded and has one child of its own; nobody else in it
//! waits for children. (A threaded daemon that waits for its own children must not be the first process: two who
//! wait for "any child" take each other's.)

use std::io;

use rustix::process::WaitOptions;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// Buries children until `child` ends.
pub fn reap_until(child: u32) -> io::Result<Ended> {
    loop {
        let (pid, status) = match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if u32::try_from(pid.as_raw_pid()).is_ok_and(|pid| pid == child) {
            return Ok(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ended::Exited(code),
                (None, Some(signal)) => Ended::Killed(signal),
                (None, None) => continue,
            });
        }
    }
}

/// Kills every other process of the machine, and buries those that are this process's children.
pub fn kill_all_others() -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    kill_everything();
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // No children are left.
            Err(_) => return Ok(()),
        }
    }
}

fn kill_everything() {
    // SAFETY: a call with two integers; -1 means every process but the first and the caller.
    let _ = unsafe { libc::kill(-1, libc::SIGKILL) };
}
