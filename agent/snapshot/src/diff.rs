//! What changed between two states, as an OCI layer.
//!
//! Two ways lead to the same archive. [`write_upper`] reads the directory that overlayfs wrote to and
//! looks below only for the names it finds there; [`write_trees`] compares two whole states. Changes
//! come in byte order of their path components. A directory that only contains changes is written once,
//! before the first of them; one that is in the upper directory without having changed isn't written for
//! its own sake. Files are the same if mode, owner, device, capability, size and time are; where both
//! times have no fraction of a second (so may have been cut), their bytes decide.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{FileType, Stat};

use crate::Error;
use crate::layer_writer::{ChangeKind, LayerWriter, Place};
use crate::stack::{Found, StackDir, file_type, is_opaque, is_whiteout, lgetxattr, list, lstat};

/// How a layer is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiffOptions {
    /// Times after this many seconds since 1970 are written as it.
    pub latest_time: Option<i64>,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffStats {
    /// Entries, directories for the sake of their content included.
    pub entries: u64,
}

/// Writes what the overlay directory `upper` changes of the stack below it (the lowest first).
pub fn write_upper<W: Write>(
    lower: &[PathBuf],
    upper: &Path,
    out: W,
    options: DiffOptions,
) -> Result<(W, DiffStats), Error> {
    let base = (!lower.is_empty()).then(|| StackDir::root(lower));
    let mut writer = LayerWriter::new(out, options);
    walk_upper(&mut writer, upper, base.as_ref(), None)?;
    writer.finish()
}

/// Writes what makes the state `upper` from the state `lower`, both stacks with the lowest first.
pub fn write_trees<W: Write>(
    lower: &[PathBuf],
    upper: &[PathBuf],
    out: W,
    options: DiffOptions,
) -> Result<(W, DiffStats), Error> {
    let base = (!lower.is_empty()).then(|| StackDir::root(lower));
    let mut writer = LayerWriter::new(out, options);
    walk_trees(&mut writer, base.as_ref(), &StackDir::root(upper), None)?;
    writer.finish()
}

fn walk_upper<W: Write>(
    writer: &mut LayerWriter<W>,
    dir: &Path,
    base: Option<&StackDir>,
    parent: Option<&Rc<Place>>,
) -> Result<(), Error> {
    let mut names = list(dir).map_err(Error::io("failed to list", dir))?;
    names.sort_unstable();
    for name in names {
        let path = dir.join(&name);
        let Some(stat) = lstat(&path).map_err(Error::io("failed to stat", &path))? else {
            continue;
        };
        let below = match base {
            Some(base) => base
                .lookup(&name)
                .map_err(Error::io("failed to look below", &path))?,
            None => None,
        };
        let place = Place::new(parent, &name, path, stat);
        if is_whiteout(&place.stat) {
            if below.is_some() {
                writer.delete(parent, &name)?;
            }
            continue;
        }
        let unchanged = match &below {
            Some(below) => same(below, &place)?,
            None => false,
        };
        if !unchanged {
            writer.put(ChangeKind::Changed, &place)?;
        }
        if place.is_dir() {
            let opaque =
                is_opaque(&place.source).map_err(Error::io("failed to stat", &place.source))?;
            let below_dir = below.as_ref().and_then(|below| below.dir.as_ref());
            if opaque && below.is_some() {
                let content = StackDir::root(std::slice::from_ref(&place.source));
                walk_trees(writer, below_dir, &content, Some(&place))?;
            } else {
                walk_upper(writer, &place.source, below_dir, Some(&place))?;
            }
        }
    }
    Ok(())
}

