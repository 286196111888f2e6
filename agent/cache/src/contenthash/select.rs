//! Which entries of a tree an answer is made of.

use std::path::Path;

use kiln_filesync::{MatchInfo, PatternMatcher};
use kiln_gotext::path::base;
use kiln_oci::{Digest, Digester};

use super::glob::split_wildcards;
use super::scan::{MAX_LINKS, too_many_links};
use super::tree::{Entry, Kind, Tree, key_of, path_of};
use super::{ChecksumOpts, Stop};
use crate::Error;

type Result<T, E = Stop> = std::result::Result<T, E>;

/// The digest of a path. Without a root only what the tree knows can be answered.
pub(super) fn checksum(
    tree: &mut Tree,
    root: Option<&Path>,
    path: &str,
    opts: &ChecksumOpts,
) -> Result<Digest> {
    if !opts.wildcard && opts.include_patterns.is_empty() && opts.exclude_patterns.is_empty() {
        return single(tree, root, path, opts.follow_links);
    }
    let (prefix, included) = Selection::new(path, opts)?.run(tree, root)?;
    if included.is_empty() {
        return Ok(Digest::of(b""));
    }
    let mut digests = Vec::with_capacity(included.len());
    for item in &included {
        let is_link = tree
            .get(&item.key)
            .is_some_and(|entry| entry.kind == Kind::Symlink);
        digests.push(if item.follow && is_link {
            single(tree, root, &item.path, opts.follow_links)?
        } else {
            known(tree, root, &item.key)?
        });
    }
    if let ([only], [digest]) = (included.as_slice(), digests.as_slice())
        && base(path) == base(&only.path)
    {
        return Ok(*digest);
    }
    let mut hasher = Digester::new();
    for (item, digest) in included.iter().zip(digests) {
        let relative = item.path.strip_prefix(&prefix).unwrap_or(&item.path);
        let key: Vec<u8> = relative
            .bytes()
            .map(|b| if b == b'/' { 0 } else { b })
            .collect();
        hasher.update(if key.is_empty() { &[0][..] } else { &key });
        hasher.update(digest.to_string());
    }
    Ok(hasher.finish())
}

/// The digest of one path and what is below it.
fn single(tree: &mut Tree, root: Option<&Path>, path: &str, follow_last: bool) -> Result<Digest> {
    let key = key_of(path.as_bytes());
    if let Some(digest) = follow(tree, &key, follow_last, |_, _| {})?
        .1
        .and_then(|e| e.digest)
    {
        return Ok(digest);
    }
    if needs_scan(tree, &key, follow_last)? {
        let root = root.ok_or(Stop::NeedsFiles)?;
        tree.scan(root, &path_of(&key), follow_last)?;
    }
    let (real, entry) = follow(tree, &key, follow_last, |_, _| {})?;
    if entry.is_none() {
        return Err(Stop::Failed(Error::PathNotFound {
            path: String::from_utf8_lossy(&path_of(&key)).into_owned(),
        }));
    }
    known(tree, root, &real)
}

/// The digest of a key that is in the tree; what it is made of is hashed where that is missing.
fn known(tree: &mut Tree, root: Option<&Path>, key: &[u8]) -> Result<Digest> {
    match tree.get(key) {
        Some(Entry {
            digest: Some(digest),
            ..
        }) => return Ok(*digest),
        Some(Entry {
            kind: Kind::Dir, ..
        }) => {
            let mut missing = Vec::new();
            collect_missing(tree, key, &mut missing);
            hash(tree, root, missing)?;
        }
        _ => hash(tree, root, vec![key.to_vec()])?,
    }
    sum(tree, key)
}

fn hash(tree: &mut Tree, root: Option<&Path>, keys: Vec<Vec<u8>>) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let root = root.ok_or(Stop::NeedsFiles)?;
    Ok(tree.hash_files(root, keys)?)
}

