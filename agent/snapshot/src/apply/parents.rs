//! Handles on the directories that entries go into.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{ApplyError, CleanPath, clean};

/// How many handles are kept; entries of one directory mostly follow each other.
const KEPT: usize = 128;

/// As many symbolic links in a path as the kernel follows.
const MAX_LINKS: u32 = 40;

/// Opens directories below a root, once each.
pub(super) struct Parents {
    root: Rc<OwnedFd>,
    open: HashMap<Vec<u8>, Rc<OwnedFd>>,
    implied: Vec<PathBuf>,
    implied_set: HashSet<Vec<u8>>,
}

impl Parents {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root: Rc::new(root),
            open: HashMap::new(),
            implied: Vec::new(),
            implied_set: HashSet::new(),
        }
    }

    /// Directories that were made without an entry.
    pub(super) fn into_implied(self) -> Vec<PathBuf> {
        let set = self.implied_set;
        let mut implied = self.implied;
        implied.retain(|path| set.contains(path.as_os_str().as_encoded_bytes()));
        implied
    }

    /// An entry names a directory after all.
    pub(super) fn named(&mut self, path: &[u8]) {
        self.implied_set.remove(path);
    }

    /// Something that may have been a directory or a link to one was replaced.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    /// The directory, if it is there.
    pub(super) fn existing(&mut self, dir: &[u8]) -> Result<Rc<OwnedFd>, Errno> {
        if dir.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(fd) = self.open.get(dir) {
            return Ok(Rc::clone(fd));
        }
        let fd = loop {
            let opened = rustix::fs::openat2(
                self.root.as_fd(),
                dir,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            );
            match opened {
                // The kernel saw a concurrent rename somewhere and asks to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => break Rc::new(other?),
            }
        };
        if self.open.len() >= KEPT {
            self.open.clear();
        }
        self.open.insert(dir.to_vec(), Rc::clone(&fd));
        Ok(fd)
    }

    /// The directory, made where it is missing.
    pub(super) fn ensure(&mut self, dir: &[u8]) -> Result<Rc<OwnedFd>, ApplyError> {
        self.ensure_within(dir, 0)
    }

    fn ensure_within(&mut self, dir: &[u8], links: u32) -> Result<Rc<OwnedFd>, ApplyError> {
        match self.existing(dir) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) => {
                return Err(ApplyError::entry(dir, "a parent of it isn't a directory"));
            }
            Err(e) => return Err(ApplyError::io("open", dir, e)),
        }
        let path = CleanPath(dir.to_vec());
        let parent = self.ensure_within(path.dir(), links)?;
        match rustix::fs::mkdirat(parent.as_fd(), path.base(), Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                // The umask doesn't apply to what an archive says.
                rustix::fs::chmodat(
                    parent.as_fd(),
                    path.base(),
                    Mode::from_raw_mode(0o755),
                    rustix::fs::AtFlags::empty(),
                )
                .map_err(|e| ApplyError::io("make", dir, e))?;
                self.implied
                    .push(PathBuf::from(OsString::from_vec(dir.to_vec())));
                self.implied_set.insert(dir.to_vec());
            }
            Err(Errno::EXIST) if links < MAX_LINKS => {
                // A symbolic link to something that isn't there (yet): what it points to is made.
                let target = rustix::fs::readlinkat(parent.as_fd(), path.base(), Vec::new())
                    .map_err(|e| ApplyError::io("open", dir, e))?;
                let target = target.as_bytes();
                let real = if target.starts_with(b"/") {
                    clean(target)
                } else {
                    clean(&[path.dir(), b"/", target].concat())
                };
                return self.ensure_within(&real, links + 1);
            }
            Err(Errno::EXIST) => return Err(ApplyError::entry(dir, "too many links")),
            Err(e) => return Err(ApplyError::io("make", dir, e)),
        }
        self.existing(dir)
            .map_err(|e| ApplyError::io("open", dir, e))
    }
}
