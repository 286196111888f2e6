//! Copies trees with everything that a state consists of.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};

use crate::Error;
use crate::stack::{file_type, list, lstat};

/// Copies what is in `from` into the existing directory `to`, and its attributes.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    let stat = lstat(from)
        .map_err(Error::io("failed to stat", from))?
        .ok_or_else(|| Error::io("failed to find", from)(std::io::ErrorKind::NotFound.into()))?;
    copy_dir(from, to, &mut HashMap::new())?;
    copy_metadata(from, &stat, to)
}

type Links = HashMap<(u64, u64), PathBuf>;

fn copy_dir(from: &Path, to: &Path, links: &mut Links) -> Result<(), Error> {
    for name in list(from).map_err(Error::io("failed to list", from))? {
        let (source, target) = (from.join(&name), to.join(&name));
        let Some(stat) = lstat(&source).map_err(Error::io("failed to stat", &source))? else {
            continue;
        };
        let kind = file_type(&stat);
        if kind == FileType::Socket {
            continue;
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = links.get(&(stat.st_dev, stat.st_ino)) {
                std::fs::hard_link(first, &target).map_err(Error::io("failed to link", &target))?;
                continue;
            }
            links.insert((stat.st_dev, stat.st_ino), target.clone());
        }
        match kind {
            FileType::Directory => {
                std::fs::create_dir(&target).map_err(Error::io("failed to make", &target))?;
                copy_dir(&source, &target, links)?;
            }
            FileType::Symlink => {
                let link = std::fs::read_link(&source)
                    .map_err(Error::io("failed to read the link", &source))?;
                std::os::unix::fs::symlink(link, &target)
                    .map_err(Error::io("failed to make", &target))?;
            }
            FileType::RegularFile => copy_file(&source, &target)?,
            kind => {
                rustix::fs::mknodat(CWD, &target, kind, Mode::from_raw_mode(0o600), stat.st_rdev)
                    .map_err(|e| Error::io("failed to make", &target)(e.into()))?;
            }
        }
        copy_metadata(&source, &stat, &target)?;
    }
    Ok(())
}

/// Copies bytes, sharing blocks where the file system can.
fn copy_file(from: &Path, to: &Path) -> Result<(), Error> {
    let mut source = File::open(from).map_err(Error::io("failed to open", from))?;
    let mut target = File::create_new(to).map_err(Error::io("failed to make", to))?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    std::io::copy(&mut source, &mut target).map_err(Error::io("failed to copy", from))?;
    Ok(())
}

/// Gives `to` the owner, mode, attributes and times of `from`, which aren't followed.
pub(crate) fn copy_metadata(from: &Path, stat: &Stat, to: &Path) -> Result<(), Error> {
    let failed = |doing| move |e: rustix::io::Errno| Error::io(doing, to)(e.into());
    rustix::fs::chownat(
        CWD,
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(failed("failed to set the owner of"))?;
    for (name, value) in xattrs(from)? {
        match rustix::fs::lsetxattr(to, name.as_slice(), &value, XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM) => {}
            Err(e) => return Err(failed("failed to set attributes of")(e)),
        }
    }
    if file_type(stat) != FileType::Symlink {
        rustix::fs::chmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))
            .map_err(failed("failed to set the mode of"))?;
    }
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as i64,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as i64,
        },
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("failed to set the time of"))
}

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// All extended attributes of a path, but overlayfs's own.
fn xattrs(path: &Path) -> Result<Attributes, Error> {
    let mut names = vec![0_u8; 4096];
    let length = loop {
        match rustix::fs::llistxattr(path, names.as_mut_slice()) {
            Ok(length) => break length,
            Err(rustix::io::Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(rustix::io::Errno::OPNOTSUPP) => break 0,
            Err(e) => return Err(Error::io("failed to list attributes of", path)(e.into())),
        }
    };
    let mut attributes = Vec::new();
    for name in names[..length].split(|&b| b == 0) {
        if name.is_empty()
            || name.starts_with(b"trusted.overlay.")
            || name.starts_with(b"user.overlay.")
        {
            continue;
        }
        let Ok(text) = std::str::from_utf8(name) else {
            continue;
        };
        let value = crate::stack::lgetxattr(path, text)
            .map_err(Error::io("failed to read attributes of", path))?;
        if let Some(value) = value {
            attributes.push((name.to_vec(), value));
        }
    }
    Ok(attributes)
}