/// What is below a directory and has no digest, but for directories, whose digests follow.
fn collect_missing(tree: &Tree, dir: &[u8], missing: &mut Vec<Vec<u8>>) {
    children(tree, dir, |key, entry| {
        if entry.digest.is_none() {
            if entry.kind == Kind::Dir {
                collect_missing(tree, key, missing);
            } else {
                missing.push(key.to_vec());
            }
        }
    });
}

/// The digest of a key, those of directories computed from what is in them.
fn sum(tree: &mut Tree, key: &[u8]) -> Result<Digest> {
    let missing = || {
        Stop::Failed(Error::PathNotFound {
            path: String::from_utf8_lossy(&path_of(key)).into_owned(),
        })
    };
    let entry = tree.get(key).ok_or_else(missing)?;
    if let Some(digest) = entry.digest {
        return Ok(digest);
    }
    if entry.kind != Kind::Dir {
        return Err(missing());
    }
    let mut open = Vec::new();
    children(tree, key, |child, entry| {
        if entry.kind == Kind::Dir && entry.digest.is_none() {
            open.push(child.to_vec());
        }
    });
    for child in open {
        sum(tree, &child)?;
    }
    let mut hasher = Digester::new();
    let mut complete = true;
    children(tree, key, |child, entry| {
        hasher.update(&child[key.len()..]);
        match entry.digest {
            Some(digest) => hasher.update(digest.to_string()),
            None => complete = false,
        }
    });
    if !complete {
        return Err(missing());
    }
    let digest = hasher.finish();
    tree.touch();
    if let Some(entry) = tree.entries.get_mut(key) {
        entry.digest = Some(digest);
    }
    Ok(digest)
}

/// Visits a directory's header and what is directly in it, in key order.
fn children(tree: &Tree, dir: &[u8], mut visit: impl FnMut(&[u8], &Entry)) {
    let header = [dir, &[0]].concat();
    if let Some(entry) = tree.get(&header) {
        visit(&header, entry);
    }
    let mut from = [dir, &[0, 0]].concat();
    while let Some((key, entry)) = tree.at_or_after(&from) {
        if !key.starts_with(&header) {
            break;
        }
        visit(key, entry);
        from.clear();
        from.extend_from_slice(key);
        from.extend_from_slice(if entry.kind == Kind::Dir {
            &[0, 0xff]
        } else {
            &[0]
        });
    }
}

/// Resolves the links in a key. Tells each step of the way to `step`, with what was found there.
fn follow<'a>(
    tree: &'a Tree,
    key: &[u8],
    follow_last: bool,
    mut step: impl FnMut(&[u8], Option<&Entry>),
) -> Result<(Vec<u8>, Option<&'a Entry>)> {
    if let Some(entry) = tree.get(key)
        && (!follow_last || entry.kind != Kind::Symlink)
    {
        return Ok((key.to_vec(), Some(entry)));
    }
    if key.is_empty() {
        return Ok((Vec::new(), None));
    }
    let mut rest = path_of(key);
    let header = rest.last() == Some(&b'/');
    if header {
        rest.pop();
    }
    let mut current: Vec<u8> = Vec::new();
    let mut entry = None;
    let mut links = 0;
    while !rest.is_empty() {
        let (part, left) = match rest.iter().position(|&b| b == b'/') {
            Some(slash) => (rest[..slash].to_vec(), rest[slash + 1..].to_vec()),
            None => (std::mem::take(&mut rest), Vec::new()),
        };
        rest = left;
        let next = key_of(&[&path_of(&current), &b"/"[..], &part].concat());
        entry = tree.get(&next);
        step(&next, entry);
        let link = entry.filter(|entry| entry.kind == Kind::Symlink);
        let Some(link) = link else {
            current = next;
            continue;
        };
        if !follow_last && rest.is_empty() {
            current = next;
            break;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Stop::Failed(too_many_links(&path_of(key))));
        }
        if link.linkname.starts_with(b"/") {
            current.clear();
        }
        rest = [&link.linkname, &b"/"[..], &rest].concat();
    }
    if header {
        current.push(0);
        entry = tree.get(&current);
        step(&current, entry);
    }
    Ok((current, entry))
}

