//! Patterns in source paths: Go's `filepath.Match`, walked without following links.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_gotext::pattern::{has_wildcards, matches};
use kiln_sys::rootfs::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::error::FileError;

/// Paths that `pattern` names, in lexical order. A pattern without wildcards is itself, cleaned.
pub(super) fn resolve(
    root: &RootDir,
    pattern: &str,
    follow: bool,
) -> Result<Vec<String>, FileError> {
    let clean = kiln_gotext::path::rooted(pattern);
    let parts: Vec<&str> = clean.split('/').filter(|part| !part.is_empty()).collect();
    let Some(first) = parts.iter().position(|part| has_wildcards(part)) else {
        return Ok(vec![clean]);
    };
    let base = format!("/{}", parts[..first].join("/"));
    let start = super::copy::place(root, &base, follow)?;
    let folder = root
        .open_at(&start, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .map_err(FileError::at("lstat", &base))?;
    let mut found = Vec::new();
    walk(&folder, &start, &parts[first..], &mut found)?;
    Ok(found
        .into_iter()
        .map(|path| path.to_string_lossy().into_owned())
        .collect())
}

fn walk(
    folder: &OwnedFd,
    path: &Path,
    parts: &[&str],
    found: &mut Vec<PathBuf>,
) -> Result<(), FileError> {
    let Some((part, rest)) = parts.split_first() else {
        return Ok(());
    };
    for name in names(folder, path)? {
        // Names that aren't UTF-8 can't be named by a pattern. A malformed one matches nothing.
        let Some(text) = name.to_str() else { continue };
        if !matches(part, text).unwrap_or(false) {
            continue;
        }
        let here = path.join(&name);
        if rest.is_empty() {
            found.push(here);
            continue;
        }
        let stat = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(FileError::at("lstat", &here))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = rustix::fs::openat(folder, &name, flags, Mode::empty())
                .map_err(FileError::at("open", &here))?;
            walk(&child, &here, rest, found)?;
        }
    }
    Ok(())
}

/// The names in a directory, sorted.
pub(super) fn names(folder: impl AsFd, path: &Path) -> Result<Vec<std::ffi::OsString>, FileError> {
    use std::os::unix::ffi::OsStringExt as _;
    let entries = rustix::fs::Dir::read_from(folder).map_err(FileError::at("readdir", path))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(FileError::at("readdir", path))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(std::ffi::OsString::from_vec(name.to_vec()));
        }
    }
    names.sort_unstable();
    Ok(names)
}
