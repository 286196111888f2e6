//! Owner, mode, attributes and times of what was copied.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fgetxattr,
    flistxattr, fsetxattr, futimens,
};
use rustix::io::Errno;

use super::super::error::FileError;
use super::Copier;
use super::link::Dst;

/// More attributes than this aren't copied.
const MAX_LIST: usize = 64 * 1024;

impl Copier<'_> {
    /// Gives an open file or directory what it has in the source, or what the action says.
    pub(super) fn finish_open(
        &self,
        dst: BorrowedFd<'_>,
        src: impl AsFd,
        stat: &Stat,
        directory: bool,
    ) -> Result<(), Errno> {
        let (uid, gid) = self.owner.unwrap_or((stat.st_uid, stat.st_gid));
        fchown(dst, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        let mode = self.chmod.apply(stat.st_mode, directory);
        fchmod(dst, Mode::from_raw_mode(mode))?;
        copy_attributes(src.as_fd(), dst);
        let (atime, mtime) = self.times(stat);
        set_times_open(dst, atime, mtime)
    }

    /// The same for what can't be opened: links, devices, pipes and sockets.
    pub(super) fn finish_special(
        &self,
        target: &Dst,
        name: &OsStr,
        stat: &Stat,
        link: bool,
    ) -> Result<(), FileError> {
        let error = || FileError::at("failed to copy file info", target.path.join(name));
        let (uid, gid) = self.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(
            &target.fd,
            name,
            owner.0,
            owner.1,
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(error())?;
        if !link {
            // The entry was made just now in a directory that only this op can write to.
            let mode = Mode::from_raw_mode(self.chmod.apply(stat.st_mode, false));
            rustix::fs::chmodat(&target.fd, name, mode, AtFlags::empty()).map_err(error())?;
        }
        let (atime, mtime) = self.times(stat);
        set_times(target.fd.as_fd(), name, atime, mtime).map_err(error())
    }

    /// Whether a file would be the same as in the source.
    pub(super) fn stays_as_it_is(&self, stat: &Stat) -> bool {
        let owner = self
            .owner
            .is_none_or(|owner| owner == (stat.st_uid, stat.st_gid));
        let (_, mtime) = times_of(stat);
        let time = self
            .time
            .is_none_or(|time| (time.tv_sec, time.tv_nsec) == (mtime.tv_sec, mtime.tv_nsec));
        owner && time && self.chmod.apply(stat.st_mode, false) == stat.st_mode & 0o7777
    }
}

/// Access and modification time.
pub(super) fn times_of(stat: &Stat) -> (Timespec, Timespec) {
    let time = |sec, nsec: u64| Timespec {
        tv_sec: sec,
        tv_nsec: nsec as i64,
    };
    (
        time(stat.st_atime, stat.st_atime_nsec),
        time(stat.st_mtime, stat.st_mtime_nsec),
    )
}

pub(super) fn set_times_open(
    fd: BorrowedFd<'_>,
    atime: Timespec,
    mtime: Timespec,
) -> Result<(), Errno> {
    futimens(
        fd,
        &Timestamps {
            last_access: atime,
            last_modification: mtime,
        },
    )
}

pub(super) fn set_times(
    folder: BorrowedFd<'_>,
    name: &OsStr,
    atime: Timespec,
    mtime: Timespec,
) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: atime,
        last_modification: mtime,
    };
    rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Copies extended attributes as far as source and target have them. Those of overlay file systems
/// would change what a layer means, and stay behind.
fn copy_attributes(src: BorrowedFd<'_>, dst: BorrowedFd<'_>) {
    let mut names = Vec::with_capacity(1024);
    let Ok(length) = flistxattr(src, &mut [0u8; 0]) else {
        return;
    };
    if length == 0 || length > MAX_LIST {
        return;
    }
    names.resize(length, 0);
    let Ok(length) = flistxattr(src, names.as_mut_slice()) else {
        return;
    };
    for name in names[..length].split(|byte| *byte == 0) {
        if name.is_empty()
            || name.starts_with(b"trusted.overlay.")
            || name.starts_with(b"user.overlay.")
        {
            continue;
        }
        let mut value = vec![0; MAX_LIST];
        if let Ok(length) = fgetxattr(src, name, value.as_mut_slice()) {
            // A file system that lacks a kind of attributes doesn't fail a copy.
            let _ = fsetxattr(dst, name, &value[..length], XattrFlags::empty());
        }
    }
}
