//! The initial file system as an archive: `newc` cpio, the same bytes for the same files.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// One file of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A directory, 0755.
    Directory,
    /// A file with its permission bits.
    File(u32, Vec<u8>),
    /// A symbolic link with its target.
    Link(String),
}

/// A tree by path without a leading slash. Parents are added as they are needed; all owners are 0:0
/// and all times 0.
#[derive(Debug, Default)]
pub(super) struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// Adds an entry and its parents. Two different entries of one path are an error.
    pub(super) fn add(&mut self, path: &str, entry: Entry) -> Result<()> {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            let parent = self
                .0
                .entry(path[..end].to_owned())
                .or_insert(Entry::Directory);
            if *parent != Entry::Directory {
                bail!(
                    "{} is in the way of {path} in the guest's tree",
                    &path[..end]
                );
            }
        }
        if self.0.get(path).is_some_and(|before| *before != entry) {
            bail!("{path} is twice in the guest's tree");
        }
        self.0.insert(path.to_owned(), entry);
        Ok(())
    }

    /// All entries, parents first.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.0.iter()
    }

    /// Bytes of all files.
    pub(super) fn size(&self) -> usize {
        let sizes = self.0.values().map(|entry| match entry {
            Entry::File(_, bytes) => bytes.len(),
            Entry::Directory | Entry::Link(_) => 0,
        });
        sizes.sum()
    }

    /// The archive.
    pub(super) fn to_cpio(&self) -> Vec<u8> {
        let mut archive = Vec::with_capacity(self.size() + self.0.len() * 256);
        for (index, (path, entry)) in self.0.iter().enumerate() {
            let (mode, data) = match entry {
                Entry::Directory => (0o040_755, &[][..]),
                Entry::File(mode, bytes) => (0o100_000 | mode, bytes.as_slice()),
                Entry::Link(target) => (0o120_777, target.as_bytes()),
            };
            member(&mut archive, index + 1, path, mode, data);
        }
        member(&mut archive, 0, "TRAILER!!!", 0, &[]);
        archive
    }
}

fn member(archive: &mut Vec<u8>, inode: usize, path: &str, mode: u32, data: &[u8]) {
    let fields = [
        inode,
        mode as usize,
        0, // owner
        0, // group
        1, // links
        0, // time
        data.len(),
        0, // device of the archive
        0,
        0, // device
        0,
        path.len() + 1,
        0, // checksum
    ];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(path.bytes());
    archive.push(0);
    pad(archive);
    archive.extend(data);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_bytes_are_the_same() {
        let tree = |order: [(&str, Entry); 2]| {
            let mut tree = Tree::default();
            for (path, entry) in order {
                tree.add(path, entry).unwrap();
            }
            tree.to_cpio()
        };
        let file = ("/usr/bin/x", Entry::File(0o755, b"hi".to_vec()));
        let other = ("bin", Entry::File(0o644, Vec::new()));
        let archive = tree([file.clone(), other.clone()]);
        assert_eq!(archive, tree([other, file]));
        let text = String::from_utf8_lossy(&archive);
        let place = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(place("usr") < place("usr/bin") && place("usr/bin") < place("usr/bin/x"));
    }

    #[test]
    fn a_path_has_one_entry() {
        let mut tree = Tree::default();
        let file = |byte| Entry::File(0o644, vec![byte]);
        tree.add("a", file(1)).unwrap();
        assert!(tree.add("a/x", Entry::Directory).is_err());
        assert!(tree.add("a", file(2)).is_err());
        assert!(tree.add("a", file(1)).is_ok());
    }
}
