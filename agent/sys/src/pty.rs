//! Pseudo-terminals.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// The two ends of a terminal: the one that a program behind it holds, and the program's own.
#[derive(Debug)]
pub struct Pty {
    /// The side that stands for screen and keyboard.
    pub controller: OwnedFd,
    /// The side that a program gets as its streams.
    pub terminal: OwnedFd,
}

impl Pty {
    /// Opens a new terminal.
    pub fn open() -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let controller = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&controller)?;
        let name = rustix::pty::ptsname(&controller, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::openat(CWD, name.as_c_str(), flags, Mode::empty())?;
        Ok(Self {
            controller,
            terminal,
        })
    }
}

/// Tells a terminal its size in characters.
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Gives a command the terminal as its streams and as the one that controls its session.
pub fn on_terminal(command: &mut std::process::Command, terminal: OwnedFd) -> io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    command
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(terminal);
    // SAFETY: between fork and exec only two system calls are made, on no memory.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
    Ok(())
}
