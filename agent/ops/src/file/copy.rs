//! The copy action: trees from one root into another, as `cp -a` would, with BuildKit's rules for
//! where things go and what becomes of what is there.
//!
//! Source and target are walked by descriptors, name by name, never through a link. Regular files that
//! need no change of owner, mode or time are linked instead of copied where source and target are on
//! one file system (see [`link`]).

mod levels;
mod link;
mod meta;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use kiln_filesync::{MatchInfo, PatternMatcher};
use kiln_proto::pb;
use kiln_sys::rootfs::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec};
use tokio_util::sync::CancellationToken;

use super::error::FileError;
use super::mode::Chmod;
use super::owner::Owner;
use super::{glob, unpack};
use levels::Level;
use link::Dst;
pub(super) use link::Linked;

/// Where files go.
pub(super) struct Target<'a> {
    pub(super) root: &'a RootDir,
    /// The directory that writes to `root` end up in, where it may be written to directly.
    pub(super) upper: Option<&'a RootDir>,
    /// Inodes that were linked into this layer.
    pub(super) linked: &'a mut Linked,
}

/// Does the action.
#[expect(
    clippy::needless_pass_by_value,
    reason = "what a copy may write to is its own"
)]
pub(super) fn run(
    source: &RootDir,
    target: Target<'_>,
    owner: Option<Owner>,
    action: &pb::FileActionCopy,
    cancel: &CancellationToken,
) -> Result<(), FileError> {
    let src = with_end(&action.src);
    let dest = with_end(&action.dest);
    if !action.create_dest_path {
        let place = target.root.resolve(Path::new(&dest));
        let place = place.map_err(FileError::at("lstat", &dest))?;
        let folder = place.parent().unwrap_or(Path::new("/"));
        let there = target.root.stat(folder, false);
        there.map_err(FileError::at("failed to stat", &dest))?;
    }
    let sources = if action.allow_wildcard {
        let found = glob::resolve(source, &src, action.follow_symlink)?;
        if found.is_empty() {
            if action.allow_empty_wildcard {
                return Ok(());
            }
            return Err(FileError::NoMatch(src));
        }
        found
    } else {
        vec![src]
    };
    let mut copier = Copier {
        source,
        root: target.root,
        upper: target.upper,
        linked: target.linked,
        owner,
        time: super::actions::time(action.timestamp),
        chmod: Chmod::new(&action.mode_str, action.mode)?,
        include: patterns("includepatterns", &action.include_patterns)?,
        exclude: patterns("excludepatterns", &action.exclude_patterns)?,
        replace: action.always_replace_existing_dest_paths,
        copied: HashMap::new(),
        levels: Vec::new(),
        cancel,
    };
    for src in sources {
        if action.attempt_unpack_docker_compatibility
            && unpack::if_archive(source, &src, target.root, &dest, owner, copier.time, cancel)?
        {
            continue;
        }
        copier.copy(&src, &dest, action)?;
    }
    Ok(())
}

fn patterns(what: &'static str, patterns: &[String]) -> Result<Option<PatternMatcher>, FileError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let matcher = PatternMatcher::new(patterns).map_err(|error| FileError::Patterns {
        what,
        patterns: patterns.to_vec(),
        reason: error.to_string(),
    })?;
    Ok(Some(matcher))
}

/// A cleaned path that keeps its last `/` or `/.`: they say that a directory is meant.
fn with_end(path: &str) -> String {
    let mut clean = kiln_gotext::path::rooted(path);
    if path.ends_with("/.") {
        if clean != "/" {
            clean.push('/');
        }
        clean.push('.');
    } else if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    clean
}

