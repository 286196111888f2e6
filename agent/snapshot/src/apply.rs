//! Extracts a layer into a directory, whatever the archive tries.
//!
//! Every path is cleaned, its parent is opened below the root of the extraction by the kernel
//! (`openat2`, so that a symbolic link can't lead out, however it got there), and the last component is
//! made relative to that handle and never followed. Hard links find their targets the same way. Owner
//! comes before mode (set-id bits survive), attributes of overlayfs are dropped, and a character device
//! 0/0, which would be a whiteout, is refused. Nothing is synced: that is the business of epochs.
//!
//! A layer is extracted without looking at those below it. Where its archive doesn't name the
//! directories above an entry, they are made with mode 0755 and reported, so that they can be given the
//! attributes of the same directories below once these are there.

mod entry;
mod parents;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use self::parents::Parents;
use crate::tar::{Header, Limits, TarError, TarReader, TarTime};

/// What a layer's whiteouts become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// Overlayfs's: a character device 0/0, and `trusted.overlay.opaque` (or `user.overlay.opaque`).
    Overlay {
        /// Attributes for unprivileged mounts.
        userxattr: bool,
    },
    /// The removal of what is there.
    Remove,
    /// Nothing: their names are names like others. For archives that aren't layers.
    Literal,
}

/// How an archive is extracted.
#[derive(Debug, Clone, Copy)]
pub struct ApplyOptions {
    /// What whiteouts become.
    pub whiteouts: Whiteouts,
    /// Bounds on the archive.
    pub limits: Limits,
    /// Device nodes are left out, as they can't be made without privileges.
    pub skip_devices: bool,
    /// User and group of every entry, in place of those that the archive names.
    pub owner: Option<(u32, u32)>,
}

/// What was extracted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Directories that the archive implies and doesn't name, the outermost first.
    pub implied_dirs: Vec<PathBuf>,
}

/// Why an archive was not extracted.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The archive can't be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry that can't be had.
    #[error("{}: {reason}", String::from_utf8_lossy(entry))]
    Entry {
        /// Its path.
        entry: Vec<u8>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Making a file failed.
    #[error("failed to {doing} {}", String::from_utf8_lossy(entry))]
    Io {
        /// The verb.
        doing: &'static str,
        /// The entry's path.
        entry: Vec<u8>,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Extracts the archive into `dest`, which must exist. Reads `input` to its end.
pub fn apply(input: impl Read, dest: &Path, options: &ApplyOptions) -> Result<Applied, ApplyError> {
    let root = rustix::fs::open(
        dest,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| ApplyError::io("open", dest.as_os_str().as_encoded_bytes(), e))?;
    let mut applier = Applier {
        parents: Parents::new(root),
        options: *options,
        dir_times: HashMap::new(),
        made: HashSet::new(),
        applied: Applied::default(),
        buffer: vec![0; 256 << 10],
    };
    let mut reader = TarReader::new(input, options.limits);
    while let Some(mut entry) = reader.next_entry()? {
        if let Some((uid, gid)) = options.owner {
            (entry.uid, entry.gid) = (uid.into(), gid.into());
        }
        applier.applied.entries += 1;
        applier.applied.bytes += entry.size;
        applier.take(&entry, &mut reader)?;
    }
    reader.drain()?;
    applier.finish()
}

/// One extraction under way.
struct Applier {
    parents: Parents,
    options: ApplyOptions,
    /// Directories get their times last, as their content changes them.
    dir_times: HashMap<Vec<u8>, TarTime>,
    /// What this archive made, where a whiteout must spare it.
    made: HashSet<Vec<u8>>,
    applied: Applied,
    buffer: Vec<u8>,
}

impl Applier {
    fn take(&mut self, entry: &Header, data: &mut impl Read) -> Result<(), ApplyError> {
        let Some(path) = CleanPath::new(&entry.name) else {
            return Ok(());
        };
        if self.options.whiteouts != Whiteouts::Literal
            && let Some(hidden) = path.base().strip_prefix(b".wh.")
        {
            return self.whiteout(&path, hidden);
        }
        self.extract(&path, entry, data)
    }

    fn finish(mut self) -> Result<Applied, ApplyError> {
        for (path, time) in std::mem::take(&mut self.dir_times) {
            let path = CleanPath(path);
            let Ok(parent) = self.parents.existing(path.dir()) else {
                continue;
            };
            let stat = rustix::fs::statat(parent.as_fd(), path.base(), AtFlags::SYMLINK_NOFOLLOW);
            if stat.is_ok_and(|stat| crate::stack::file_type(&stat).is_dir()) {
                entry::set_time(parent.as_fd(), path.base(), time)
                    .map_err(|e| ApplyError::io("set the time of", &path.0, e))?;
            }
        }
        self.applied.implied_dirs = self.parents.into_implied();
        Ok(self.applied)
    }
}

/// A path with plain components only, relative to the root, not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CleanPath(Vec<u8>);

impl CleanPath {
    /// Cleans a path; `..` stops at the root. `None` for the root itself.
    fn new(path: &[u8]) -> Option<Self> {
        let clean = clean(path);
        (!clean.is_empty()).then_some(Self(clean))
    }

    fn dir(&self) -> &[u8] {
        let slash = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        &self.0[..slash]
    }

    fn base(&self) -> &[u8] {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => &self.0[slash + 1..],
            None => &self.0,
        }
    }
}

/// Joins plain components with slashes, without one at the front; `..` stops at the root.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

impl ApplyError {
    fn io(doing: &'static str, entry: &[u8], source: impl Into<std::io::Error>) -> Self {
        Self::Io {
            doing,
            entry: entry.to_vec(),
            source: source.into(),
        }
    }

    fn entry(entry: &[u8], reason: &'static str) -> Self {
        Self::Entry {
            entry: entry.to_vec(),
            reason,
        }
    }

    /// Whether the disk was full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Tar(TarError::Read(source)) => {
                source.kind() == std::io::ErrorKind::StorageFull
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn paths_stay_inside() {
        for (path, want) in [
            ("a/b", "a/b"),
            ("/a//b/", "a/b"),
            ("./a/./b", "a/b"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            ("..", ""),
            ("./", ""),
        ] {
            assert_eq!(clean(path.as_bytes()), want.as_bytes(), "{path}");
        }
    }
}
