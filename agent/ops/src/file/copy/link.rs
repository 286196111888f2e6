//! Regular files: linked where that gives the same file, copied where it doesn't.
//!
//! A state's files are never written again once it is committed, and sources that are updated in place
//! give a changed file a new inode. So a file of the source may become a file of the new layer by a hard
//! link, if owner, mode and time stay as they are and both are on one file system. Links don't cross
//! mounts: the link goes past the overlay mount, straight into the directory that the overlay writes
//! to. What was linked shows in the next mount, not in the present one, which is closed with the
//! action.
//!
//! Invariants: an inode is linked into a layer once (two names of one inode would be one file in the
//! layer's archive, unlike BuildKit's), unless the source has it twice as well; a name that the overlay
//! shows is never touched behind its back.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use kiln_sys::rootfs::RootDir;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::super::error::FileError;
use super::{Copier, meta};

/// A directory of the target.
pub(super) struct Dst {
    pub(super) fd: OwnedFd,
    /// Inside of the target's root.
    pub(super) path: PathBuf,
    /// Made by this copy, so nothing is in it but what the copy put there.
    pub(super) fresh: bool,
    upper: OnceCell<Option<OwnedFd>>,
}

impl Dst {
    pub(super) fn new(fd: OwnedFd, path: PathBuf) -> Self {
        Self {
            fd,
            path,
            fresh: false,
            upper: OnceCell::new(),
        }
    }

    /// The same directory where writes end up.
    fn upper(&self, upper: Option<&RootDir>) -> Option<BorrowedFd<'_>> {
        let upper = self.upper.get_or_init(|| open_upper(self, upper?));
        upper.as_ref().map(AsFd::as_fd)
    }
}

fn open_upper(dst: &Dst, upper: &RootDir) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let open = || upper.open_at(&dst.path, flags, Mode::empty());
    if let Ok(fd) = open() {
        return Some(fd);
    }
    // The directory is in a layer below: setting its times, to what they are, brings it up.
    let stat = rustix::fs::fstat(open_self(dst)?).ok()?;
    let (atime, mtime) = meta::times_of(&stat);
    meta::set_times_open(open_self(dst)?.as_fd(), atime, mtime).ok()?;
    open().ok()
}

/// The directory as one that can be written to; the one that is held may only be a place.
fn open_self(dst: &Dst) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&dst.fd, ".", flags, Mode::empty()).ok()
}

/// What was linked into one layer.
#[derive(Debug, Default)]
pub(in super::super) struct Linked {
    inodes: HashSet<(u64, u64)>,
    /// Source and target are on different file systems, or links are refused.
    impossible: bool,
}

impl Linked {
    /// Another source may be on another file system than the last one.
    pub(in super::super) fn next_source(&mut self) {
        self.impossible = false;
    }
}

impl Copier<'_> {
    pub(super) fn file(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        target: &Rc<Dst>,
        dst_name: &OsStr,
        path: &Path,
        stat: &Stat,
    ) -> Result<(), FileError> {
        let inode = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some((first, first_name, through_upper)) = self.copied.get(&inode)
        {
            let linked = if *through_upper {
                match (first.upper(self.upper), target.upper(self.upper)) {
                    (Some(from), Some(to)) => link(from, first_name, to, dst_name),
                    _ => Err(Errno::XDEV),
                }
            } else {
                link(first.fd.as_fd(), first_name, target.fd.as_fd(), dst_name)
            };
            return linked.map_err(FileError::at("link", target.path.join(dst_name)));
        }
        let linked = self.link_in(folder, name, target, dst_name, stat, inode);
        if !linked {
            self.copy_file(folder, name, target, dst_name, path, stat)?;
        }
        if stat.st_nlink > 1 {
            let first = (Rc::clone(target), dst_name.to_owned(), linked);
            self.copied.insert(inode, first);
        }
        Ok(())
    }

    fn link_in(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        target: &Dst,
        dst_name: &OsStr,
        stat: &Stat,
        inode: (u64, u64),
    ) -> bool {
        if self.linked.impossible
            || stat.st_size == 0
            || self.linked.inodes.contains(&inode)
            || !self.stays_as_it_is(stat)
        {
            return false;
        }
        let Some(upper) = target.upper(self.upper) else {
            return false;
        };
        match link(folder, name, upper, dst_name) {
            Ok(()) => {
                self.linked.inodes.insert(inode);
                true
            }
            // A whiteout, or too many links: this file only.
            Err(Errno::EXIST | Errno::MLINK) => false,
            Err(_) => {
                self.linked.impossible = true;
                false
            }
        }
    }

    fn copy_file(
        &self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        target: &Dst,
        dst_name: &OsStr,
        path: &Path,
        stat: &Stat,
    ) -> Result<(), FileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let src = rustix::fs::openat(folder, name, flags, Mode::empty())
            .map_err(FileError::at("failed to open source", path))?;
        let to = target.path.join(dst_name);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dst = rustix::fs::openat(&target.fd, dst_name, flags, Mode::from_raw_mode(0o600))
            .map_err(FileError::at("failed to open target", &to))?;
        let (mut src, mut dst) = (std::fs::File::from(src), std::fs::File::from(dst));
        // The standard library shares extents or copies inside of the kernel where that is possible.
        std::io::copy(&mut src, &mut dst).map_err(FileError::at("failed to copy files to", &to))?;
        self.finish_open(dst.as_fd(), &src, stat, false)
            .map_err(FileError::at("failed to copy file info", &to))
    }
}

fn link(
    from: BorrowedFd<'_>,
    name: &OsStr,
    to: BorrowedFd<'_>,
    new_name: &OsStr,
) -> Result<(), Errno> {
    rustix::fs::linkat(from, name, to, new_name, AtFlags::empty())
}
