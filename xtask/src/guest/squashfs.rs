//! A tree as a squashfs image: read-only, compressed, read from the disk as it is needed; the same bytes for the
//! same files.
//!
//! ```text
//! superblock │ blocks of files │ inodes │ directories │ owners │ place of the owners
//! ```
//! Inodes, directories and owners are metadata: runs of 8 KiB, each compressed by itself. A directory names its
//! children by the place of their inodes, so children come before their parents; numbers are given in that order,
//! too. Written after the format's description in the kernel's `fs/squashfs/squashfs_fs.h`; what isn't needed
//! here (fragments, extended attributes, export by number) is left out by its flags.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use super::cpio::{Entry, Tree};

const MAGIC: u32 = 0x7371_7368;
const BLOCK: usize = 128 << 10;
const BLOCK_LOG: u16 = 17;
const METADATA: usize = 8 << 10;
const ZSTD: u16 = 6;
/// Blocks are small: more gains little.
const LEVEL: i32 = 12;
/// No fragments, no extended attributes.
const FLAGS: u16 = 0x0010 | 0x0200;
const SUPERBLOCK: usize = 96;
/// Instead of the place of a table that isn't there.
const NOWHERE: u64 = u64::MAX;
const NO_FRAGMENT: u32 = u32::MAX;
/// In the length of a file's block, and of a run of metadata: it isn't compressed.
const RAW_BLOCK: u32 = 1 << 24;
const RAW_METADATA: u16 = 1 << 15;
/// Of one header in a directory.
const MOST_ENTRIES: usize = 256;
/// Devices are read in sectors; some in pages.
const PAGE: usize = 4 << 10;

const DIRECTORY: u16 = 1;
const FILE: u16 = 2;
const LINK: u16 = 3;

/// The image.
pub(super) fn image(tree: &Tree) -> Result<Vec<u8>> {
    let root = Node::of(tree)?;
    let mut writer = Writer {
        image: vec![0; SUPERBLOCK],
        inodes: Metadata::default(),
        directories: Metadata::default(),
        next: 1,
    };
    let count = root.count();
    let root = writer.directory(&root, count + 1, count)?;
    writer.finish(root, count)
}

/// Directories with their entries by name.
enum Node<'a> {
    Directory(BTreeMap<&'a str, Self>),
    Other(&'a Entry),
}

impl<'a> Node<'a> {
    fn of(tree: &'a Tree) -> Result<Self> {
        let mut root = Self::Directory(BTreeMap::new());
        for (path, entry) in tree.entries() {
            let mut node = &mut root;
            for name in path.split('/') {
                let Self::Directory(children) = node else {
                    anyhow::bail!("{path} is below something that isn't a directory");
                };
                node = children.entry(name).or_insert_with(|| match entry {
                    Entry::Directory => Self::Directory(BTreeMap::new()),
                    other => Self::Other(other),
                });
            }
        }
        Ok(root)
    }

    /// Inodes of it and of what is below.
    fn count(&self) -> u32 {
        match self {
            Self::Directory(children) => 1 + children.values().map(Self::count).sum::<u32>(),
            Self::Other(_) => 1,
        }
    }
}

/// Where an inode is: its run, and the byte in that.
type Place = (u32, u16);

/// A child that has been written.
struct Child<'a> {
    name: &'a str,
    kind: u16,
    number: u32,
    place: Place,
}

struct Writer {
    image: Vec<u8>,
    inodes: Metadata,
    directories: Metadata,
    next: u32,
}

