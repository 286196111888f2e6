//! Paths inside a root that somebody else filled: symbolic links, absolute or with `..`, never lead
//! out of it.
//!
//! Invariants: every access goes through `openat2` with `RESOLVE_IN_ROOT` and without magic links,
//! so that neither a link that is there nor one that appears in between can escape; a path is never
//! checked and then used by name.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// As the kernel's own limit.
const MAX_LINKS: usize = 40;
/// `openat2` gives up when directories are renamed while it walks; trying again is the remedy.
const RACE_RETRIES: usize = 32;

/// An open directory, taken as `/`.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
}

/// The numbers and bits of what gets made.
#[derive(Debug, Clone, Copy)]
pub struct Creation {
    /// Permission bits, as they shall be (no umask applies).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl RootDir {
    /// Opens the directory at `path`, an ordinary path.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::openat(CWD, path, flags, Mode::empty())?,
        })
    }

    /// Takes a descriptor of a directory.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens `path` inside; a symbolic link at its end is followed unless `flags` has `NOFOLLOW`.
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN) if tries < RACE_RETRIES => tries += 1,
                other => return Ok(other?),
            }
        }
    }

    /// Refers to `path` without opening it for reading or writing.
    pub fn locate(&self, path: &Path, follow: bool) -> io::Result<OwnedFd> {
        let mut flags = OFlags::PATH;
        flags.set(OFlags::NOFOLLOW, !follow);
        self.open_at(path, flags, Mode::empty())
    }

    /// What is at `path`.
    pub fn stat(&self, path: &Path, follow: bool) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(self.locate(path, follow)?)?)
    }

    /// Reads a regular file of at most `limit` bytes.
    pub fn read_file(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        use std::io::Read;
        // A named pipe put in the file's place must not block.
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let mut out = Vec::new();
        std::fs::File::from(fd)
            .take(limit + 1)
            .read_to_end(&mut out)?;
        if out.len() as u64 > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than {limit} bytes"),
            ));
        }
        Ok(out)
    }

    /// Follows all symbolic links of `path`: an absolute path inside the root without links. What
    /// doesn't exist is taken by its name.
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut links = 0;
        let mut todo: VecDeque<OsString> = components(path);
        let mut done = PathBuf::from("/");
        let mut missing = false;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                done.pop();
                // Above a directory that doesn't exist may be one that does.
                missing = false;
                continue;
            }
            let here = done.join(&part);
            if missing {
                done = here;
                continue;
            }
            let found = match self.locate(&here, false) {
                Ok(fd) => fd,
                Err(e)
                    if e.kind() == io::ErrorKind::NotFound
                        || e.kind() == io::ErrorKind::NotADirectory =>
                {
                    missing = true;
                    done = here;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
            if kind != FileType::Symlink {
                done = here;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP.into());
            }
            let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
            let target = Path::new(OsStr::new(
                std::ffi::CStr::to_str(&target).map_err(|_| Errno::ILSEQ)?,
            ));
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            for part in components(target).into_iter().rev() {
                todo.push_front(part);
            }
        }
        Ok(done)
    }

    /// Makes the directory `path` and those above it, as far as they don't exist. Links are followed,
    /// also dangling ones. Returns where it is, without links, and the topmost directory that was made.
    pub fn create_dir_all(
        &self,
        path: &Path,
        creation: Creation,
    ) -> io::Result<(PathBuf, Option<PathBuf>)> {
        let path = self.resolve(path)?;
        let mut first = None;
        let mut here = PathBuf::from("/");
        let mut parent = self.locate(Path::new("/"), true)?;
        for part in components(&path) {
            here.push(&part);
            match rustix::fs::mkdirat(&parent, &part, Mode::from_raw_mode(0o700)) {
                Ok(()) => {
                    first.get_or_insert_with(|| here.clone());
                    let made =
                        open_child(parent.as_fd(), &part, OFlags::RDONLY | OFlags::DIRECTORY)?;
                    rustix::fs::fchown(
                        &made,
                        Some(rustix::fs::Uid::from_raw(creation.uid)),
                        Some(rustix::fs::Gid::from_raw(creation.gid)),
                    )?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(creation.mode))?;
                }
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            parent = open_child(parent.as_fd(), &part, OFlags::PATH | OFlags::DIRECTORY)?;
        }
        Ok((path, first))
    }

    /// Removes the file, or the empty directory, at a path without links.
    pub fn remove(&self, path: &Path, directory: bool) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        let flags = if directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        Ok(rustix::fs::unlinkat(parent, name, flags)?)
    }

    /// The directory that holds `path`, and the name in it. Links in the directory's path are followed.
    pub fn parent_of<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok((self.open_at(parent, flags, Mode::empty())?, name))
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens one name in a directory, which may not be a link.
fn open_child(parent: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// The names of a path; `..` stays, for what it means depends on links before it.
fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// The path as seen from the root: absolute, without `.`, `..` and repeated slashes. By its letters alone.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_before_they_are_compared() {
        let cases = [
            ("a//b/./c/../d", "/a/b/d"),
            ("/../../x", "/x"),
            ("", "/"),
            ("/", "/"),
        ];
        for (path, expected) in cases {
            assert_eq!(clean(Path::new(path)), Path::new(expected));
        }
    }
}
