//! The blobs of a state root.

mod board;
mod follow;
mod ingest;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kiln_oci::Digest;
use kiln_store::{Database, Leases, StateRoot};
use parking_lot::{Mutex, RwLock};

pub use follow::{Follow, FollowStop};
pub use writer::{BlockingWriter, Writer};

use crate::{Error, Result};
use board::Board;
use ingest::Ingest;

/// A blob that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// The blobs of a state root. Cheap to clone.
#[derive(Clone)]
pub struct ContentStore(Arc<Shared>);

pub(crate) struct Shared {
    blobs: PathBuf,
    ingests: PathBuf,
    database: Database,
    leases: Leases,
    /// What is in `blobs` and has a row.
    index: RwLock<HashMap<Digest, u64>>,
    /// Blobs whose files have their names and whose rows are on their way. Held while names are given and taken,
    /// so that one that comes back while it is being deleted keeps its file and its row.
    arriving: Mutex<HashMap<Digest, usize>>,
    board: Board,
}

impl ContentStore {
    /// Opens the store of `root`: drops unfinished writes, files without a row, and rows without their file.
    pub fn open(root: &StateRoot) -> Result<Self> {
        let directory = root.content_dir();
        let shared = Shared {
            blobs: directory.join("blobs/sha256"),
            ingests: directory.join("ingest"),
            database: root.db(),
            leases: root.leases(),
            index: RwLock::default(),
            arriving: Mutex::default(),
            board: Board::default(),
        };
        let _ = fs::remove_dir_all(&shared.ingests);
        for path in [&shared.blobs, &shared.ingests] {
            fs::create_dir_all(path).map_err(Error::io(path))?;
        }
        let index = shared.reconcile()?;
        *shared.index.write() = index;
        Ok(Self(Arc::new(shared)))
    }

    /// A writer for content that `key` names, by convention its digest where it is known. Waits while another one
    /// writes under the same key; look with [`info`](Self::info) again before writing. What an earlier writer left
    /// is kept: see [`Writer::offset`].
    pub async fn writer(&self, key: &str) -> Result<Writer> {
        let turn = self.0.board.turn(key).await;
        let ingest = Ingest::open(&self.0, key, turn)?;
        Ok(Writer::start(ingest))
    }

    /// A writer for threads: hashes and writes in the calling one. Dropped without a commit it leaves nothing.
    pub fn blocking_writer(&self) -> Result<BlockingWriter> {
        Ok(BlockingWriter::new(Ingest::anonymous(&self.0)?))
    }

    /// Stores a small blob.
    pub async fn put(&self, bytes: Bytes) -> Result<BlobInfo> {
        let digest = Digest::of(&bytes);
        if let Some(info) = self.info(&digest) {
            return Ok(info);
        }
        let this = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut writer = this.blocking_writer()?;
            writer.append(&bytes)?;
            writer.commit(Some(digest), None)
        });
        task.await.unwrap_or(Err(Error::WriterFailed))
    }

    /// Whether the blob is here, and its size. Doesn't touch the disk.
    pub fn info(&self, digest: &Digest) -> Option<BlobInfo> {
        let size = self.0.index.read().get(digest).copied()?;
        Some(BlobInfo {
            digest: *digest,
            size,
        })
    }

    /// Where the blob's file is, whether or not it is there.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.0.blob_path(digest)
    }

    /// The blob's file. It stays readable if the blob is deleted meanwhile.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        self.info(digest)
            .ok_or(Error::NotFound { digest: *digest })?;
        let path = self.0.blob_path(digest);
        File::open(&path).map_err(Error::io(path))
    }

    /// The whole blob; for small ones.
    pub async fn read(&self, digest: &Digest) -> Result<Bytes> {
        let this = self.clone();
        let digest = *digest;
        let task = tokio::task::spawn_blocking(move || this.read_blocking(&digest));
        task.await.unwrap_or(Err(Error::WriterFailed))
    }

    /// The whole blob, on this thread.
    pub fn read_blocking(&self, digest: &Digest) -> Result<Bytes> {
        self.info(digest)
            .ok_or(Error::NotFound { digest: *digest })?;
        let path = self.0.blob_path(digest);
        Ok(fs::read(&path).map_err(Error::io(path))?.into())
    }

    /// Reads a blob that may still be arriving under the key of its digest: each read waits for the writer. The
    /// reader fails once the [`FollowStop`] is dropped and the blob isn't here by then. Bytes come before they are
    /// verified: whoever uses them must wait for the writer's commit before believing them.
    pub fn follow(&self, digest: &Digest) -> (Follow, FollowStop) {
        Follow::new(&self.0, *digest)
    }

    /// Removes the blob; whether it was there. Leases aren't asked.
    pub async fn delete(&self, digest: &Digest) -> Result<bool> {
        let forgotten = {
            let _arriving = self.0.arriving.lock();
            if self.0.index.write().remove(digest).is_none() {
                return Ok(false);
            }
            let key = digest.to_string();
            self.0.database.queue(move |tx| {
                tx.prepare_cached("DELETE FROM blobs WHERE digest = ?1")?
                    .execute([key])
            })
        };
        forgotten.await?;
        // Another writer may have brought it back since.
        let arriving = self.0.arriving.lock();
        if !arriving.contains_key(digest) && self.info(digest).is_none() {
            let path = self.0.blob_path(digest);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(path)(error));
                }
                _ => {}
            }
        }
        Ok(true)
    }

    /// All blobs, in no order.
    pub fn walk(&self) -> Vec<BlobInfo> {
        let index = self.0.index.read();
        index
            .iter()
            .map(|(&digest, &size)| BlobInfo { digest, size })
            .collect()
    }

    /// The leases that a prune must ask before it deletes a blob; a blob is held under its digest's text.
    pub fn leases(&self) -> Leases {
        self.0.leases.clone()
    }

    /// A blob's labels.
    pub async fn labels(&self, digest: &Digest) -> Result<BTreeMap<String, String>> {
        let key = digest.to_string();
        let read = self.0.database.read(move |db| {
            db.prepare_cached("SELECT name, value FROM blob_labels WHERE digest = ?1")?
                .query_map([key], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        });
        Ok(read.await?)
    }

    /// Sets a label of a blob that is here; an empty value removes it.
    pub async fn set_label(&self, digest: &Digest, name: &str, value: &str) -> Result<()> {
        self.info(digest)
            .ok_or(Error::NotFound { digest: *digest })?;
        let (key, name, value) = (digest.to_string(), name.to_owned(), value.to_owned());
        self.0
            .database
            .write(move |tx| {
                if value.is_empty() {
                    let sql = "DELETE FROM blob_labels WHERE digest = ?1 AND name = ?2";
                    tx.prepare_cached(sql)?.execute((key, name))
                } else {
                    let sql = "INSERT OR REPLACE INTO blob_labels VALUES (?1, ?2, ?3)";
                    tx.prepare_cached(sql)?.execute((key, name, value))
                }
            })
            .await?;
        Ok(())
    }
}