impl Writer {
    /// Writes what is below, then it, whose inode has this number.
    fn directory(&mut self, node: &Node<'_>, parent: u32, number: u32) -> Result<Place> {
        let Node::Directory(nodes) = node else {
            anyhow::bail!("the root isn't a directory");
        };
        let mut children = Vec::new();
        for (name, node) in nodes {
            let (kind, place, its_number) = match node {
                Node::Directory(_) => {
                    // Its own children take their numbers first.
                    let its_number = self.next + node.count() - 1;
                    (
                        DIRECTORY,
                        self.directory(node, number, its_number)?,
                        its_number,
                    )
                }
                Node::Other(Entry::File(mode, bytes)) => {
                    let number = self.next;
                    (FILE, self.file(*mode, bytes, number)?, number)
                }
                Node::Other(Entry::Link(target)) => {
                    let number = self.next;
                    (LINK, self.link(target, number)?, number)
                }
                Node::Other(Entry::Directory) => anyhow::bail!("{name} is two things"),
            };
            children.push(Child {
                name,
                kind,
                number: its_number,
                place,
            });
        }
        let (start, length) = self.listing(&children)?;
        let links = 2 + nodes
            .values()
            .filter(|node| matches!(node, Node::Directory(_)))
            .count();
        let place = self.inode(DIRECTORY, 0o755, number)?;
        let out = &mut self.inodes;
        out.put(&start.0.to_le_bytes())?;
        out.put(&u32::try_from(links)?.to_le_bytes())?;
        // The kernel counts `.` and `..`, which aren't written.
        let length = u16::try_from(length + 3).context("a directory with too many entries")?;
        out.put(&length.to_le_bytes())?;
        out.put(&start.1.to_le_bytes())?;
        out.put(&parent.to_le_bytes())?;
        Ok(place)
    }

