//! A directory on disk as a [`Tree`].

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::filter::{Known, Verdict};
use crate::follow::{follow, without_children};
use crate::{Error, Filter, FilterOptions, MapStat, Stat, Step, Tree, Visitor, mode};

/// A directory, or the part of it that a filter lets through, with stats changed by a map function.
#[derive(Clone)]
pub struct DirTree {
    root: PathBuf,
    filter: Filter,
    map: Option<MapStat>,
}

impl std::fmt::Debug for DirTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirTree")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl DirTree {
    /// The whole of the directory `root`.
    pub fn new(root: &Path) -> Result<Self, Error> {
        let shown = root.to_string_lossy();
        let root = root
            .canonicalize()
            .map_err(|error| Error::io("open", &shown, error))?;
        if !root.is_dir() {
            return Err(Error::io("open", &shown, Errno::NOTDIR));
        }
        Ok(Self {
            root,
            filter: Filter::default(),
            map: None,
        })
    }

    /// Only what the filter wants. Paths to follow are resolved now.
    pub fn filtered(mut self, options: &FilterOptions) -> Result<Self, Error> {
        let mut options = options.clone();
        if !options.follow_paths.is_empty()
            && let Some(targets) = follow(&self.root, &options.follow_paths)?
        {
            options.includes.extend(targets);
            options.includes = without_children(options.includes).unwrap_or_default();
        }
        self.filter = Filter::new(&options)?;
        Ok(self)
    }

    /// Applies `map` to each stat.
    pub fn mapped(mut self, map: MapStat) -> Self {
        self.map = Some(map);
        self
    }
}

impl Tree for DirTree {
    fn walk(&self, visit: &mut Visitor<'_>) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &self.root, flags, Mode::empty())
            .map_err(|errno| Error::io("open", ".", errno))?;
        let mut walk = Walk {
            tree: self,
            visit,
            links: HashMap::new(),
            pending: Vec::new(),
        };
        walk.dir(&root, String::new(), &Known::default(), true)?;
        Ok(())
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + Send>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, self.root.join(path), flags, Mode::empty())?;
        Ok(Box::new(File::from(file)))
    }
}

/// One walk under way.
struct Walk<'a, 'v> {
    tree: &'a DirTree,
    visit: &'a mut Visitor<'v>,
    /// Where each inode with several names was first seen.
    links: HashMap<(u64, u64), String>,
    /// Directories on the way down that are only sent when something below them is.
    pending: Vec<Option<Stat>>,
}

impl Walk<'_, '_> {
    /// Walks a directory. One that isn't wanted itself may be unreadable.
    fn dir(
        &mut self,
        fd: &OwnedFd,
        path: String,
        above: &Known,
        wanted: bool,
    ) -> Result<(), Error> {
        let mut names = match self.names(fd) {
            Ok(names) => names,
            Err(Errno::ACCESS | Errno::PERM) if !wanted => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(Error::io("read directory", &path, errno)),
        };
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut child = path;
        let stem = child.len();
        for (name, kind) in names {
            child.truncate(stem);
            if stem > 0 {
                child.push('/');
            }
            child.push_str(&name);
            if self.entry(fd, &name, &child, kind, above)? == Step::SkipDir {
                break;
            }
        }
        Ok(())
    }

