//! Makes one entry.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::{Applier, ApplyError, CleanPath, Whiteouts};
use crate::stack::{file_type, is_whiteout};
use crate::tar::{Header, Kind, TarTime};

impl Applier {
    /// Makes what the entry says, in place of what is there.
    pub(super) fn extract(
        &mut self,
        path: &CleanPath,
        entry: &Header,
        data: &mut impl Read,
    ) -> Result<(), ApplyError> {
        let name = &entry.name;
        if matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) {
            if entry.kind == Kind::CharDevice && entry.devmajor == 0 && entry.devminor == 0 {
                return Err(ApplyError::entry(
                    name,
                    "a character device 0/0 isn't allowed in a layer",
                ));
            }
            if self.options.skip_devices {
                return Ok(());
            }
        }
        let parent = self.parents.ensure(path.dir())?;
        let parent = parent.as_fd();
        let base = path.base();
        if self.options.whiteouts == Whiteouts::Remove {
            self.made.insert(path.0.clone());
        }
        match entry.kind {
            Kind::Regular => {
                let file = self.create(parent, path)?;
                self.fill(&file, entry, data)?;
                set_metadata(&Target::File(&file), entry)?;
            }
            Kind::Directory => {
                self.make_dir(parent, path)?;
                set_metadata(&Target::Name(parent, base), entry)?;
                self.dir_times.insert(path.0.clone(), entry.mtime);
                self.parents.named(&path.0);
            }
            Kind::Symlink => {
                self.retry(parent, path, |parent, base| {
                    rustix::fs::symlinkat(entry.linkname.as_slice(), parent, base)
                })?;
                set_metadata(&Target::Link(parent, base), entry)?;
                // The kernel may have resolved a missing name differently before.
                self.parents.forget();
            }
            Kind::HardLink => self.hard_link(parent, path, entry)?,
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let (kind, device) = match entry.kind {
                    Kind::CharDevice => (FileType::CharacterDevice, entry),
                    Kind::BlockDevice => (FileType::BlockDevice, entry),
                    _ => (FileType::Fifo, entry),
                };
                let device = rustix::fs::makedev(device.devmajor, device.devminor);
                self.retry(parent, path, |parent, base| {
                    rustix::fs::mknodat(parent, base, kind, Mode::from_raw_mode(0o600), device)
                })?;
                set_metadata(&Target::Name(parent, base), entry)?;
                set_time(parent, base, entry.mtime)
                    .map_err(|e| ApplyError::io("set the time of", name, e))?;
            }
        }
        Ok(())
    }

    /// Makes a layer's whiteout of `hidden` beside `path`.
    pub(super) fn whiteout(&mut self, path: &CleanPath, hidden: &[u8]) -> Result<(), ApplyError> {
        let dir = path.dir();
        if hidden == b".wh..opq" {
            return self.opaque(dir);
        }
        // Other names of the kind are of union file systems that layers don't describe.
        if hidden.starts_with(b".wh.") {
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(ApplyError::entry(&path.0, "a whiteout of no name"));
        }
        let target = [dir, b"/", hidden].concat();
        let target = CleanPath(target.strip_prefix(b"/").unwrap_or(&target).to_vec());
        match self.options.whiteouts {
            Whiteouts::Overlay { .. } => {
                let parent = self.parents.ensure(dir)?;
                let made = rustix::fs::mknodat(
                    parent.as_fd(),
                    hidden,
                    FileType::CharacterDevice,
                    Mode::empty(),
                    0,
                );
                match made {
                    Ok(()) => Ok(()),
                    // The layer removes a name and makes it anew: only a directory shows the difference.
                    Err(Errno::EXIST) => {
                        if is_dir(parent.as_fd(), hidden) {
                            self.opaque(&target.0)?;
                        }
                        Ok(())
                    }
                    Err(e) => Err(ApplyError::io("make the whiteout", &path.0, e)),
                }
            }
            Whiteouts::Remove => {
                let Ok(parent) = self.parents.existing(dir) else {
                    return Ok(());
                };
                if self.made.contains(&target.0) {
                    return Ok(());
                }
                self.parents.forget();
                crate::remove::remove_at(parent.as_fd(), hidden)
                    .map_err(|e| ApplyError::io("remove", &target.0, e))
            }
            Whiteouts::Literal => Ok(()),
        }
    }

    /// Hides what the layers below have in a directory.
    fn opaque(&mut self, dir: &[u8]) -> Result<(), ApplyError> {
        match self.options.whiteouts {
            Whiteouts::Overlay { userxattr } => {
                let Some(path) = CleanPath::new(dir) else {
                    return Err(ApplyError::entry(dir, "the root can't be opaque"));
                };
                self.parents.ensure(dir)?;
                let parent = self.parents.ensure(path.dir())?;
                let attribute = crate::stack::OPAQUE[usize::from(userxattr)];
                rustix::fs::lsetxattr(
                    proc_path(parent.as_fd(), path.base()),
                    attribute,
                    b"y",
                    XattrFlags::empty(),
                )
                .map_err(|e| ApplyError::io("hide the content below of", dir, e))
            }
            Whiteouts::Remove => {
                let Ok(fd) = self.parents.existing(dir) else {
                    return Ok(());
                };
                let made = &self.made;
                let prefix = if dir.is_empty() {
                    Vec::new()
                } else {
                    [dir, b"/"].concat()
                };
                crate::remove::clear_at(fd.as_fd(), &prefix, &|path| made.contains(path))
                    .map_err(|e| ApplyError::io("empty", dir, e))?;
                self.parents.forget();
                Ok(())
            }
            Whiteouts::Literal => Ok(()),
        }
    }

    fn create(&mut self, parent: BorrowedFd<'_>, path: &CleanPath) -> Result<OwnedFd, ApplyError> {
        self.retry(parent, path, |parent, base| {
            rustix::fs::openat(
                parent,
                base,
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o600),
            )
        })
    }

    fn fill(
        &mut self,
        file: &OwnedFd,
        entry: &Header,
        data: &mut impl Read,
    ) -> Result<(), ApplyError> {
        let mut left = entry.size;
        while left > 0 {
            let want = self
                .buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = match data.read(&mut self.buffer[..want]) {
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(crate::tar::TarError::from(e).into()),
            };
            let mut rest = &self.buffer[..n];
            while !rest.is_empty() {
                match rustix::io::write(file, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(ApplyError::io("write", &entry.name, e)),
                }
            }
            left -= n as u64;
        }
        Ok(())
    }

    /// Makes a directory, or keeps the one that is there. One in place of a whiteout hides what is below.
    fn make_dir(&mut self, parent: BorrowedFd<'_>, path: &CleanPath) -> Result<(), ApplyError> {
        let mode = Mode::from_raw_mode(0o700);
        match rustix::fs::mkdirat(parent, path.base(), mode) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(ApplyError::io("make", &path.0, e)),
        }
        let stat = rustix::fs::statat(parent, path.base(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| ApplyError::io("stat", &path.0, e))?;
        if file_type(&stat).is_dir() {
            return Ok(());
        }
        self.clear(parent, path)?;
        rustix::fs::mkdirat(parent, path.base(), mode)
            .map_err(|e| ApplyError::io("make", &path.0, e))?;
        if is_whiteout(&stat) {
            self.opaque(&path.0)?;
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &CleanPath,
        entry: &Header,
    ) -> Result<(), ApplyError> {
        let missing = || ApplyError::entry(&entry.name, "the target of a hard link isn't there");
        let target = CleanPath::new(&entry.linkname).ok_or_else(missing)?;
        if target == *path {
            return Err(ApplyError::entry(&entry.name, "a hard link to itself"));
        }
        let dir = self.parents.existing(target.dir()).map_err(|_| missing())?;
        let stat: Stat = rustix::fs::statat(dir.as_fd(), target.base(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|_| missing())?;
        if file_type(&stat).is_dir() || is_whiteout(&stat) {
            return Err(missing());
        }
        self.retry(parent, path, |parent, base| {
            rustix::fs::linkat(dir.as_fd(), target.base(), parent, base, AtFlags::empty())
        })
    }

    /// Makes something that must not be there; what is there goes away first.
    fn retry<T>(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &CleanPath,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, ApplyError> {
        match make(parent, path.base()) {
            Err(Errno::EXIST) => {
                self.clear(parent, path)?;
                make(parent, path.base())
            }
            other => other,
        }
        .map_err(|e| ApplyError::io("make", &path.0, e))
    }

    fn clear(&mut self, parent: BorrowedFd<'_>, path: &CleanPath) -> Result<(), ApplyError> {
        self.parents.forget();
        crate::remove::remove_at(parent, path.base())
            .map_err(|e| ApplyError::io("replace", &path.0, e))
    }
}

fn is_dir(parent: BorrowedFd<'_>, base: &[u8]) -> bool {
    rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| file_type(&stat).is_dir())
}

/// How the thing that gets attributes is reached.
enum Target<'a> {
    File(&'a OwnedFd),
    Name(BorrowedFd<'a>, &'a [u8]),
    Link(BorrowedFd<'a>, &'a [u8]),
}

fn set_metadata(target: &Target<'_>, entry: &Header) -> Result<(), ApplyError> {
    let owner = |id: u64| {
        u32::try_from(id)
            .ok()
            .filter(|&id| id != u32::MAX)
            .ok_or_else(|| ApplyError::entry(&entry.name, "an owner that no system has"))
    };
    let (uid, gid) = (owner(entry.uid)?, owner(entry.gid)?);
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let mode = Mode::from_raw_mode(entry.mode);
    let failed = |doing| move |e: Errno| ApplyError::io(doing, &entry.name, e);
    match target {
        Target::File(file) => rustix::fs::fchown(file, uid, gid),
        Target::Name(parent, base) | Target::Link(parent, base) => {
            rustix::fs::chownat(parent, *base, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        }
    }
    .map_err(failed("set the owner of"))?;
    for (name, value) in entry.xattrs() {
        set_xattr(target, name, value).map_err(failed("set attributes of"))?;
    }
    match target {
        Target::File(file) => {
            rustix::fs::fchmod(file, mode).map_err(failed("set the mode of"))?;
            rustix::fs::futimens(file, &times(entry.mtime)).map_err(failed("set the time of"))
        }
        Target::Name(parent, base) => rustix::fs::chmodat(parent, *base, mode, AtFlags::empty())
            .map_err(failed("set the mode of")),
        Target::Link(parent, base) => {
            set_time(*parent, base, entry.mtime).map_err(failed("set the time of"))
        }
    }
}

/// Sets an extended attribute, unless it is one of overlayfs's or the file system has none of its kind.
fn set_xattr(target: &Target<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
        return Ok(());
    }
    let set = match target {
        Target::File(file) => rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()),
        Target::Name(parent, base) | Target::Link(parent, base) => {
            rustix::fs::lsetxattr(proc_path(*parent, base), name, value, XattrFlags::empty())
        }
    };
    match set {
        // `user.` attributes exist on files and directories only; `trusted.` ones not without privileges.
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        other => other,
    }
}

/// A path to a name in an open directory, for calls that take no directory handle.
fn proc_path(parent: BorrowedFd<'_>, base: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(base);
    path
}

fn times(time: TarTime) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Sets both times of a name, which isn't followed.
pub(super) fn set_time(parent: BorrowedFd<'_>, base: &[u8], time: TarTime) -> Result<(), Errno> {
    rustix::fs::utimensat(parent, base, &times(time), AtFlags::SYMLINK_NOFOLLOW)
}