/// Where `path` is in the root: without links, but for one at the end unless `follow`.
pub(super) fn place(root: &RootDir, path: &str, follow: bool) -> Result<PathBuf, FileError> {
    let clean = PathBuf::from(kiln_gotext::path::rooted(path));
    if follow || clean == Path::new("/") {
        return root.resolve(&clean).map_err(FileError::at("lstat", &clean));
    }
    let folder = clean.parent().unwrap_or(Path::new("/"));
    let mut place = root
        .resolve(folder)
        .map_err(FileError::at("lstat", &clean))?;
    place.push(clean.file_name().unwrap_or_default());
    Ok(place)
}

struct Copier<'a> {
    source: &'a RootDir,
    root: &'a RootDir,
    upper: Option<&'a RootDir>,
    linked: &'a mut Linked,
    owner: Option<Owner>,
    time: Option<Timespec>,
    chmod: Chmod,
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    replace: bool,
    /// Files with several names in the source, and the first name that each got.
    copied: HashMap<(u64, u64), (Rc<Dst>, OsString, bool)>,
    /// Directories of the source that are being copied, the outermost first.
    levels: Vec<Level>,
    cancel: &'a CancellationToken,
}

/// One entry of the source.
struct Entry<'a> {
    folder: &'a OwnedFd,
    name: &'a OsStr,
    /// What it becomes at the target.
    dst_name: &'a OsStr,
    /// Where it goes; into the innermost level where absent.
    above: Option<Rc<Dst>>,
    rel: String,
    path: PathBuf,
}

/// What the patterns said of the directory above.
#[derive(Clone, Default)]
struct Matched {
    include: MatchInfo,
    exclude: MatchInfo,
}

