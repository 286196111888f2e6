//! Patterns in source paths: Go's `filepath.Match`, walked without following links.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_sys::rootfs::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::error::FileError;

/// Paths that `pattern` names, in lexical order. A pattern without wildcards is itself, cleaned.
pub(super) fn resolve(
    root: &RootDir,
    pattern: &str,
    follow: bool,
) -> Result<Vec<String>, FileError> {
    let clean = kiln_llb::keys::clean(pattern);
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
        // Names that aren't UTF-8 can't be named by a pattern.
        let Some(text) = name.to_str() else { continue };
        if !matches(part, text) {
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

fn has_wildcards(part: &str) -> bool {
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Whether one name matches one part of a pattern. A malformed pattern matches nothing.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Where to go on after the last star, and what it has taken so far.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        let step = (p < pattern.len() && n < name.len())
            .then(|| one(&pattern[p..], name[n]))
            .flatten();
        if let Some(used) = step {
            p += used;
            n += 1;
            continue;
        }
        if p == pattern.len() && n == name.len() {
            return true;
        }
        match star {
            Some((after, taken)) if taken < name.len() => {
                star = Some((after, taken + 1));
                p = after;
                n = taken + 1;
            }
            _ => return false,
        }
    }
}

/// Matches one character; how much of the pattern it took.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern[0] {
        '?' => Some(1),
        '\\' => (*pattern.get(1)? == c).then_some(2),
        '[' => class(pattern, c),
        plain => (plain == c).then_some(1),
    }
}

fn class(pattern: &[char], c: char) -> Option<usize> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&'^');
    at += usize::from(negated);
    let mut hit = false;
    let mut ranges = 0;
    loop {
        if pattern.get(at) == Some(&']') && ranges > 0 {
            return (hit != negated).then_some(at + 1);
        }
        let low = character(pattern, &mut at)?;
        let high = if pattern.get(at) == Some(&'-') {
            at += 1;
            character(pattern, &mut at)?
        } else {
            low
        };
        hit |= low <= c && c <= high;
        ranges += 1;
    }
}

fn character(pattern: &[char], at: &mut usize) -> Option<char> {
    let mut c = *pattern.get(*at)?;
    if matches!(c, '-' | ']') {
        return None;
    }
    *at += 1;
    if c == '\\' {
        c = *pattern.get(*at)?;
        *at += 1;
    }
    Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_go() {
        for (pattern, name, want) in [
            ("*", "", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txtx", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbY", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("?", "é", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[", "[", false),
            ("[]a]", "]", false),
            ("[a-]", "a", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("[\\]]", "]", true),
            (
                "*a*a*a*a*a*a*a*a*b",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                false,
            ),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
