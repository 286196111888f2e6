//! A file that is being written: appended, hashed, and in the end named or removed.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_oci::{Digest, Digester};
use rustix::fs::FallocateFlags;

use super::board::{Progress, Rest, Turn};
use super::{BlobInfo, Shared};
use crate::{Error, Result};

pub(crate) struct Ingest {
    shared: Arc<Shared>,
    /// `None` for one that nobody can resume or follow.
    key: Option<(String, Turn)>,
    path: PathBuf,
    file: Arc<File>,
    digester: Digester,
    written: u64,
    generation: u64,
    expected: Option<u64>,
    /// What the bytes will be when the ingest is dropped; only those that are left keep their file.
    rest: Rest,
}

impl Ingest {
    /// Opens the file of `key`, hashing what is in it already.
    pub(crate) fn open(shared: &Arc<Shared>, key: &str, turn: Turn) -> Result<Self> {
        let path = shared.ingests.join(Digest::of(key).hex());
        let left = shared.board.state.lock().left.get(key).copied();
        let file = open_file(&path, left.is_none())?;
        let generation = match left {
            Some(generation) => generation,
            None => shared.board.state.lock().next_generation(),
        };
        let mut ingest = Self {
            shared: Arc::clone(shared),
            key: Some((key.to_owned(), turn)),
            path,
            file: Arc::new(file),
            digester: Digester::new(),
            written: 0,
            generation,
            expected: None,
            rest: Rest::Left,
        };
        if left.is_some() {
            ingest.hash_again()?;
        }
        ingest.publish();
        Ok(ingest)
    }

    pub(crate) fn anonymous(shared: &Arc<Shared>) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = shared.ingests.join(format!(
            "anonymous-{}",
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let file = open_file(&path, true)?;
        Ok(Self {
            shared: Arc::clone(shared),
            key: None,
            path,
            file: Arc::new(file),
            digester: Digester::new(),
            written: 0,
            generation: 0,
            expected: None,
            rest: Rest::Wrong,
        })
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    fn hash_again(&mut self) -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut reader = &*self.file;
        loop {
            let count = reader.read(&mut buffer).map_err(Error::io(&self.path))?;
            if count == 0 {
                return Ok(());
            }
            self.digester.update(&buffer[..count]);
            self.written += count as u64;
        }
    }

    /// Makes room for `size` bytes, so that a full disk is known now.
    pub(crate) fn expect_size(&mut self, size: u64) -> Result<()> {
        self.expected = Some(size);
        if size <= self.written {
            return Ok(());
        }
        let room = size - self.written;
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.written, room) {
            // Not every file system can.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => {
                self.rest = Rest::Wrong;
                Err(Error::io(&self.path)(error.into()))
            }
        }
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(expected) = self.expected
            && self.written + bytes.len() as u64 > expected
        {
            self.rest = Rest::Wrong;
            return Err(Error::TooLong { expected });
        }
        if let Err(error) = self.file.write_all_at(bytes, self.written) {
            self.rest = Rest::Wrong;
            return Err(Error::io(&self.path)(error));
        }
        self.digester.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Lets followers read what was appended.
    pub(crate) fn publish(&self) {
        if let Some((key, _)) = &self.key {
            let progress = Progress {
                written: self.written,
                file: Arc::clone(&self.file),
                generation: self.generation,
            };
            self.shared.board.publish(key, progress);
        }
    }

    /// Removes the file at the end, whatever comes.
    pub(crate) fn condemn(&mut self) {
        self.rest = Rest::Wrong;
    }

    /// Checks hash and size and gives the file its name. On failure the file is removed.
    pub(crate) fn commit(mut self, digest: Option<Digest>, size: Option<u64>) -> Result<BlobInfo> {
        self.rest = Rest::Wrong;
        if let Some(expected) = size
            && expected != self.written
        {
            return Err(Error::WrongSize {
                expected,
                actual: self.written,
            });
        }
        let actual = std::mem::take(&mut self.digester).finish();
        if let Some(expected) = digest
            && expected != actual
        {
            return Err(Error::WrongDigest { expected, actual });
        }
        let info = BlobInfo {
            digest: actual,
            size: self.written,
        };
        if !self.shared.index.read().contains_key(&actual) {
            if self.expected.is_some() {
                // Gives back what was reserved beyond the end.
                self.file
                    .set_len(self.written)
                    .map_err(Error::io(&self.path))?;
            }
            self.shared.admit(&self.path, info)?;
        }
        self.rest = Rest::Right;
        Ok(info)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.rest != Rest::Left {
            // A blob that was named is no longer under this path.
            let _ = fs::remove_file(&self.path);
        }
        if let Some((key, _turn)) = &self.key {
            self.shared.board.retract(key, self.generation, self.rest);
        }
    }
}

fn open_file(path: &std::path::Path, truncate: bool) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(truncate)
        .mode(0o600)
        .open(path)
        .map_err(Error::io(path))
}