impl Copier<'_> {
    fn copy(
        &mut self,
        src: &str,
        dest: &str,
        action: &pb::FileActionCopy,
    ) -> Result<(), FileError> {
        // Everything up to the last name of the target exists afterwards.
        let ends = dest.rsplit_once('/').map(|(_, name)| name);
        let folder = match ends {
            Some("" | ".") | None => dest,
            Some(name) => &dest[..dest.len() - name.len()],
        };
        let mut made = self.make_folders(Path::new(folder))?;
        let mut place_at = self
            .root
            .resolve(Path::new(&kiln_gotext::path::rooted(dest)))
            .map_err(FileError::at("lstat", dest))?;

        let from = place(self.source, src, action.follow_symlink)?;
        let (src_folder, src_name) = entry_of(self.source, &from)?;
        let stat = rustix::fs::statat(&src_folder, &src_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(FileError::at("lstat", &from))?;
        let is_dir = kind(&stat) == FileType::Directory;
        let there = match self.root.stat(&place_at, true) {
            Ok(stat) => Some(kind(&stat) == FileType::Directory),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(FileError::at("failed to lstat destination path", dest)(
                    error,
                ));
            }
        };
        let contents = action.dir_copy_contents;
        let into = if is_dir {
            !contents && there.is_some()
        } else {
            there == Some(true)
        };
        if into && let Some(name) = Path::new(src.trim_end_matches("/.")).file_name() {
            place_at.push(name);
        }
        let folder = if contents && is_dir && there.is_none() {
            place_at.clone()
        } else {
            place_at.parent().unwrap_or(Path::new("/")).to_owned()
        };
        made.extend(self.make_folders(&folder)?);

        let (dst_folder, dst_name) = entry_of(self.root, &place_at)?;
        let above = Rc::new(Dst::new(dst_folder, parent(&place_at)));
        let top = Entry {
            folder: &src_folder,
            name: &src_name,
            dst_name: &dst_name,
            above: Some(above),
            rel: String::new(),
            path: from,
        };
        self.entry(top, &Matched::default())?;
        // Trees may be deeper than a stack: what is open is on `levels`.
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.next() else {
                self.leave()?;
                continue;
            };
            let (src, below) = (Rc::clone(&level.src), Rc::clone(&level.below));
            let text = name.to_string_lossy();
            let entry = Entry {
                folder: &src,
                name: &name,
                dst_name: &name,
                above: None,
                rel: match level.rel.as_str() {
                    "" => text.into_owned(),
                    rel => format!("{rel}/{text}"),
                },
                path: level.path.join(&name),
            };
            self.entry(entry, &below)?;
        }
        // What was made on the way got new times by what was put into it.
        if let Some(time) = self.time {
            for path in made.into_iter().rev() {
                if let Ok((folder, name)) = entry_of(self.root, &path) {
                    meta::set_times(folder.as_fd(), &name, time, time)
                        .map_err(FileError::at("utime", &path))?;
                }
            }
        }
        Ok(())
    }

    /// Makes a directory and those above it. Returns those that it made, the outermost first.
    fn make_folders(&self, path: &Path) -> Result<Vec<PathBuf>, FileError> {
        super::actions::make_folders(
            self.root,
            path,
            self.chmod.of_new_directory(),
            self.owner,
            self.time,
        )
    }

    /// Copies one entry of the source; a directory is opened for its entries to follow.
    fn entry(&mut self, entry: Entry<'_>, matched: &Matched) -> Result<(), FileError> {
        if self.cancel.is_cancelled() {
            return Err(FileError::Cancelled);
        }
        let (include, below) = self.matches(&entry.rel, matched);
        let exceptions = self.exclude.as_ref();
        let exceptions = exceptions.is_some_and(PatternMatcher::has_exceptions);
        if !include && self.include.is_none() && !exceptions {
            return Ok(());
        }
        let Entry {
            folder,
            name,
            dst_name,
            path,
            ..
        } = &entry;
        let stat = rustix::fs::statat(folder, *name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(FileError::at("failed to stat", path))?;
        if kind(&stat) == FileType::Directory {
            return self.enter(entry, include, below, stat);
        }
        if !include {
            return Ok(());
        }
        let target = match &entry.above {
            Some(above) => Rc::clone(above),
            None => self.target(true)?,
        };
        self.clear_target(&target, dst_name, false)?;
        match kind(&stat) {
            FileType::RegularFile => {
                self.file(folder.as_fd(), name, &target, dst_name, path, &stat)
            }
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(folder, *name, Vec::new())
                    .map_err(FileError::at("failed to read link", path))?;
                rustix::fs::symlinkat(&to, &target.fd, *dst_name)
                    .map_err(FileError::at("symlink", target.path.join(dst_name)))?;
                self.finish_special(&target, dst_name, &stat, true)
            }
            _ => {
                let mode = Mode::from_raw_mode(stat.st_mode);
                rustix::fs::mknodat(&target.fd, *dst_name, kind(&stat), mode, stat.st_rdev)
                    .map_err(FileError::at("mknod", target.path.join(dst_name)))?;
                self.finish_special(&target, dst_name, &stat, false)
            }
        }
    }

    fn matches(&self, rel: &str, above: &Matched) -> (bool, Matched) {
        if rel.is_empty() {
            return (true, Matched::default());
        }
        let mut below = Matched::default();
        let mut include = true;
        if let Some(matcher) = &self.include {
            (include, below.include) = matcher.matches_below(rel, &above.include);
        }
        if let Some(matcher) = &self.exclude {
            let excluded;
            (excluded, below.exclude) = matcher.matches_below(rel, &above.exclude);
            include &= !excluded;
        }
        (include, below)
    }

    fn times(&self, stat: &Stat) -> (Timespec, Timespec) {
        if let Some(time) = self.time {
            return (time, time);
        }
        meta::times_of(stat)
    }
}

/// The directory that holds `path`, and the name in it; the root is `.` in itself.
fn entry_of(root: &RootDir, path: &Path) -> Result<(OwnedFd, OsString), FileError> {
    if path == Path::new("/") {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = root.open_at(path, flags, Mode::empty());
        return Ok((fd.map_err(FileError::at("open", path))?, ".".into()));
    }
    let (fd, name) = root.parent_of(path).map_err(FileError::at("lstat", path))?;
    Ok((fd, name.to_owned()))
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}