fn walk_trees<W: Write>(
    writer: &mut LayerWriter<W>,
    lower: Option<&StackDir>,
    upper: &StackDir,
    parent: Option<&Rc<Place>>,
) -> Result<(), Error> {
    let list = |dir: &StackDir| {
        dir.entries().map_err(|source| Error::Io {
            doing: "failed to list",
            path: parent.map_or_else(|| PathBuf::from("/"), |place| place.source.clone()),
            source,
        })
    };
    let mut olds = lower
        .map(list)
        .transpose()?
        .unwrap_or_default()
        .into_iter()
        .peekable();
    let mut news = list(upper)?.into_iter().peekable();
    loop {
        let order = match (olds.peek(), news.peek()) {
            (None, None) => return Ok(()),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let old = if order.is_le() { olds.next() } else { None };
        let new = if order.is_ge() { news.next() } else { None };
        match (old, new) {
            (Some((name, _)), None) => writer.delete(parent, &name)?,
            (old, Some((name, found))) => {
                let old = old.map(|(_, found)| found);
                put_tree(writer, old, &name, found, parent)?;
            }
            (None, None) => {}
        }
    }
}

fn put_tree<W: Write>(
    writer: &mut LayerWriter<W>,
    old: Option<Found>,
    name: &OsStr,
    found: Found,
    parent: Option<&Rc<Place>>,
) -> Result<(), Error> {
    let place = Place::new(parent, name, found.path, found.stat);
    let unchanged = match &old {
        Some(old) => same(old, &place)?,
        None => false,
    };
    if !unchanged {
        writer.put(ChangeKind::Changed, &place)?;
    } else if place.is_linked() {
        writer.put(ChangeKind::Same, &place)?;
    }
    if let Some(dir) = &found.dir {
        let below = old.and_then(|old| old.dir);
        walk_trees(writer, below.as_ref(), dir, Some(&place))?;
    }
    Ok(())
}

/// Whether a name stands for the same thing in both states.
fn same(old: &Found, new: &Place) -> Result<bool, Error> {
    let (a, b) = (&old.stat, &new.stat);
    if a.st_dev == b.st_dev && a.st_ino == b.st_ino {
        return Ok(true);
    }
    if a.st_mode != b.st_mode
        || a.st_uid != b.st_uid
        || a.st_gid != b.st_gid
        || a.st_rdev != b.st_rdev
        || capability(&old.path)? != capability(&new.source)?
    {
        return Ok(false);
    }
    if new.is_dir() {
        return Ok(true);
    }
    if a.st_size != b.st_size || a.st_mtime != b.st_mtime {
        return Ok(false);
    }
    if a.st_mtime_nsec != 0 || b.st_mtime_nsec != 0 {
        return Ok(a.st_mtime_nsec == b.st_mtime_nsec);
    }
    match file_type(b) {
        FileType::Symlink => {
            let read = |path: &Path| {
                std::fs::read_link(path).map_err(Error::io("failed to read the link", path))
            };
            Ok(read(&old.path)? == read(&new.source)?)
        }
        FileType::RegularFile if b.st_size > 0 => same_bytes(&old.path, &new.source),
        _ => Ok(true),
    }
}

fn capability(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    lgetxattr(path, "security.capability").map_err(Error::io("failed to read attributes of", path))
}

fn same_bytes(old: &Path, new: &Path) -> Result<bool, Error> {
    let open = |path: &Path| File::open(path).map_err(Error::io("failed to open", path));
    let (mut old_file, mut new_file) = (open(old)?, open(new)?);
    let (mut old_bytes, mut new_bytes) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let length =
            read_full(&mut old_file, &mut old_bytes).map_err(Error::io("failed to read", old))?;
        let other =
            read_full(&mut new_file, &mut new_bytes).map_err(Error::io("failed to read", new))?;
        if length != other || old_bytes[..length] != new_bytes[..other] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
    }
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

impl Place {
    /// A name in `parent` (`None` is the root), whose bytes are at `source`.
    fn new(parent: Option<&Rc<Self>>, name: &OsStr, source: PathBuf, stat: Stat) -> Rc<Self> {
        let mut path = Vec::new();
        if let Some(parent) = parent {
            path.extend_from_slice(&parent.path);
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        Rc::new(Self {
            parent: parent.cloned(),
            path,
            source,
            stat,
        })
    }
}
