//! The actions on one open root: mkdir, mkfile, symlink, rm; copies are in [`super::copy`].

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kiln_proto::pb;
use kiln_proto::pb::file_action::Action;
use kiln_sys::rootfs::{Creation, RootDir};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::copy::{self, Target};
use super::error::FileError;
use super::owner::{self, Owner};
use super::{glob, remove};

/// The roots that an action works with.
pub(super) struct Roots<'a> {
    pub(super) target: Target<'a>,
    pub(super) source: Option<&'a RootDir>,
    pub(super) user: Option<&'a RootDir>,
    pub(super) group: Option<&'a RootDir>,
}

/// Does the `index`-th action.
pub(super) fn run(
    action: &Action,
    index: usize,
    roots: Roots<'_>,
    cancel: &CancellationToken,
) -> Result<(), FileError> {
    let root = roots.target.root;
    let owner =
        |option: &Option<pb::ChownOpt>| owner::find(option.as_ref(), roots.user, roots.group);
    match action {
        Action::Mkdir(dir) => mkdir(root, dir, owner(&dir.owner)?),
        Action::Mkfile(file) => mkfile(root, file, owner(&file.owner)?),
        Action::Symlink(link) => symlink(root, link, owner(&link.owner)?),
        Action::Rm(rm) => rm_paths(root, rm),
        Action::Copy(action) => {
            let owner = owner(&action.owner)?;
            let source = roots.source.ok_or(FileError::UnknownAction(index))?;
            copy::run(source, roots.target, owner, action, cancel)
        }
    }
}

/// Nanoseconds since 1970; −1 is no time.
pub(super) fn time(nanoseconds: i64) -> Option<Timespec> {
    (nanoseconds != -1).then(|| Timespec {
        tv_sec: nanoseconds.div_euclid(1_000_000_000),
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
    })
}

/// Makes a directory and those above it. Returns those that it made, the outermost first.
pub(super) fn make_folders(
    root: &RootDir,
    path: &Path,
    mode: u32,
    owner: Option<Owner>,
    time: Option<Timespec>,
) -> Result<Vec<PathBuf>, FileError> {
    let (uid, gid) = owner.unwrap_or((0, 0));
    let creation = Creation { mode, uid, gid };
    let (place, first) = root
        .create_dir_all(path, creation)
        .map_err(FileError::at("mkdir", path))?;
    let stat = root
        .stat(&place, false)
        .map_err(FileError::at("mkdir", path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(FileError::at("mkdir", path)(Errno::NOTDIR));
    }
    let Some(first) = first else {
        return Ok(Vec::new());
    };
    let mut made: Vec<PathBuf> = place
        .ancestors()
        .take_while(|above| above.starts_with(&first))
        .map(Path::to_owned)
        .collect();
    made.reverse();
    if let Some(time) = time {
        for path in made.iter().rev() {
            set_time(root, path, time)?;
        }
    }
    Ok(made)
}

fn set_time(root: &RootDir, path: &Path, time: Timespec) -> Result<(), FileError> {
    let (folder, name) = root.parent_of(path).map_err(FileError::at("utime", path))?;
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(FileError::at("utime", path))
}

fn set_owner(root: &RootDir, path: &Path, owner: Option<Owner>) -> Result<(), FileError> {
    let Some((uid, gid)) = owner else {
        return Ok(());
    };
    let (folder, name) = root.parent_of(path).map_err(FileError::at("chown", path))?;
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(FileError::at("chown", path))
}

/// Where a path is inside of the root, all links followed.
fn place(root: &RootDir, path: &str) -> Result<PathBuf, FileError> {
    let clean = kiln_gotext::path::rooted(path);
    root.resolve(Path::new(&clean))
        .map_err(FileError::at("lstat", clean))
}

fn mkdir(
    root: &RootDir,
    action: &pb::FileActionMkDir,
    owner: Option<Owner>,
) -> Result<(), FileError> {
    let mode = action.mode as u32 & 0o777;
    let time = time(action.timestamp);
    let path = place(root, &action.path)?;
    if action.make_parents {
        make_folders(root, &path, mode, owner, time)?;
        return Ok(());
    }
    if path == Path::new("/") {
        return Ok(());
    }
    let (folder, name) = root
        .parent_of(&path)
        .map_err(FileError::at("mkdir", &path))?;
    match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(FileError::at("mkdir", &path)(error)),
    }
    set_owner(root, &path, owner)?;
    rustix::fs::chmodat(&folder, name, Mode::from_raw_mode(mode), AtFlags::empty())
        .map_err(FileError::at("chmod", &path))?;
    time.map_or(Ok(()), |time| set_time(root, &path, time))
}