impl std::fmt::Debug for ContentStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentStore")
            .field("blobs", &self.0.blobs)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// Gives a finished file its name and its row. The file's bytes must have been hashed.
    fn admit(&self, file: &Path, info: BlobInfo) -> Result<()> {
        let path = self.blob_path(&info.digest);
        let row = {
            let mut arriving = self.arriving.lock();
            if self.index.read().contains_key(&info.digest) {
                let _ = fs::remove_file(file);
                return Ok(());
            }
            fs::rename(file, &path).map_err(Error::io(&path))?;
            *arriving.entry(info.digest).or_default() += 1;
            self.database.queue_blocking(move |tx| {
                let sql = "INSERT INTO blobs VALUES (?1, ?2, unixepoch(), current_epoch()) ON CONFLICT (digest) DO NOTHING";
                tx.prepare_cached(sql)?
                    .execute((info.digest.to_string(), info.size.cast_signed()))
            })
        };
        let written = row.wait();
        {
            let mut arriving = self.arriving.lock();
            if written.is_ok() {
                self.index.write().insert(info.digest, info.size);
            }
            let others = arriving
                .get_mut(&info.digest)
                .map(|count| {
                    *count -= 1;
                    *count
                })
                .unwrap_or_default();
            if others == 0 {
                arriving.remove(&info.digest);
                if !self.index.read().contains_key(&info.digest) {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        self.board.notify();
        written?;
        Ok(())
    }

    /// Makes rows and files agree; returns what both have.
    fn reconcile(&self) -> Result<HashMap<Digest, u64>> {
        let rows: Vec<(String, i64)> = self.database.read_blocking(|db| {
            db.prepare("SELECT digest, size FROM blobs")?
                .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        let mut recorded: HashMap<Digest, u64> = rows
            .iter()
            .filter_map(|(digest, size)| Some((digest.parse().ok()?, size.cast_unsigned())))
            .collect();
        let mut index = HashMap::new();
        for entry in fs::read_dir(&self.blobs).map_err(Error::io(&self.blobs))? {
            let entry = entry.map_err(Error::io(&self.blobs))?;
            let digest = entry
                .file_name()
                .to_str()
                .and_then(|name| format!("sha256:{name}").parse::<Digest>().ok());
            let length = entry.metadata().map_err(Error::io(entry.path()))?.len();
            match digest.and_then(|digest| Some((digest, recorded.remove(&digest)?))) {
                Some((digest, size)) if size == length => {
                    index.insert(digest, size);
                }
                found => {
                    tracing::info!(file = %entry.path().display(), "removing content that can't be vouched for");
                    fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
                    recorded.extend(found);
                }
            }
        }
        if !recorded.is_empty() {
            tracing::warn!(
                blobs = recorded.len(),
                "content is missing its files; forgetting it"
            );
            self.database.write_blocking(move |tx| {
                let mut delete = tx.prepare("DELETE FROM blobs WHERE digest = ?1")?;
                recorded
                    .keys()
                    .try_for_each(|digest| delete.execute([digest.to_string()]).map(drop))
            })?;
        }
        Ok(index)
    }
}