    /// Writes the entries, under a header for each run of inodes; where, and how many bytes.
    fn listing(&mut self, children: &[Child<'_>]) -> Result<(Place, usize)> {
        let start = self.directories.place()?;
        let mut length = 0;
        for run in children.chunk_by(|one, next| one.place.0 == next.place.0) {
            for part in run.chunks(MOST_ENTRIES) {
                let mut bytes = Vec::new();
                bytes.extend(u32::try_from(part.len() - 1)?.to_le_bytes());
                bytes.extend(part[0].place.0.to_le_bytes());
                bytes.extend(part[0].number.to_le_bytes());
                for child in part {
                    let further = i64::from(child.number) - i64::from(part[0].number);
                    bytes.extend(child.place.1.to_le_bytes());
                    bytes.extend(i16::try_from(further)?.to_le_bytes());
                    bytes.extend(child.kind.to_le_bytes());
                    bytes.extend(u16::try_from(child.name.len() - 1)?.to_le_bytes());
                    bytes.extend(child.name.bytes());
                }
                length += bytes.len();
                self.directories.put(&bytes)?;
            }
        }
        Ok((start, length))
    }

    fn file(&mut self, mode: u32, bytes: &[u8], number: u32) -> Result<Place> {
        let start = u32::try_from(self.image.len())?;
        let mut sizes = Vec::new();
        for block in bytes.chunks(BLOCK) {
            let packed = zstd::bulk::compress(block, LEVEL)?;
            let is_smaller = packed.len() < block.len();
            let stored = if is_smaller { &packed } else { block };
            let raw = if is_smaller { 0 } else { RAW_BLOCK };
            sizes.push(u32::try_from(stored.len())? | raw);
            self.image.extend(stored);
        }
        let place = self.inode(FILE, u16::try_from(mode & 0o7777)?, number)?;
        let length = u32::try_from(bytes.len()).context("a file of 4 GiB")?;
        for field in [start, NO_FRAGMENT, 0, length].into_iter().chain(sizes) {
            self.inodes.put(&field.to_le_bytes())?;
        }
        Ok(place)
    }

    fn link(&mut self, target: &str, number: u32) -> Result<Place> {
        let place = self.inode(LINK, 0o777, number)?;
        self.inodes.put(&1_u32.to_le_bytes())?;
        self.inodes
            .put(&u32::try_from(target.len())?.to_le_bytes())?;
        self.inodes.put(target.as_bytes())?;
        Ok(place)
    }

    /// What all inodes begin with. All owners are the first, all times 0.
    fn inode(&mut self, kind: u16, mode: u16, number: u32) -> Result<Place> {
        ensure!(number == self.next, "inode {number} comes as {}", self.next);
        self.next += 1;
        let place = self.inodes.place()?;
        for field in [kind, mode, 0, 0] {
            self.inodes.put(&field.to_le_bytes())?;
        }
        self.inodes.put(&0_u32.to_le_bytes())?;
        self.inodes.put(&number.to_le_bytes())?;
        Ok(place)
    }

    fn finish(mut self, root: Place, count: u32) -> Result<Vec<u8>> {
        let mut tables = Vec::new();
        for table in [self.inodes, self.directories] {
            tables.push(self.image.len() as u64);
            self.image.extend(table.finish()?);
        }
        let mut owners = Metadata::default();
        owners.put(&0_u32.to_le_bytes())?;
        let place_of_owners = self.image.len() as u64;
        self.image.extend(owners.finish()?);
        let owners = self.image.len() as u64;
        self.image.extend(place_of_owners.to_le_bytes());
        let used = self.image.len() as u64;

        let mut superblock = Vec::with_capacity(SUPERBLOCK);
        for field in [MAGIC, count, 0, u32::try_from(BLOCK)?, 0] {
            superblock.extend(field.to_le_bytes());
        }
        for field in [ZSTD, BLOCK_LOG, FLAGS, 1, 4, 0] {
            superblock.extend(field.to_le_bytes());
        }
        let root = u64::from(root.0) << 16 | u64::from(root.1);
        let (inodes, directories) = (tables[0], tables[1]);
        for field in [root, used, owners, NOWHERE, inodes, directories] {
            superblock.extend(field.to_le_bytes());
        }
        superblock.extend([NOWHERE.to_le_bytes(), NOWHERE.to_le_bytes()].concat());
        self.image[..SUPERBLOCK].copy_from_slice(&superblock);
        self.image
            .resize(self.image.len().next_multiple_of(PAGE), 0);
        Ok(self.image)
    }
}

/// Runs of metadata: those that are full, compressed, and the one that is being filled.
#[derive(Default)]
struct Metadata {
    done: Vec<u8>,
    current: Vec<u8>,
}

impl Metadata {
    /// Where the next byte goes.
    fn place(&self) -> Result<Place> {
        Ok((
            u32::try_from(self.done.len())?,
            u16::try_from(self.current.len())?,
        ))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.current.extend(bytes);
        while self.current.len() >= METADATA {
            let rest = self.current.split_off(METADATA);
            self.flush()?;
            self.current = rest;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let run = std::mem::take(&mut self.current);
        let packed = zstd::bulk::compress(&run, LEVEL)?;
        let is_smaller = packed.len() < run.len();
        let stored = if is_smaller { &packed } else { &run };
        let raw = if is_smaller { 0 } else { RAW_METADATA };
        let header = u16::try_from(stored.len())? | raw;
        self.done.extend(header.to_le_bytes());
        self.done.extend(stored);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        if !self.current.is_empty() {
            self.flush()?;
        }
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        let noise: Vec<u8> = (0..300_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        let mut add = |path: &str, entry| tree.add(path, entry).unwrap();
        add("usr/bin/noise", Entry::File(0o755, noise));
        add("usr/bin/words", Entry::File(0o644, vec![b'w'; 400_000]));
        add("usr/bin/empty", Entry::File(0o600, Vec::new()));
        add("usr/bin/link", Entry::Link("words".to_owned()));
        add("usr/lib/nothing", Entry::Directory);
        for number in 0..700 {
            let name = format!("usr/share/many/{number:03}");
            add(&name, Entry::File(0o644, name.clone().into_bytes()));
        }
        tree
    }

    #[test]
    fn the_same_files_are_the_same_bytes() {
        let first = image(&tree()).unwrap();
        assert!(first == image(&tree()).unwrap());
        assert_eq!(first[..4], *b"hsqs");
        assert_eq!(first.len() % PAGE, 0);
    }

    /// Where the kernel can't mount it, there is nobody to ask.
    #[test]
    fn the_kernel_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let (file, point) = (directory.path().join("image"), directory.path().join("at"));
        std::fs::write(&file, image(&tree()).unwrap()).unwrap();
        std::fs::create_dir(&point).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "squashfs", "-o", "loop,ro"])
            .args([&file, &point])
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return;
        }
        let read = || -> Result<()> {
            for (path, entry) in tree().entries() {
                let path = point.join(path);
                match entry {
                    Entry::Directory => ensure!(path.is_dir()),
                    Entry::File(_, bytes) => ensure!(std::fs::read(&path)? == *bytes),
                    Entry::Link(to) => ensure!(std::fs::read_link(&path)?.as_os_str() == &**to),
                }
            }
            let many = std::fs::read_dir(point.join("usr/share/many"))?.count();
            ensure!(many == 700, "{many}");
            Ok(())
        };
        let outcome = read();
        let unmounted = std::process::Command::new("umount").arg(&point).status();
        assert!(unmounted.unwrap().success());
        outcome.unwrap();
    }
}
