//! What is known of a state's paths and their digests.
//!
//! The keys are BuildKit's: a path with each `/` replaced by a NUL, so that byte order walks a
//! directory before what is beside it. The root is the empty key. A directory has two entries, `dir`
//! for all of it and `dir/` for its header.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use kiln_oci::Digest;

use super::tarsum::{FileStat, go_mode};

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
    DirHeader,
    Symlink,
}

/// What is known of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// `None` until somebody asks.
    pub(super) digest: Option<Digest>,
    /// Target of a symbolic link.
    pub(super) linkname: Box<[u8]>,
}

impl Entry {
    pub(super) fn unknown(kind: Kind) -> Self {
        Self {
            kind,
            digest: None,
            linkname: Box::default(),
        }
    }
}

/// What happened to a path.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// It appeared or changed; the digest is that of [`file_hasher`](super::file_hasher) with the bytes.
    Put {
        /// What it is now.
        stat: &'a FileStat,
        /// Its digest.
        digest: Digest,
    },
    /// It is gone, and what was below it.
    Delete,
}

/// The hash tree of a state.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    pub(super) entries: BTreeMap<Vec<u8>, Entry>,
    /// Names of files that came before the file they link to, by its path.
    links: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    /// It differs from what was stored.
    dirty: bool,
    /// It came from where trees are stored (or nothing was there).
    stored: bool,
}

impl Tree {
    /// A tree that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the tree knows nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a change. Directories above the path are hashed anew when they are asked for.
    pub fn apply_change(&mut self, path: &str, change: Change<'_>) {
        self.dirty = true;
        // A transfer doesn't send the root.
        self.entries.entry(vec![0]).or_insert_with(|| Entry {
            digest: Some(Digest::of(b"")),
            ..Entry::unknown(Kind::DirHeader)
        });
        self.entries
            .entry(Vec::new())
            .or_insert_with(|| Entry::unknown(Kind::Dir));
        let key = key_of(path.as_bytes());
        match change {
            Change::Delete => {
                if let Some(old) = self.entries.remove(&key)
                    && old.kind == Kind::Dir
                {
                    self.remove_below(&key);
                }
                self.forget_above(&key);
            }
            Change::Put { stat, digest } => self.put(&key, stat, digest),
        }
    }

    fn put(&mut self, key: &[u8], stat: &FileStat, digest: Digest) {
        let is_dir = stat.mode & go_mode::DIR != 0;
        let is_symlink = stat.mode & go_mode::SYMLINK != 0;
        if !is_dir
            && self
                .entries
                .get(key)
                .is_some_and(|old| old.kind == Kind::Dir)
        {
            self.remove_below(key);
        }
        if is_dir {
            self.entries.insert(key.to_vec(), Entry::unknown(Kind::Dir));
            self.forget_above(key);
            let header = Entry {
                digest: Some(digest),
                ..Entry::unknown(Kind::DirHeader)
            };
            self.entries.insert([key, &[0]].concat(), header);
            return;
        }
        let mut entry = Entry {
            kind: if is_symlink {
                Kind::Symlink
            } else {
                Kind::File
            },
            digest: Some(digest),
            linkname: Box::default(),
        };
        if is_symlink {
            entry.linkname = stat.linkname.as_bytes().into();
        } else if !stat.linkname.is_empty() {
            // Another name of a file has the digest of that file, which may come later.
            let target = key_of(stat.linkname.as_bytes());
            if let Some(known) = self.entries.get(&target) {
                entry = known.clone();
            }
            self.links.entry(target).or_default().push(key.to_vec());
        }
        self.entries.insert(key.to_vec(), entry.clone());
        for link in self.links.remove(key).unwrap_or_default() {
            self.forget_above(&link);
            self.entries.insert(link, entry.clone());
        }
        self.forget_above(key);
    }

    fn remove_below(&mut self, key: &[u8]) {
        let start = [key, &[0]].concat();
        let mut below = self.entries.split_off(&start);
        let end = [key, &[1]].concat();
        let mut rest = below.split_off(&end);
        self.entries.append(&mut rest);
    }

    /// The directories above a key have digests that no longer hold.
    fn forget_above(&mut self, key: &[u8]) {
        let mut at = key;
        while let Some(slash) = at.iter().rposition(|&b| b == 0) {
            at = &at[..slash];
            match self.entries.get_mut(at) {
                // Where one isn't known, those above aren't either.
                Some(above) if above.kind == Kind::Dir && above.digest.is_none() => break,
                Some(above) if above.kind == Kind::Dir => above.digest = None,
                _ => {}
            }
        }
    }

    /// A run of changes is over: links to files that never came are forgotten.
    pub(crate) fn finish_changes(&mut self) {
        self.links.clear();
    }

    pub(super) fn touch(&mut self) {
        self.dirty = true;
    }

    /// What is stored is this tree.
    pub(crate) fn mark_stored(&mut self) {
        self.stored = true;
        self.dirty = false;
    }

    /// Whether it differs from what is stored; asked once, by who stores it then.
    pub(crate) fn take_dirty(&mut self) -> bool {
        let differs = self.dirty || !self.stored;
        self.mark_stored();
        differs
    }

    /// Everything with a digest of its own, as paths.
    pub(super) fn hashed(&self) -> impl Iterator<Item = (String, &Digest)> {
        let own = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.kind != Kind::Dir);
        own.filter_map(|(key, entry)| {
            let path = String::from_utf8_lossy(key).replace('\0', "/");
            let path = path.strip_prefix('/').unwrap_or(&path);
            (!path.is_empty()).then_some((path.to_owned(), entry.digest.as_ref()?))
        })
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The first entry at or after a key.
    pub(super) fn at_or_after(&self, key: &[u8]) -> Option<(&[u8], &Entry)> {
        self.entries
            .range::<[u8], _>((Bound::Included(key), Bound::Unbounded))
            .next()
            .map(|(key, entry)| (key.as_slice(), entry))
    }
}

/// A path, cleaned and absolute, as a key; the root is empty.
pub(super) fn key_of(path: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(path.len() + 1);
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let end = key.iter().rposition(|&b| b == 0).unwrap_or(0);
                key.truncate(end);
            }
            part => {
                key.push(0);
                key.extend_from_slice(part);
            }
        }
    }
    key
}

/// A key as the path that it stands for, trailing slash included.
pub(super) fn path_of(key: &[u8]) -> Vec<u8> {
    key.iter().map(|&b| if b == 0 { b'/' } else { b }).collect()
}
