//! Looks at files: which paths there are, and what they hash to.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use kiln_oci::Digest;

use super::tarsum::{FileStat, file_hasher, go_mode};
use super::tree::{Entry, Kind, Tree, key_of, path_of};
use crate::Error;

/// As many symbolic links in a path as are followed.
pub(super) const MAX_LINKS: usize = 255;

/// From this many files on it is worth to hash on several threads.
const PARALLEL_FROM: usize = 32;

impl Tree {
    /// Enters the paths of the directory that `path` is in, links resolved, and the links on the way.
    pub(super) fn scan(
        &mut self,
        root: &Path,
        path: &[u8],
        follow_last: bool,
    ) -> Result<(), Error> {
        let real = self.resolve(root, path, follow_last)?;
        // The root has no directory that it is in.
        let start = match real.iter().rposition(|&b| b == b'/') {
            Some(slash) => &real[..slash],
            None => &real[..],
        };
        self.touch();
        let dir = join(root, start);
        let metadata = match std::fs::symlink_metadata(&dir) {
            Ok(metadata) => metadata,
            Err(e) if is_missing(&e) => return Ok(()),
            Err(e) => return Err(failed("failed to stat", &dir)(e)),
        };
        self.enter(start.to_vec(), &dir, &metadata)
    }

    /// Enters a path and what is below it. What is known stays as it is.
    fn enter(
        &mut self,
        path: Vec<u8>,
        full: &Path,
        metadata: &std::fs::Metadata,
    ) -> Result<(), Error> {
        let mut rest = vec![(path, full.to_owned(), metadata.clone())];
        while let Some((path, full, metadata)) = rest.pop() {
            let key = key_of(&path);
            let is_dir = metadata.is_dir();
            let header = [&key, &[0][..]].concat();
            let known = self
                .entries
                .contains_key(if is_dir { &header } else { &key })
                || self.entries.contains_key(&key);
            if !known {
                if is_dir {
                    self.entries.insert(header, Entry::unknown(Kind::DirHeader));
                    self.entries.insert(key, Entry::unknown(Kind::Dir));
                } else if metadata.is_symlink() {
                    let target = std::fs::read_link(&full)
                        .map_err(failed("failed to read the link", &full))?;
                    let entry = Entry {
                        linkname: target.into_os_string().into_vec().into(),
                        ..Entry::unknown(Kind::Symlink)
                    };
                    self.entries.insert(key, entry);
                } else {
                    self.entries.insert(key, Entry::unknown(Kind::File));
                }
            }
            if is_dir {
                let listed = std::fs::read_dir(&full).map_err(failed("failed to list", &full))?;
                for entry in listed {
                    let entry = entry.map_err(failed("failed to list", &full))?;
                    let below = entry.path();
                    let metadata = entry.metadata().map_err(failed("failed to stat", &below))?;
                    let name = entry.file_name();
                    rest.push((
                        [&path, &b"/"[..], name.as_bytes()].concat(),
                        below,
                        metadata,
                    ));
                }
            }
        }
        Ok(())
    }

    /// The path with its links resolved inside of the root; enters the links that it meets.
    fn resolve(&mut self, root: &Path, path: &[u8], follow_last: bool) -> Result<Vec<u8>, Error> {
        let mut rest = path.to_vec();
        let mut current: Vec<u8> = Vec::new();
        let mut links = 0;
        while !rest.is_empty() {
            if rest.last() == Some(&b'/') {
                rest.pop();
            }
            let (part, left) = match rest.iter().position(|&b| b == b'/') {
                Some(slash) => (rest[..slash].to_vec(), rest[slash + 1..].to_vec()),
                None => (std::mem::take(&mut rest), Vec::new()),
            };
            rest = left;
            let next = path_of(&key_of(&[&current, &b"/"[..], &part].concat()));
            if next.is_empty() {
                current.clear();
                continue;
            }
            let full = join(root, &next);
            let is_link = match std::fs::symlink_metadata(&full) {
                Ok(metadata) => metadata.is_symlink(),
                Err(e) if is_missing(&e) => false,
                Err(e) => return Err(failed("failed to stat", &full)(e)),
            };
            if !is_link || (!follow_last && rest.is_empty()) {
                current = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(too_many_links(path));
            }
            let target = std::fs::read_link(&full)
                .map_err(failed("failed to read the link", &full))?
                .into_os_string()
                .into_vec();
            let entry = Entry {
                linkname: target.as_slice().into(),
                ..Entry::unknown(Kind::Symlink)
            };
            self.entries.insert(key_of(&next), entry);
            if target.starts_with(b"/") {
                current.clear();
            }
            rest = [&target, &b"/"[..], &rest].concat();
        }
        Ok(current)
    }

