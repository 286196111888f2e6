//! Resolves the symlinks among paths that a client was asked to follow.
//!
//! `COPY link /` needs the link *and* what it points to. Each component that is a symlink is kept as
//! an include and its target is followed in turn, within the root; a wildcard in any component
//! stands for the entries that it matches.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use crate::path::{base, clean, parent};
use crate::{Error, PatternMatcher};

/// More links than this make a loop for sure.
const MAX_STEPS: usize = 40_000;

/// The include patterns that `paths` stand for. `None`: the root itself is among them, so that
/// there is nothing to filter.
pub(crate) fn follow(root: &Path, paths: &[String]) -> Result<Option<Vec<String>>, Error> {
    let mut resolver = Resolver {
        root,
        resolved: BTreeSet::new(),
        steps: 0,
    };
    for path in paths {
        resolver.add(path)?;
    }
    Ok(without_children(resolver.resolved.into_iter().collect()))
}

/// Drops paths below other paths of a sorted list. `None` if one of them is the root.
pub(crate) fn without_children(paths: Vec<String>) -> Option<Vec<String>> {
    let mut out: Vec<String> = Vec::with_capacity(paths.len());
    for path in paths {
        if path == "." {
            return None;
        }
        let below = out.last().is_some_and(|last| {
            path.strip_prefix(last.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        });
        if !below {
            out.push(path);
        }
    }
    Some(out)
}

struct Resolver<'a> {
    root: &'a Path,
    resolved: BTreeSet<String>,
    steps: usize,
}

impl Resolver<'_> {
    fn add(&mut self, path: &str) -> Result<(), Error> {
        // Absolute paths and links are relative to the root; nothing climbs out of it.
        let full = clean(&format!("/{path}"));
        let mut rest = full.trim_start_matches('/');
        let mut current = String::new();
        loop {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(Error::Limit {
                    what: "symlinks to follow",
                    limit: MAX_STEPS as u64,
                });
            }
            let (part, tail) = rest.split_once('/').unwrap_or((rest, ""));
            if !current.is_empty() {
                current.push('/');
            }
            current.push_str(part);
            if current.is_empty() {
                current.push('.');
            }
            let targets = self.targets(&current, true)?;
            if (tail.is_empty() || targets.is_some()) && self.resolved.contains(&current) {
                return Ok(());
            }
            if let Some(targets) = targets {
                self.resolved.insert(current);
                for target in targets {
                    self.add(&format!("{target}/{tail}"))?;
                }
                return Ok(());
            }
            if tail.is_empty() {
                self.resolved.insert(current);
                return Ok(());
            }
            rest = tail;
        }
    }

    /// Where the entry, or the entries that it matches, point to; `None` if it is no link.
    fn targets(&self, path: &str, wildcards: bool) -> Result<Option<Vec<String>>, Error> {
        if wildcards && kiln_gotext::pattern::has_wildcards(base(path)) {
            return self.matching_targets(path);
        }
        if path == "." {
            return Ok(None);
        }
        match fs::read_link(self.root.join(path)) {
            Ok(link) => {
                let link = link.to_string_lossy();
                let target = if link.starts_with('/') {
                    clean(&link)
                } else {
                    clean(&format!("/{}/{link}", parent(path)))
                };
                Ok(Some(vec![target]))
            }
            // EINVAL: not a link.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::InvalidInput
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(Error::io("read link", path, error)),
        }
    }

    fn matching_targets(&self, path: &str) -> Result<Option<Vec<String>>, Error> {
        let dir = parent(path);
        let entries = match fs::read_dir(self.root.join(dir)) {
            Ok(entries) => entries,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::io("read directory", dir, error)),
        };
        let matcher = PatternMatcher::new(&[base(path)])?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Error::io("read directory", dir, error))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if matcher.matches(name) {
                let child = if dir.is_empty() {
                    name.to_owned()
                } else {
                    format!("{dir}/{name}")
                };
                found.extend(self.targets(&child, false)?.unwrap_or_default());
            }
        }
        Ok((!found.is_empty()).then_some(found))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/file"), "x").unwrap();
        symlink("dir/file", root.join("rel")).unwrap();
        symlink("/dir", root.join("abs")).unwrap();
        symlink("../../../dir/sub", root.join("dir/up")).unwrap();
        symlink("loop2", root.join("loop1")).unwrap();
        symlink("loop1", root.join("loop2")).unwrap();
        symlink("/", root.join("top")).unwrap();
        let table: &[(&[&str], Option<&[&str]>)] = &[
            (&["dir/file"], Some(&["dir/file"])),
            (&["rel"], Some(&["dir/file", "rel"])),
            (&["abs/file"], Some(&["abs", "dir/file"])),
            (&["dir/up"], Some(&["dir/sub", "dir/up"])),
            (&["loop1"], Some(&["loop1", "loop2"])),
            (&["missing/x"], Some(&["missing/x"])),
            (&["dir", "dir/file"], Some(&["dir"])),
            (&["re*"], Some(&["dir/file", "re*"])),
            (&["top"], None),
            (&["/"], None),
            (&["../../dir"], Some(&["dir"])),
        ];
        for (paths, want) in table {
            let paths: Vec<String> = paths.iter().map(|&path| path.into()).collect();
            let got = follow(root, &paths).unwrap();
            let want = want.map(|list| list.iter().map(|&path| path.to_owned()).collect());
            assert_eq!(got, want, "{paths:?}");
        }
    }
}