fn mkfile(
    root: &RootDir,
    action: &pb::FileActionMkFile,
    owner: Option<Owner>,
) -> Result<(), FileError> {
    use std::io::Write as _;
    let path = place(root, &action.path)?;
    let (folder, name) = root
        .parent_of(&path)
        .map_err(FileError::at("open", &path))?;
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let create = flags | OFlags::CREATE | OFlags::EXCL;
    let private = Mode::from_raw_mode(0o600);
    let (fd, mode) = match rustix::fs::openat(&folder, name, create, private) {
        Ok(fd) => (fd, Some(action.mode as u32 & 0o777)),
        Err(Errno::EXIST) => reopen(&folder, name, &path)?,
        Err(error) => return Err(FileError::at("open", &path)(error)),
    };
    let mut file = std::fs::File::from(fd);
    file.write_all(&action.data)
        .map_err(FileError::at("write", &path))?;
    set_owner(root, &path, owner)?;
    if let Some(mode) = mode {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
            .map_err(FileError::at("chmod", &path))?;
    }
    time(action.timestamp).map_or(Ok(()), |time| set_time(root, &path, time))
}

/// Opens a file to be written anew. It keeps its owner and mode; a file with several names gets a new
/// inode, for the others may be in another state ([`super::copy`]). Returns the mode that is still to
/// be set.
fn reopen(
    folder: &OwnedFd,
    name: &OsStr,
    path: &Path,
) -> Result<(OwnedFd, Option<u32>), FileError> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let failed = || FileError::at("open", path);
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed())?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if stat.st_nlink < 2 || !regular {
        let fd = rustix::fs::openat(folder, name, flags | OFlags::TRUNC, Mode::empty());
        return Ok((fd.map_err(failed())?, None));
    }
    rustix::fs::unlinkat(folder, name, AtFlags::empty()).map_err(failed())?;
    let create = flags | OFlags::CREATE | OFlags::EXCL;
    let fd = rustix::fs::openat(folder, name, create, Mode::from_raw_mode(0o600));
    let fd = fd.map_err(failed())?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(failed())?;
    Ok((fd, Some(stat.st_mode & 0o7777)))
}

fn symlink(
    root: &RootDir,
    action: &pb::FileActionSymlink,
    owner: Option<Owner>,
) -> Result<(), FileError> {
    let path = place(root, &action.newpath)?;
    let (folder, name) = root
        .parent_of(&path)
        .map_err(FileError::at("symlink", &path))?;
    rustix::fs::symlinkat(action.oldpath.as_str(), folder, name)
        .map_err(FileError::at("symlink", &path))?;
    set_owner(root, &path, owner)?;
    time(action.timestamp).map_or(Ok(()), |time| set_time(root, &path, time))
}

fn rm_paths(root: &RootDir, action: &pb::FileActionRm) -> Result<(), FileError> {
    let paths = if action.allow_wildcard {
        glob::resolve(root, &action.path, false)?
    } else {
        vec![action.path.clone()]
    };
    for path in paths {
        remove::path(root, &path, action.allow_not_found)?;
    }
    Ok(())
}
