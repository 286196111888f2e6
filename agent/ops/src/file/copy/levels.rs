//! The directories that a copy is in: entered and left one by one, made once something goes into them.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::link::Dst;
use super::{Copier, Entry, Matched, kind, meta};
use crate::file::error::FileError;
use crate::file::{glob, remove};

/// Deeper trees can't be named by any path.
const MAX_DEPTH: usize = 2048;

/// A directory that is being copied.
pub(super) struct Level {
    pub(super) src: Rc<OwnedFd>,
    pub(super) stat: Stat,
    /// Where it is in the source.
    pub(super) path: PathBuf,
    /// Its place below the top of the copy.
    pub(super) rel: String,
    /// Entries that aren't copied yet.
    pub(super) names: std::vec::IntoIter<OsString>,
    pub(super) include: bool,
    pub(super) below: Rc<Matched>,
    pub(super) name: OsString,
    /// The directory above, for the outermost one.
    pub(super) above: Option<Rc<Dst>>,
    /// Made once something in it is copied.
    pub(super) dst: Option<Rc<Dst>>,
    pub(super) created: bool,
}

impl Copier<'_> {
    pub(super) fn enter(
        &mut self,
        entry: Entry<'_>,
        include: bool,
        below: Matched,
        stat: Stat,
    ) -> Result<(), FileError> {
        if self.levels.len() >= MAX_DEPTH {
            return Err(FileError::TooDeep(entry.path));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let src = rustix::fs::openat(entry.folder, entry.name, flags, Mode::empty())
            .map_err(FileError::at("failed to read", &entry.path))?;
        let names = glob::names(&src, &entry.path)?;
        let overwrites = !self.levels.is_empty();
        self.levels.push(Level {
            src: Rc::new(src),
            stat,
            path: entry.path,
            rel: entry.rel,
            names: names.into_iter(),
            include,
            below: Rc::new(below),
            name: entry.dst_name.to_owned(),
            above: entry.above,
            dst: None,
            created: false,
        });
        if include {
            self.target(overwrites)?;
        }
        Ok(())
    }

    /// All entries of the innermost directory are copied: it gets its metadata now.
    pub(super) fn leave(&mut self) -> Result<(), FileError> {
        let Some(level) = self.levels.pop() else {
            return Ok(());
        };
        let Some(dst) = level.dst else {
            return Ok(());
        };
        // The top of a copy is merged with what is there and keeps its owner and mode.
        let overwrites = !self.levels.is_empty();
        if level.created || (level.include && overwrites) {
            self.finish_open(dst.fd.as_fd(), level.src.as_fd(), &level.stat, true)
                .map_err(FileError::at("failed to copy file info", &dst.path))?;
        } else if level.include {
            let (atime, mtime) = self.times(&level.stat);
            meta::set_times_open(dst.fd.as_fd(), atime, mtime)
                .map_err(FileError::at("utime", &dst.path))?;
        }
        Ok(())
    }

    /// The directory that the innermost level goes to. It and those around it are made now, if they
    /// aren't there.
    pub(super) fn target(&mut self, overwrites: bool) -> Result<Rc<Dst>, FileError> {
        let mut above: Option<Rc<Dst>> = None;
        for index in 0..self.levels.len() {
            if let Some(dst) = &self.levels[index].dst {
                above = Some(Rc::clone(dst));
                continue;
            }
            let parent = match (&self.levels[index].above, &above) {
                (Some(parent), _) | (None, Some(parent)) => Rc::clone(parent),
                (None, None) => return Err(FileError::Interrupted),
            };
            let name = self.levels[index].name.clone();
            self.clear_target(&parent, &name, true)?;
            let (dst, created) = make_directory(&parent, &name)?;
            if !created && overwrites && index > 0 {
                let mode = Mode::from_raw_mode(self.levels[index].stat.st_mode & 0o7777);
                rustix::fs::fchmod(&dst.fd, mode).map_err(FileError::at("chmod", &dst.path))?;
            }
            let dst = Rc::new(dst);
            self.levels[index].dst = Some(Rc::clone(&dst));
            self.levels[index].created = created;
            above = Some(dst);
        }
        above.ok_or(FileError::Interrupted)
    }

    /// Makes room for an entry.
    pub(super) fn clear_target(
        &self,
        parent: &Dst,
        name: &OsStr,
        directory: bool,
    ) -> Result<(), FileError> {
        if parent.fresh {
            return Ok(());
        }
        let path = parent.path.join(name);
        let there = match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => kind(&stat) == FileType::Directory,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(FileError::at("failed to stat", path)(error)),
        };
        match (there, directory) {
            (true, true) => Ok(()),
            (_, _) if self.replace => remove::tree(&parent.fd, name, &path),
            (true, false) => Err(FileError::DirectoryInTheWay(path)),
            (false, true) => Err(FileError::NotADirectory(path)),
            (false, false) => rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty())
                .map_err(FileError::at("unlinkat", path)),
        }
    }
}

/// Makes a directory, or opens the one that is there.
fn make_directory(parent: &Dst, name: &OsStr) -> Result<(Dst, bool), FileError> {
    let path = parent.path.join(name);
    let created = match rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(FileError::at("mkdir", path)(error)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&parent.fd, name, flags, Mode::empty())
        .map_err(FileError::at("open", &path))?;
    let mut dst = Dst::new(fd, path);
    dst.fresh = created;
    Ok((dst, created))
}
