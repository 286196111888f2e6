//! The view that a stack of overlay layers gives, by looking into the layers themselves.
//!
//! Finds what a path is in a stack of directories without mounting anything: a whiteout hides what is
//! below it, an opaque directory hides the layers below, directories of several layers merge. A lookup
//! in a directory probes only the layers that contribute to it, so depth costs where there is depth.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

/// A directory of a stack: the directories of the layers that contribute to it, the uppermost first.
#[derive(Debug, Clone)]
pub struct StackDir {
    layers: Vec<PathBuf>,
}

/// What a name stands for in a directory of a stack.
#[derive(Debug)]
pub struct Found {
    /// Where the uppermost layer that has it keeps it.
    pub path: PathBuf,
    /// What it is.
    pub stat: Stat,
    /// Its content, if it is a directory.
    pub dir: Option<StackDir>,
}

impl StackDir {
    /// The root of a stack, given the lowest layer first.
    pub fn root(stack: &[PathBuf]) -> Self {
        Self {
            layers: stack.iter().rev().cloned().collect(),
        }
    }

    /// What `name` stands for.
    pub fn lookup(&self, name: &OsStr) -> io::Result<Option<Found>> {
        let mut found: Option<Found> = None;
        for layer in &self.layers {
            let path = layer.join(name);
            let Some(stat) = lstat(&path)? else { continue };
            if is_whiteout(&stat) {
                break;
            }
            let is_dir = file_type(&stat) == FileType::Directory;
            match &mut found {
                None if is_dir => {
                    let opaque = is_opaque(&path)?;
                    found = Some(Found {
                        dir: Some(Self {
                            layers: vec![path.clone()],
                        }),
                        path,
                        stat,
                    });
                    if opaque {
                        break;
                    }
                }
                None => {
                    return Ok(Some(Found {
                        path,
                        stat,
                        dir: None,
                    }));
                }
                Some(above) if is_dir => {
                    let opaque = is_opaque(&path)?;
                    if let Some(dir) = &mut above.dir {
                        dir.layers.push(path);
                    }
                    if opaque {
                        break;
                    }
                }
                Some(_) => break,
            }
        }
        Ok(found)
    }

    /// Everything in the directory, in byte order of the names.
    pub fn entries(&self) -> io::Result<Vec<(OsString, Found)>> {
        let mut names = BTreeSet::new();
        for layer in &self.layers {
            names.extend(list(layer)?);
        }
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            if let Some(found) = self.lookup(&name)? {
                entries.push((name, found));
            }
        }
        Ok(entries)
    }

    /// What a path of plain components, relative to the root of the stack, stands for. Symbolic links
    /// on the way aren't followed.
    pub fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        let mut dir = self.clone();
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let Some(found) = dir.lookup(component.as_os_str())? else {
                return Ok(None);
            };
            if components.peek().is_none() {
                return Ok(Some(found));
            }
            match found.dir {
                Some(next) => dir = next,
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Names in a directory, in no order.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<OsString>> {
    std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect()
}

/// What is at a path, `None` if nothing is.
pub(crate) fn lstat(path: &Path) -> io::Result<Option<Stat>> {
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// A character device 0/0, by which overlayfs marks a removed name.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The attributes by which overlayfs marks a directory that hides those below it.
pub(crate) const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

pub(crate) fn is_opaque(dir: &Path) -> io::Result<bool> {
    for name in OPAQUE {
        if lgetxattr(dir, name)?.as_deref() == Some(b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An extended attribute, `None` if it isn't there or the file system has none.
pub(crate) fn lgetxattr(path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0_u8; 256];
    loop {
        match rustix::fs::lgetxattr(path, name, buffer.as_mut_slice()) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(Some(buffer));
            }
            Err(Errno::RANGE) => buffer.resize(buffer.len() * 8, 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}