/// Whether the tree can't tell if the path is there: neither it nor a directory above it was scanned.
fn needs_scan(tree: &Tree, key: &[u8], follow_last: bool) -> Result<bool> {
    let mut scanned: Vec<Vec<u8>> = Vec::new();
    let mut parent_known = false;
    let below = |known: &[Vec<u8>], key: &[u8]| {
        known.iter().any(|dir| {
            key.strip_prefix(dir.as_slice())
                .is_some_and(|rest| rest.first().is_none_or(|&b| b == 0))
        })
    };
    let (_, entry) = follow(tree, key, follow_last, |at, entry| match entry {
        Some(entry) => {
            parent_known = entry.kind != Kind::Symlink;
            if !below(&scanned, at) {
                scanned.push(at.to_vec());
            }
        }
        None => parent_known = below(&scanned, at),
    })?;
    Ok(entry.is_none() && !parent_known)
}

/// One entry that an answer is made of.
struct Item {
    /// Its path as the question spells it.
    path: String,
    key: Vec<u8>,
    included: bool,
    follow: bool,
    include_info: MatchInfo,
    exclude_info: MatchInfo,
}

/// A question about several paths.
struct Selection<'a> {
    path: String,
    ends_in_slash: bool,
    opts: &'a ChecksumOpts,
    includes: Option<PatternMatcher>,
    excludes: Option<PatternMatcher>,
}

impl<'a> Selection<'a> {
    /// Whether a path matches the pattern that is asked for.
    fn is_match(&self, name: &str) -> Result<bool> {
        kiln_gotext::pattern::matches(&self.path, name).map_err(|malformed| {
            Stop::Failed(Error::Pattern {
                pattern: self.path.clone(),
                reason: malformed.to_string(),
            })
        })
    }

    fn new(path: &str, opts: &'a ChecksumOpts) -> Result<Self> {
        let matcher = |patterns: &[String]| {
            if patterns.is_empty() {
                return Ok(None);
            }
            PatternMatcher::new(patterns).map(Some).map_err(|error| {
                Stop::Failed(Error::Pattern {
                    pattern: patterns.join(", "),
                    reason: error.to_string(),
                })
            })
        };
        Ok(Self {
            path: text(&path_of(&key_of(path.as_bytes()))),
            ends_in_slash: path.ends_with('/'),
            opts,
            includes: matcher(&opts.include_patterns)?,
            excludes: matcher(&opts.exclude_patterns)?,
        })
    }

