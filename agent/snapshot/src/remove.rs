//! Removes trees without following anything, however deep they are.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Removes a name and what is below it. Nothing is there: fine.
pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    clear_at_name(parent, name, &[], &|_| false)?;
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes what is in a directory, but for paths that `spare` wants kept and the directories above
/// them. `prefix` is the directory's path with a slash at its end.
pub(crate) fn clear_at(
    dir: BorrowedFd<'_>,
    prefix: &[u8],
    spare: &dyn Fn(&[u8]) -> bool,
) -> io::Result<()> {
    clear_at_name(dir, b".", prefix, spare)
}

fn clear_at_name(
    parent: BorrowedFd<'_>,
    name: &[u8],
    prefix: &[u8],
    spare: &dyn Fn(&[u8]) -> bool,
) -> io::Result<()> {
    let fd = rustix::fs::openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let names: Vec<Vec<u8>> = Dir::read_from(&fd)?
        .filter_map(|entry| match entry {
            Ok(entry) => {
                let name = entry.file_name().to_bytes();
                (name != b"." && name != b"..").then(|| Ok(name.to_vec()))
            }
            Err(e) => Some(Err(io::Error::from(e))),
        })
        .collect::<io::Result<_>>()?;
    let fd: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(&fd);
    for name in names {
        let path = [prefix, &name].concat();
        if spare(&path) {
            let below = [&path, &b"/"[..]].concat();
            match clear_at_name(fd, &name, &below, spare) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotADirectory => {}
                Err(e) if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {}
                Err(e) => return Err(e),
            }
            continue;
        }
        match rustix::fs::unlinkat(fd, name.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                clear_at_name(fd, &name, &[&path, &b"/"[..]].concat(), spare)?;
                match rustix::fs::unlinkat(fd, name.as_slice(), AtFlags::REMOVEDIR) {
                    // Something in it is spared.
                    Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Removes a path and what is below it.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let name = path.as_os_str().as_encoded_bytes();
    remove_at(rustix::fs::CWD, name)
}
