//! Directories and files inside of a cache mount, which is full of what steps put there.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_sys::rootfs::RootDir;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use crate::Error;

/// More entries of one directory aren't listed: an answer must fit into a message.
const MAX_ENTRIES: usize = 20_000;

/// What is in a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// By their names.
    pub entries: Vec<FileEntry>,
    /// There are more.
    pub is_cut: bool,
}

/// What a directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name; what isn't UTF-8 in it is replaced.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// The size of a file.
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// When it was last changed.
    pub modified: SystemTime,
    /// Where a symbolic link points to.
    pub link_target: String,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, a pipe or a socket.
    Other,
}

impl FileKind {
    /// One word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Other => "other",
        }
    }
}

fn failed(path: &str) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        path: path.clone(),
        source,
    }
}

/// Lists a directory below `root`.
pub(super) fn list(root: &Path, path: &str) -> Result<Directory, Error> {
    let failed = failed(path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let directory = RootDir::open(root)
        .and_then(|root| root.open_at(Path::new(path), flags, Mode::empty()))
        .map_err(&failed)?;
    let mut found = Directory::default();
    for entry in Dir::read_from(&directory).map_err(|error| failed(error.into()))? {
        let entry = entry.map_err(|error| failed(error.into()))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        if found.entries.len() == MAX_ENTRIES {
            found.is_cut = true;
            break;
        }
        // What went in the meantime isn't there.
        if let Ok(stat) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            found.entries.push(describe(&directory, name, &stat));
        }
    }
    found.entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn describe(directory: &OwnedFd, name: &OsStr, stat: &Stat) -> FileEntry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    };
    let link_target = (kind == FileKind::Symlink)
        .then(|| rustix::fs::readlinkat(directory, name, Vec::new()).ok())
        .flatten()
        .map(|target| target.to_string_lossy().into_owned());
    FileEntry {
        name: name.to_string_lossy().into_owned(),
        kind,
        bytes: match kind {
            FileKind::File => stat.st_size.unsigned_abs(),
            FileKind::Directory | FileKind::Symlink | FileKind::Other => 0,
        },
        mode: stat.st_mode & 0o7777,
        modified: UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0)),
        link_target: link_target.unwrap_or_default(),
    }
}

/// Opens a regular file below `root`. Nothing else is opened: a device may act when it is.
pub(super) fn open(root: &Path, path: &str) -> Result<File, Error> {
    let failed = failed(path);
    let found = RootDir::open(root)
        .and_then(|root| root.locate(Path::new(path), true))
        .map_err(&failed)?;
    let stat = rustix::fs::fstat(&found).map_err(|error| failed(error.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(failed(io::ErrorKind::IsADirectory.into())),
        _ => {
            let text = "not a regular file";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
    }
    // The very file that was looked at, whatever has its name by now.
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(failed)
}