    /// The part of the path before any pattern, and the entries that match.
    fn run(&self, tree: &mut Tree, root: Option<&Path>) -> Result<(String, Vec<Item>)> {
        if needs_scan(tree, &[], false)? {
            let root = root.ok_or(Stop::NeedsFiles)?;
            tree.scan(root, b"", false)?;
        }
        let (prefix, start) = self.start(tree)?;
        let mut chosen: Vec<Item> = Vec::new();
        let mut headers: Vec<Item> = Vec::new();
        let mut last_match = String::new();
        let resolved = start.as_ref().map(|start| text(&path_of(start)));
        let mut at = start;
        while let Some(key) = at {
            at = next(tree, &key);
            let mut name = text(&path_of(&key));
            // Paths are spelled as the question spells them, not as its links resolve.
            if !prefix.is_empty()
                && let Some(rest) = resolved.as_ref().and_then(|start| name.strip_prefix(start))
            {
                name = format!("{prefix}{rest}");
            }
            while headers
                .last()
                .is_some_and(|above| !is_below(&name, &above.path))
            {
                headers.pop();
            }
            let is_header = key.last() == Some(&0);
            if is_header {
                name.pop();
                if name == self.path && self.ends_in_slash {
                    continue;
                }
            }
            let Some(kind) = tree.get(&key).map(|entry| entry.kind) else {
                continue;
            };
            let relative = if self.opts.wildcard {
                if !self.path.is_empty() && (last_match.is_empty() || !is_below(&name, &last_match))
                {
                    if !self.is_match(&name)? {
                        continue;
                    }
                    last_match.clone_from(&name);
                }
                relative_to(&name, &last_match)
            } else {
                if name != self.path && !is_below(&name, &self.path) {
                    break;
                }
                relative_to(&name, &self.path)
            };
            let mut item = Item {
                path: name.clone(),
                key,
                included: false,
                follow: headers.is_empty() && self.opts.follow_links,
                include_info: MatchInfo::default(),
                exclude_info: MatchInfo::default(),
            };
            let wanted = self.wants(&relative, &mut item, headers.last());
            // Whole directories aren't taken: something in them may be left out.
            if wanted && kind != Kind::Dir {
                for header in &mut headers {
                    if !header.included {
                        header.included = true;
                        chosen.push(header.copy());
                    }
                }
                item.included = true;
                chosen.push(item.copy());
            }
            if kind == Kind::DirHeader {
                headers.push(item);
            }
        }
        self.check_required(&chosen)?;
        let missing = chosen
            .iter()
            .filter(|item| {
                tree.get(&item.key)
                    .is_some_and(|entry| entry.digest.is_none())
            })
            .map(|item| item.key.clone())
            .collect();
        hash(tree, root, missing)?;
        Ok((prefix, chosen))
    }

    /// The part before any pattern, and the key that it stands for.
    fn start(&self, tree: &Tree) -> Result<(String, Option<Vec<u8>>)> {
        let (prefix, follow_last) = if self.opts.wildcard {
            match split_wildcards(&self.path) {
                (plain, _) if plain == "/" => (String::new(), false),
                split => split,
            }
        } else {
            (self.path.clone(), false)
        };
        if prefix.is_empty() {
            return Ok((prefix, tree.at_or_after(&[]).map(|(key, _)| key.to_vec())));
        }
        let (key, entry) = follow(tree, &key_of(prefix.as_bytes()), follow_last, |_, _| {})?;
        Ok((prefix, entry.is_some().then_some(key)))
    }

    fn wants(&self, relative: &str, item: &mut Item, above: Option<&Item>) -> bool {
        let none = MatchInfo::default();
        if let Some(includes) = &self.includes {
            let known = above.map_or(&none, |above| &above.include_info);
            let (matched, info) = includes.matches_below(relative, known);
            item.include_info = info;
            if !matched {
                return false;
            }
        }
        if let Some(excludes) = &self.excludes {
            let known = above.map_or(&none, |above| &above.exclude_info);
            let (matched, info) = excludes.matches_below(relative, known);
            item.exclude_info = info;
            if matched {
                return false;
            }
        }
        true
    }

    fn check_required(&self, chosen: &[Item]) -> Result<()> {
        for required in &self.opts.required_paths {
            if !chosen.iter().any(|item| item.path.starts_with(required)) {
                return Err(Stop::Failed(Error::PathNotFound {
                    path: required.clone(),
                }));
            }
        }
        Ok(())
    }
}

impl Item {
    /// What an answer needs of it.
    fn copy(&self) -> Self {
        Self {
            path: self.path.clone(),
            key: self.key.clone(),
            included: true,
            follow: self.follow,
            include_info: MatchInfo::default(),
            exclude_info: MatchInfo::default(),
        }
    }
}

/// The key after another one.
fn next(tree: &Tree, key: &[u8]) -> Option<Vec<u8>> {
    let after = [key, &[0]].concat();
    tree.at_or_after(&after).map(|(key, _)| key.to_vec())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a path is below a directory.
fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// A path as seen from a directory or file above it; empty for that itself.
fn relative_to(path: &str, above: &str) -> String {
    let full = format!("{path}/");
    let rest = full.strip_prefix(&format!("{above}/")).unwrap_or(&full);
    rest.strip_suffix('/').unwrap_or(rest).to_owned()
}
