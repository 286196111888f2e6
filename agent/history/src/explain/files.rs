//! Which files a directory had, and which of them differ.
//!
//! The list is a blob: a line per file with its digest in hex, a space, and its path. A directory, whose
//! digest is that of its mode and owner, ends in a slash.

use std::collections::BTreeMap;

use bytes::Bytes;
use kiln_oci::Digest;
use regex::Regex;

use super::{Difference, DifferenceKind, Pattern};

/// Files by path, with digests in short.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileList(pub(super) BTreeMap<String, String>);

/// How much of a digest tells files apart.
const SHORT: usize = 16;

/// The list as a blob.
pub fn encode_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a Digest)>) -> Bytes {
    let mut text = String::new();
    for (path, digest) in files {
        text.push_str(&digest.hex()[..SHORT]);
        text.push(' ');
        // A line per file, whatever its name.
        text.extend(path.chars().map(|c| if c == '\n' { '\u{fffd}' } else { c }));
        text.push('\n');
    }
    text.into()
}

impl FileList {
    /// From a blob. Lines that aren't any are left out.
    pub fn decode(blob: &[u8]) -> Self {
        let text = String::from_utf8_lossy(blob);
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Self(
            lines
                .map(|(digest, path)| (path.to_owned(), digest.to_owned()))
                .collect(),
        )
    }

    /// What differs of what the patterns name. Where that is nothing, though something does, it was read
    /// through a link: then everything that differs.
    pub(super) fn differences(&self, now: &Self, patterns: &[Pattern]) -> Vec<Difference> {
        let wanted: Vec<Regex> = patterns.iter().filter_map(regex).collect();
        let all = self.all_differences(now);
        if wanted.is_empty()
            || patterns
                .iter()
                .any(|pattern| clean(&pattern.path).is_empty())
        {
            return all;
        }
        let named: Vec<Difference> = all
            .iter()
            .filter(|one| wanted.iter().any(|pattern| pattern.is_match(&one.name)))
            .cloned()
            .collect();
        if named.is_empty() { all } else { named }
    }

    fn all_differences(&self, now: &Self) -> Vec<Difference> {
        let mut paths: Vec<&String> = self.0.keys().chain(now.0.keys()).collect();
        paths.sort_unstable();
        paths.dedup();
        let mut differences: Vec<Difference> = paths
            .into_iter()
            .filter(|path| self.0.get(*path) != now.0.get(*path))
            .map(|path| Difference {
                kind: DifferenceKind::File,
                name: path.clone(),
                before: self.0.get(path).cloned().unwrap_or_default(),
                after: now.0.get(path).cloned().unwrap_or_default(),
            })
            .collect();
        // Files tell more than the directories that they are in.
        differences.sort_by_key(|one| one.name.ends_with('/'));
        differences
    }
}

fn clean(path: &str) -> &str {
    path.trim_start_matches("./").trim_matches('/')
}

/// The pattern, and everything below what it matches.
fn regex(pattern: &Pattern) -> Option<Regex> {
    let mut text = String::from("^");
    for c in clean(&pattern.path).chars() {
        match c {
            '*' if pattern.wildcard => text.push_str("[^/]*"),
            '?' if pattern.wildcard => text.push_str("[^/]"),
            c => text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    text.push_str("(/|$)");
    Regex::new(&text).ok()
}