    /// Hashes the files with these keys and enters their digests. Many are hashed side by side.
    pub(super) fn hash_files(&mut self, root: &Path, keys: Vec<Vec<u8>>) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        self.touch();
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let hashed: Vec<(Vec<u8>, Digest)> = if threads == 1 || keys.len() < PARALLEL_FROM {
            hash_all(root, keys)?
        } else {
            let share = keys.len().div_ceil(threads);
            let mut keys = keys.into_iter();
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..threads)
                    .map(|_| {
                        let keys: Vec<_> = keys.by_ref().take(share).collect();
                        scope.spawn(move || hash_all(root, keys))
                    })
                    .collect();
                let mut all = Vec::new();
                for worker in workers {
                    all.extend(worker.join().unwrap_or(Err(Error::Cancelled))?);
                }
                Ok::<_, Error>(all)
            })?
        };
        for (key, digest) in hashed {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.digest = Some(digest);
            }
        }
        Ok(())
    }
}

fn hash_all(root: &Path, keys: Vec<Vec<u8>>) -> Result<Vec<(Vec<u8>, Digest)>, Error> {
    let mut buffer = vec![0; 128 << 10];
    keys.into_iter()
        .map(|key| {
            let plain = key.strip_suffix(&[0]).unwrap_or(&key);
            let path = join(root, &path_of(plain));
            let digest = hash_file(&path, &mut buffer).map_err(failed("failed to hash", &path))?;
            Ok((key, digest))
        })
        .collect()
}

fn hash_file(path: &Path, buffer: &mut [u8]) -> io::Result<Digest> {
    let metadata = std::fs::symlink_metadata(path)?;
    let mut hasher = file_hasher(&file_stat(path, &metadata)?);
    if metadata.is_file() && metadata.len() > 0 {
        let mut file = File::open(path)?;
        loop {
            match file.read(buffer) {
                Ok(0) => break,
                Ok(n) => hasher.update(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(hasher.finish())
}

/// What the header of a file on disk is made of. Device numbers stay 0: the keys of others have them so.
fn file_stat(path: &Path, metadata: &std::fs::Metadata) -> io::Result<FileStat> {
    let mode = metadata.mode();
    let kind = metadata.file_type();
    let mut go = mode & 0o777;
    for (bit, is_set) in [
        (go_mode::SETUID, mode & 0o4000 != 0),
        (go_mode::SETGID, mode & 0o2000 != 0),
        (go_mode::STICKY, mode & 0o1000 != 0),
        (go_mode::DIR, kind.is_dir()),
        (go_mode::SYMLINK, kind.is_symlink()),
        (go_mode::NAMED_PIPE, kind.is_fifo()),
        (go_mode::SOCKET, kind.is_socket()),
        (
            go_mode::DEVICE,
            kind.is_block_device() || kind.is_char_device(),
        ),
        (go_mode::CHAR_DEVICE, kind.is_char_device()),
    ] {
        if is_set {
            go |= bit;
        }
    }
    let mut stat = FileStat {
        mode: go,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: metadata.len().cast_signed(),
        xattrs: xattrs(path)?,
        ..FileStat::default()
    };
    if kind.is_symlink() {
        stat.mode |= 0o777;
        let target = std::fs::read_link(path)?;
        stat.linkname = target.to_string_lossy().into_owned();
    }
    Ok(stat)
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    use rustix::io::Errno;
    let mut names = [0_u8; 1024];
    let mut large = Vec::new();
    let names: &[u8] = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        Ok(length) => &names[..length],
        Err(Errno::RANGE) => {
            large.resize(64 << 10, 0);
            let length = rustix::fs::llistxattr(path, large.as_mut_slice())?;
            &large[..length]
        }
        Err(e) => return Err(e.into()),
    };
    let mut attributes = BTreeMap::new();
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        if let Ok(length) = rustix::fs::lgetxattr(path, name, value.as_mut_slice()) {
            value.truncate(length);
            attributes.insert(String::from_utf8_lossy(name).into_owned(), value);
        }
    }
    Ok(attributes)
}

/// An absolute path of a state as a path of this system.
fn join(root: &Path, path: &[u8]) -> PathBuf {
    let relative = path.strip_prefix(b"/").unwrap_or(path);
    if relative.is_empty() {
        root.to_owned()
    } else {
        root.join(OsStr::from_bytes(relative))
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

pub(super) fn too_many_links(path: &[u8]) -> Error {
    Error::TooManyLinks {
        path: String::from_utf8_lossy(path).into_owned(),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        doing,
        path,
        source,
    }
}
