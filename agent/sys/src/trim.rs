//! Giving free blocks of a file system back to what is under it.

use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Updater, ioctl, opcode};

#[repr(C)]
struct Range {
    start: u64,
    length: u64,
    minimum: u64,
}

/// `fstrim`: discards all free blocks of the file system that `directory` is on. Returns the bytes.
pub fn trim(directory: impl AsFd) -> io::Result<u64> {
    let mut range = Range {
        start: 0,
        length: u64::MAX,
        minimum: 0,
    };
    // SAFETY: FITRIM is _IOWR('X', 121, struct fstrim_range), whose three 64-bit fields are those of `Range`; the
    // kernel reads and writes nothing else.
    let request =
        unsafe { Updater::<{ opcode::read_write::<Range>(b'X', 121) }, Range>::new(&mut range) };
    // SAFETY: the request is the one above, and lives across the call.
    unsafe { ioctl(directory, request) }?;
    Ok(range.length)
}
