//! Removing trees without following links, however deep they are.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kiln_sys::rootfs::RootDir;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::FileError;
use super::glob;

/// Removes what `name` is in `folder`, with everything below it. Nothing there is fine.
pub(super) fn tree(folder: impl AsFd, name: &OsStr, path: &Path) -> Result<(), FileError> {
    // Directories that are being emptied: what is left in each, and its name in the one above.
    let mut open: Vec<(OwnedFd, Vec<OsString>, OsString)> = Vec::new();
    let mut next = Some(name.to_owned());
    loop {
        let parent = open.last().map_or(folder.as_fd(), |(fd, ..)| fd.as_fd());
        if let Some(name) = next.take() {
            match rustix::fs::unlinkat(parent, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    match rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(Errno::NOTEMPTY | Errno::EXIST) => {
                            let flags = OFlags::RDONLY
                                | OFlags::DIRECTORY
                                | OFlags::NOFOLLOW
                                | OFlags::CLOEXEC;
                            let fd = rustix::fs::openat(parent, &name, flags, Mode::empty())
                                .map_err(FileError::at("unlinkat", path))?;
                            let inside = glob::names(&fd, path)?;
                            open.push((fd, inside, name));
                        }
                        Err(error) => return Err(FileError::at("unlinkat", path)(error)),
                    }
                }
                Err(error) => return Err(FileError::at("unlinkat", path)(error)),
            }
        }
        let Some((_, inside, _)) = open.last_mut() else {
            return Ok(());
        };
        next = inside.pop();
        if next.is_none() {
            next = open.pop().map(|(_, _, name)| name);
        }
    }
}

/// The `rm` action on one path.
pub(super) fn path(root: &RootDir, path: &str, allow_not_found: bool) -> Result<(), FileError> {
    let clean = kiln_gotext::path::rooted(path);
    let full = Path::new(&clean);
    if clean == "/" {
        return Err(FileError::EmptyPath);
    }
    let (folder, name) = match root.parent_of(full) {
        Ok(found) => found,
        Err(error) if allow_not_found && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(());
        }
        Err(error) => return Err(FileError::at("stat", full)(error)),
    };
    if !allow_not_found {
        root.stat(full, true).map_err(FileError::at("stat", full))?;
    }
    tree(folder, name, full)
}
