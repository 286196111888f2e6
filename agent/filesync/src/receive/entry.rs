//! Single entries of the destination. All names are one component below an open directory, so that
//! no symlink can lead a call elsewhere.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::{Error, Stat, mode};

pub(super) const DIR_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens the destination itself, which may be reached through symlinks.
pub(super) fn open_root(path: &std::path::Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| Error::io("open destination", &path.to_string_lossy(), errno))
}

/// Opens the directory `path` (several components) below `root`, without following symlinks.
pub(super) fn open_below(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::ResolveFlags;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let path = if path.is_empty() { "." } else { path };
        match rustix::fs::openat2(root, path, DIR_FLAGS, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM) => {}
            opened => return opened,
        }
    }
    let mut dir = rustix::fs::openat(root, ".", DIR_FLAGS, Mode::empty())?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        dir = rustix::fs::openat(&dir, part, DIR_FLAGS, Mode::empty())?;
    }
    Ok(dir)
}

/// The names in a directory, sorted as a walk has them.
pub(super) fn names(dir: &OwnedFd, path: &str) -> Result<Vec<Box<[u8]>>, Error> {
    let failed = |errno| Error::io("read directory", path, errno);
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(Box::from(name));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What the destination has under a name; `None` if nothing. Hard links are recognised among the
/// entries that were looked at, as a sender does it.
pub(super) fn existing(
    dir: &OwnedFd,
    name: &str,
    path: &str,
    links: &mut HashMap<(u64, u64), Box<str>>,
) -> Result<Option<Stat>, Error> {
    let found = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Error::io("stat", path, errno)),
    };
    let mut stat = crate::dir::from_stat(&found);
    if mode::is_symlink(stat.mode) {
        stat.linkname = rustix::fs::readlinkat(dir, name, Vec::new())
            .map_err(|errno| Error::io("read link", path, errno))?
            .to_string_lossy()
            .into_owned();
    }
    if !mode::is_dir(stat.mode) && found.st_nlink > 1 {
        match links.entry((found.st_dev, found.st_ino)) {
            std::collections::hash_map::Entry::Occupied(first) => {
                stat.linkname = first.get().to_string();
                stat.size = 0;
            }
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(path.into());
            }
        }
    }
    Ok(Some(stat))
}

/// Whether two entries are the same as far as metadata tells.
pub(super) fn same(old: &Stat, new: &Stat) -> bool {
    let common = old.mode == new.mode
        && old.uid == new.uid
        && old.gid == new.gid
        && old.devmajor == new.devmajor
        && old.devminor == new.devminor
        && old.linkname == new.linkname;
    common && (mode::is_dir(new.mode) || (old.size == new.size && old.mod_time == new.mod_time))
}

/// Removes an entry and everything below it, without following anything.
pub(super) fn remove(dir: &OwnedFd, name: &[u8], path: &str) -> Result<(), Error> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(Error::io("remove", path, errno)),
    }
    let inner = rustix::fs::openat(dir, name, DIR_FLAGS, Mode::empty())
        .map_err(|errno| Error::io("remove", path, errno))?;
    for child in names(&inner, path)? {
        let below = format!("{path}/{}", String::from_utf8_lossy(&child));
        remove(&inner, &child, &below)?;
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
        .map_err(|errno| Error::io("remove", path, errno))
}

/// Makes a symlink, device or pipe under `name`, complete with its metadata.
pub(super) fn make_special(dir: &OwnedFd, name: &str, stat: &Stat) -> Result<(), Error> {
    let path = stat.path.as_str();
    if mode::is_symlink(stat.mode) {
        rustix::fs::symlinkat(stat.linkname.as_str(), dir, name)
            .map_err(|errno| Error::io("create symlink", path, errno))?;
    } else {
        let kind = if stat.mode & mode::CHAR_DEVICE != 0 {
            FileType::CharacterDevice
        } else if stat.mode & mode::DEVICE != 0 {
            FileType::BlockDevice
        } else {
            FileType::Fifo
        };
        if kind == FileType::CharacterDevice && stat.devmajor == 0 && stat.devminor == 0 {
            // On an overlay this is the mark of a deleted file.
            return Err(Error::Path {
                path: path.to_owned(),
                reason: "a character device 0:0 can't be part of a tree",
            });
        }
        let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
        let device = rustix::fs::makedev(number(stat.devmajor), number(stat.devminor));
        rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), device)
            .map_err(|errno| Error::io("create device", path, errno))?;
    }
    rustix::fs::chownat(
        dir,
        name,
        Some(rustix::fs::Uid::from_raw(stat.uid)),
        Some(rustix::fs::Gid::from_raw(stat.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(|errno| Error::io("change owner", path, errno))?;
    if !mode::is_symlink(stat.mode) {
        let mode = Mode::from_raw_mode(mode::permissions(stat.mode));
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty())
            .map_err(|errno| Error::io("change mode", path, errno))?;
    }
    rustix::fs::utimensat(dir, name, &times(stat.mod_time), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| Error::io("set times", path, errno))
}

/// Owner, mode and extended attributes of an open file or directory. The mode comes after the owner,
/// since a change of owner clears set-id bits and capabilities.
pub(super) fn set_metadata(fd: impl AsFd, stat: &Stat, owned: bool) -> Result<(), Error> {
    let fd = fd.as_fd();
    if !owned {
        rustix::fs::fchown(
            fd,
            Some(rustix::fs::Uid::from_raw(stat.uid)),
            Some(rustix::fs::Gid::from_raw(stat.gid)),
        )
        .map_err(|errno| Error::io("change owner", &stat.path, errno))?;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode::permissions(stat.mode)))
        .map_err(|errno| Error::io("change mode", &stat.path, errno))?;
    for (name, value) in &stat.xattrs {
        // These steer overlayfs and must not come from outside.
        if name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.") {
            continue;
        }
        // File systems differ in what they take; BuildKit ignores this too.
        if let Err(errno) = rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
            tracing::debug!(path = %stat.path, %name, %errno, "extended attribute not set");
        }
    }
    Ok(())
}

/// Both times set to `nanos` since 1970.
pub(super) fn times(nanos: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: nanos.div_euclid(1_000_000_000),
        tv_nsec: nanos.rem_euclid(1_000_000_000) as _,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
