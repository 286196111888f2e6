//! Writes changes as the entries of an OCI layer.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{FileType, Stat};

use crate::Error;
use crate::diff::{DiffOptions, DiffStats};
use crate::stack::{file_type, lgetxattr};
use crate::tar::{Header, Kind, PAX_XATTR, TarTime, TarWriter};

/// What kind of change a path saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    /// It is new or different.
    Changed,
    /// It is as it was, but another name of its inode may be new.
    Same,
}

/// A path of the upper state.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) parent: Option<Rc<Place>>,
    /// Relative to the root, without slashes at the ends.
    pub(crate) path: Vec<u8>,
    /// Where its bytes are.
    pub(crate) source: PathBuf,
    pub(crate) stat: Stat,
}

impl Place {
    pub(crate) fn is_dir(&self) -> bool {
        file_type(&self.stat) == FileType::Directory
    }

    pub(crate) fn is_linked(&self) -> bool {
        !self.is_dir() && self.stat.st_nlink > 1
    }
}

/// Device and number of an inode.
type Inode = (u64, u64);

/// Writes a layer to `W`.
pub(crate) struct LayerWriter<W> {
    tar: TarWriter<W>,
    options: DiffOptions,
    stats: DiffStats,
    /// Directories that were written.
    written_dirs: HashSet<Vec<u8>>,
    /// The first name that was written of each inode with several.
    first_names: HashMap<Inode, Vec<u8>>,
    /// Unchanged names of inodes; written as links when a changed name of the inode turns up.
    unchanged_names: HashMap<Inode, Vec<Rc<Place>>>,
}

impl<W: Write> LayerWriter<W> {
    pub(crate) fn new(out: W, options: DiffOptions) -> Self {
        Self {
            tar: TarWriter::new(out),
            options,
            stats: DiffStats::default(),
            written_dirs: HashSet::new(),
            first_names: HashMap::new(),
            unchanged_names: HashMap::new(),
        }
    }

    pub(crate) fn finish(self) -> Result<(W, DiffStats), Error> {
        let out = self
            .tar
            .finish()
            .map_err(|source| Error::WriteLayer { source })?;
        Ok((out, self.stats))
    }

    /// Writes that `name` in `parent` is gone.
    pub(crate) fn delete(&mut self, parent: Option<&Rc<Place>>, name: &OsStr) -> Result<(), Error> {
        self.parents(parent)?;
        let mut path = parent.map_or_else(Vec::new, |parent| [&parent.path, &b"/"[..]].concat());
        path.extend_from_slice(b".wh.");
        path.extend_from_slice(name.as_bytes());
        self.header(&Header::new(path, Kind::Regular))
    }

    /// Writes a path with its data.
    pub(crate) fn put(&mut self, kind: ChangeKind, place: &Rc<Place>) -> Result<(), Error> {
        let Some(mut header) = self.describe(place)? else {
            return Ok(());
        };
        let mut links = Vec::new();
        if place.is_linked() {
            let inode = (place.stat.st_dev, place.stat.st_ino);
            if let Some(first) = self.first_names.get(&inode) {
                header.kind = Kind::HardLink;
                header.linkname.clone_from(first);
                header.size = 0;
            } else if kind == ChangeKind::Same {
                self.unchanged_names
                    .entry(inode)
                    .or_default()
                    .push(Rc::clone(place));
                return Ok(());
            } else {
                self.first_names.insert(inode, header.name.clone());
                links = self.unchanged_names.remove(&inode).unwrap_or_default();
            }
        } else if kind == ChangeKind::Same {
            return Ok(());
        }
        self.parents(place.parent.as_ref())?;
        if header.kind == Kind::Directory {
            self.written_dirs.insert(place.path.clone());
        }
        if header.kind == Kind::Regular && header.size > 0 {
            let mut file =
                File::open(&place.source).map_err(Error::io("failed to open", &place.source))?;
            self.stats.entries += 1;
            self.tar
                .entry(&header, &mut file)
                .map_err(|source| Error::WriteLayer { source })?;
        } else {
            self.header(&header)?;
        }
        for link in links {
            header.linkname.clone_from(&place.path);
            header.name.clone_from(&link.path);
            header.kind = Kind::HardLink;
            header.size = 0;
            self.parents(link.parent.as_ref())?;
            self.header(&header)?;
        }
        Ok(())
    }

    /// Writes the directories above a change that weren't written yet, the outermost first.
    fn parents(&mut self, parent: Option<&Rc<Place>>) -> Result<(), Error> {
        match parent {
            Some(parent) if !self.written_dirs.contains(&parent.path) => {
                self.put(ChangeKind::Changed, parent)
            }
            _ => Ok(()),
        }
    }

    fn header(&mut self, header: &Header) -> Result<(), Error> {
        self.stats.entries += 1;
        self.tar
            .header(header)
            .map_err(|source| Error::WriteLayer { source })
    }

    /// The header of a path; `None` for what layers can't hold.
    fn describe(&self, place: &Place) -> Result<Option<Header>, Error> {
        let stat = &place.stat;
        let kind = match file_type(stat) {
            FileType::RegularFile => Kind::Regular,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket | FileType::Unknown => return Ok(None),
        };
        let mut header = Header::new(place.path.clone(), kind);
        header.mode = stat.st_mode & 0o7777;
        header.uid = u64::from(stat.st_uid);
        header.gid = u64::from(stat.st_gid);
        header.mtime = TarTime {
            seconds: match self.options.latest_time {
                Some(latest) => stat.st_mtime.min(latest),
                None => stat.st_mtime,
            },
            nanoseconds: 0,
        };
        match kind {
            Kind::Regular => header.size = u64::try_from(stat.st_size).unwrap_or(0),
            Kind::Directory => header.name.push(b'/'),
            Kind::Symlink => header.linkname = read_link(&place.source)?,
            Kind::CharDevice | Kind::BlockDevice => {
                header.devmajor = rustix::fs::major(stat.st_rdev);
                header.devminor = rustix::fs::minor(stat.st_rdev);
            }
            Kind::HardLink | Kind::Fifo => {}
        }
        let capability = lgetxattr(&place.source, "security.capability")
            .map_err(Error::io("failed to read attributes of", &place.source))?;
        if let Some(capability) = capability.filter(|value| !value.is_empty()) {
            let key = format!("{PAX_XATTR}security.capability");
            header.pax.insert(key.into_bytes(), capability);
        }
        Ok(Some(header))
    }
}

fn read_link(path: &Path) -> Result<Vec<u8>, Error> {
    let target = std::fs::read_link(path).map_err(Error::io("failed to read the link", path))?;
    Ok(target.into_os_string().into_vec())
}
