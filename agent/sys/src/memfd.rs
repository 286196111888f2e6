//! A copy of a program in memory that nobody can change.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};

/// Copies the program and seals the copy.
pub fn sealed_copy(program: &Path) -> io::Result<OwnedFd> {
    let mut from = File::open(program)?;
    let fd = rustix::fs::memfd_create("kiln", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut to = File::from(fd);
    io::copy(&mut from, &mut to)?;
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&to, all)?;
    // A descriptor that was opened for writing can't be executed.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&to));
    Ok(File::open(path)?.into())
}