    fn names(&self, fd: &OwnedFd) -> Result<Vec<(String, FileType)>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            // The wire carries UTF-8 only; other names can't be sent faithfully.
            let Ok(name) = std::str::from_utf8(name) else {
                tracing::warn!(root = %self.tree.root.display(), ?name, "a name isn't UTF-8");
                continue;
            };
            names.push((name.to_owned(), entry.file_type()));
        }
        Ok(names)
    }

    fn entry(
        &mut self,
        dir: &OwnedFd,
        name: &str,
        path: &str,
        kind: FileType,
        above: &Known,
    ) -> Result<Step, Error> {
        let mut stat = None;
        let is_dir = if kind == FileType::Unknown {
            let Some(found) = self.stat(dir, name, path)? else {
                return Ok(Step::Continue);
            };
            let is_dir = mode::is_dir(found.mode);
            stat = Some(found);
            is_dir
        } else {
            kind == FileType::Directory
        };
        let (verdict, known) = self.tree.filter.check(path, is_dir, above);
        if verdict == Verdict::Skip {
            return Ok(Step::Continue);
        }
        let stat = match stat {
            Some(stat) => stat,
            None => match self.stat(dir, name, path)? {
                Some(stat) => stat,
                None => return Ok(Step::Continue),
            },
        };
        let is_dir = mode::is_dir(stat.mode);
        let wanted = verdict == Verdict::Keep;
        if wanted {
            match self.send(stat)? {
                Step::Continue => {}
                Step::SkipDir if is_dir => return Ok(Step::Continue),
                Step::SkipDir => return Ok(Step::SkipDir),
            }
            self.pending.push(None);
        } else {
            self.pending.push(Some(stat));
        }
        if is_dir {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                Ok(fd) => {
                    self.dir(&fd, path.to_owned(), &known, wanted)?;
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(Errno::ACCESS | Errno::PERM) if !wanted => {}
                Err(errno) => return Err(Error::io("open directory", path, errno)),
            }
        }
        self.pending.pop();
        Ok(Step::Continue)
    }

    /// Visits the entry, after the directories above it that were held back.
    fn send(&mut self, mut stat: Stat) -> Result<Step, Error> {
        if let Some(map) = &self.tree.map {
            let path = stat.path.clone();
            if !map(&path, &mut stat) {
                return Ok(Step::SkipDir);
            }
            for parent in &mut self.pending {
                if let Some(stat) = parent {
                    let path = stat.path.clone();
                    if !map(&path, stat) {
                        *parent = None;
                    }
                }
            }
        }
        for parent in &mut self.pending {
            if let Some(stat) = parent.take()
                && (self.visit)(stat)? == Step::SkipDir
            {
                return Ok(Step::SkipDir);
            }
        }
        (self.visit)(stat)
    }

    /// The entry's stat; `None` if it is gone.
    fn stat(&mut self, dir: &OwnedFd, name: &str, path: &str) -> Result<Option<Stat>, Error> {
        let found = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(Error::io("stat", path, errno)),
        };
        let mut stat = from_stat(&found);
        path.clone_into(&mut stat.path);
        if mode::is_symlink(stat.mode) {
            match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) => stat.linkname = target.to_string_lossy().into_owned(),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => return Ok(None),
                Err(errno) => return Err(Error::io("read link", path, errno)),
            }
        }
        if !mode::is_dir(stat.mode) && found.st_nlink > 1 {
            match self.links.entry((found.st_dev, found.st_ino)) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    first.get().clone_into(&mut stat.linkname);
                    stat.size = 0;
                }
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(path.to_owned());
                }
            }
        }
        load_xattrs(&self.tree.root.join(path), &mut stat);
        Ok(Some(stat))
    }
}

/// All that `stat(2)` tells: not the path, the link target and the extended attributes.
pub(crate) fn from_stat(found: &rustix::fs::Stat) -> Stat {
    let unix = found.st_mode;
    let kind = FileType::from_raw_mode(unix);
    let mut stat = Stat {
        // A socket can't be sent: it goes as an empty file.
        mode: mode::from_unix(unix) & !mode::SOCKET,
        uid: found.st_uid,
        gid: found.st_gid,
        mod_time: found.st_mtime * 1_000_000_000 + found.st_mtime_nsec as i64,
        ..Stat::default()
    };
    if kind != FileType::Directory {
        stat.size = found.st_size;
    }
    if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        stat.devmajor = i64::from(rustix::fs::major(found.st_rdev));
        stat.devminor = i64::from(rustix::fs::minor(found.st_rdev));
    }
    stat
}

/// Extended attributes that can't be read are left out, as they are where there are none.
fn load_xattrs(path: &Path, stat: &mut Stat) {
    let mut names = [0u8; 4096];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names[..]) else {
        return;
    };
    for name in names[..len].split(|&byte| byte == 0) {
        let Ok(text) = std::str::from_utf8(name) else {
            continue;
        };
        if text.is_empty() || text.starts_with("com.apple.") {
            continue;
        }
        let mut value = vec![0u8; 4096];
        let len = match rustix::fs::lgetxattr(path, text, &mut value[..]) {
            Err(Errno::RANGE) => {
                value.resize(64 << 10, 0);
                rustix::fs::lgetxattr(path, text, &mut value[..])
            }
            read => read,
        };
        if let Ok(len) = len {
            value.truncate(len);
            stat.xattrs.insert(text.to_owned(), value);
        }
    }
}
