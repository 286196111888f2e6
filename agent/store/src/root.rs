//! The state root: its directories, its lock, and what is done at start and end.
//!
//! Start: lock → migrate → if the last daemon didn't end well and the machine was restarted since, check the
//! database and drop rows newer than the last durable epoch → mark as in use. End: barrier → mark as not in use.
//! A daemon that was only killed loses nothing: its files are still in the page cache.
//!
//! The reserve is given up where the disk is full, so that a daemon starts there and can prune.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rusqlite::Connection;
use rustix::fs::{FallocateFlags, FlockOperation};

use crate::epochs::Signal;
use crate::{Database, Epochs, Error, Leases, Result, database, migrations};

/// Kept free so that a prune can write to the database of a full disk.
const RESERVE_BYTES: u64 = 16 << 20;
/// With less than this free, a start uses the reserve.
const START_BYTES: u64 = 4 << 20;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// An opened state root. Cheap to clone; the lock is released with the last one.
#[derive(Clone, Debug)]
pub struct StateRoot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    database: Database,
    epochs: Epochs,
    leases: Leases,
    recovery: Recovery,
    signal: Arc<Signal>,
    _lock: File,
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signal")
    }
}

/// How the last daemon on this root ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// In order, or there was none.
    Clean,
    /// It was killed, but the machine went on: all that was committed is there.
    Killed,
    /// The machine went down with it. Rows newer than the last barrier were dropped; files that no row names are to
    /// be verified or removed by their owners.
    Crashed {
        /// How many rows were dropped.
        dropped_rows: usize,
    },
}

impl StateRoot {
    /// Opens `path`, making it if need be.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        make_directory(path, 0o711)?;
        let path = path.canonicalize().map_err(Error::io(path))?;
        if free_bytes(&path).is_some_and(|free| free < START_BYTES) {
            tracing::warn!("the disk is full; using the reserve");
            let _ = fs::remove_file(path.join("reserve"));
        }
        let lock = lock(&path)?;
        for (name, mode) in [
            ("content", 0o700),
            ("snapshots", 0o711),
            ("history", 0o700),
            ("tmp", 0o700),
        ] {
            make_directory(&path.join(name), mode)?;
        }
        clear_mounts(&path);
        empty_directory(&path.join("tmp"))?;

        let file = path.join("state.db");
        let length = fs::metadata(&file).ok().map(|meta| meta.len());
        if length == Some(0) && has_content(&path) {
            return Err(Error::Emptied { path });
        }
        let current = Arc::new(AtomicU64::new(0));
        let mut connection = database::open_writer(&file, Arc::clone(&current))?;
        migrations::apply(&mut connection, &path, migrations::ALL)?;
        if length.is_none_or(|length| length == 0) {
            // From now on an empty file means damage.
            make_first_durable(&connection, &path)?;
        }
        let (recovery, durable) = recover(&mut connection)?;
        current.store(durable + 1, std::sync::atomic::Ordering::Release);

        let signal = Arc::new(Signal::default());
        let committed = Arc::clone(&signal);
        let database = Database::start(connection, &file, move || committed.committed())?;
        let epochs = Epochs::start(&path, &database, current, Arc::clone(&signal))?;
        let root = Self(Arc::new(Inner {
            path,
            database,
            epochs,
            leases: Leases::default(),
            recovery,
            signal,
            _lock: lock,
        }));
        root.restore_reserve();
        Ok(root)
    }

    /// The root's path, absolute.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Where blobs live.
    pub fn content_dir(&self) -> PathBuf {
        self.0.path.join("content")
    }

    /// Where snapshots live.
    pub fn snapshots_dir(&self) -> PathBuf {
        self.0.path.join("snapshots")
    }

    /// Where running builds spool.
    pub fn history_dir(&self) -> PathBuf {
        self.0.path.join("history")
    }

    /// For temporary files; emptied at each start.
    pub fn tmp_dir(&self) -> PathBuf {
        self.0.path.join("tmp")
    }

    /// The database.
    pub fn db(&self) -> Database {
        self.0.database.clone()
    }

    /// The sync epochs.
    pub fn epochs(&self) -> Epochs {
        self.0.epochs.clone()
    }

    /// The leases.
    pub fn leases(&self) -> Leases {
        self.0.leases.clone()
    }

    /// What was found at start.
    pub fn recovery(&self) -> Recovery {
        self.0.recovery
    }

    /// Ends in order: everything is durable, and the next start finds it so.
    pub async fn close(self) -> Result<()> {
        self.0.epochs.barrier().await?;
        self.0
            .database
            .write(|tx| tx.execute("UPDATE epoch_state SET in_use = 0", ()))
            .await?;
        self.0.epochs.barrier().await?;
        self.0.signal.close();
        // Leaves one file that is whole by itself, and little to read for the next start.
        let file = self.0.path.join("state.db");
        let merged = tokio::task::spawn_blocking(move || database::merge_journal(&file)).await;
        if let Ok(Err(error)) = merged {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the journal of the state database stays"
            );
        }
        Ok(())
    }

    /// Frees the reserve; call it before a prune when the disk is full.
    pub fn release_reserve(&self) {
        let _ = fs::remove_file(self.0.path.join("reserve"));
    }

    /// Takes the reserve again, where the disk has room for it and more.
    pub fn restore_reserve(&self) {
        let path = self.0.path.join("reserve");
        let is_taken = fs::metadata(&path).is_ok_and(|meta| meta.len() == RESERVE_BYTES);
        let has_room =
            free_bytes(&self.0.path).is_none_or(|free| free >= RESERVE_BYTES + START_BYTES);
        if is_taken || !has_room {
            return;
        }
        let taken = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .and_then(|file| {
                Ok(rustix::fs::fallocate(
                    &file,
                    FallocateFlags::empty(),
                    0,
                    RESERVE_BYTES,
                )?)
            });
        if let Err(error) = taken {
            tracing::warn!(%error, "no reserve for a full disk");
            let _ = fs::remove_file(&path);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.signal.close();
    }
}

/// What is free on the disk of a path; `None` where it doesn't say.
fn free_bytes(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail * found.f_frsize)
}

/// Whether there is something that only a database can explain.
fn has_content(root: &Path) -> bool {
    let has_files = |path: PathBuf| {
        fs::read_dir(path).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok()))
    };
    has_files(root.join("content/blobs/sha256"))
        || fs::metadata(root.join("state.db-wal")).is_ok_and(|journal| journal.len() > 0)
}

/// Brings a new database and its name to the disk.
fn make_first_durable(connection: &Connection, root: &Path) -> Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
    let directory = File::open(root).map_err(Error::io(root))?;
    directory.sync_all().map_err(Error::Sync)
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(Error::io(path))
}

/// Unmounts what a killed daemon left mounted, before anything is removed: the files of a mount are somebody's.
fn clear_mounts(root: &Path) {
    for directory in ["tmp", "snapshots"] {
        if let Err(error) = kiln_sys::mount::unmount_below(&root.join(directory)) {
            tracing::warn!(
                directory,
                error = &error as &dyn std::error::Error,
                "a mount of an earlier daemon stays"
            );
        }
    }
}

/// Leaves mount points alone.
fn empty_directory(path: &Path) -> Result<()> {
    let mounts = kiln_sys::mount::mounts_below(path).unwrap_or_default();
    for entry in fs::read_dir(path).map_err(Error::io(path))? {
        let entry = entry.map_err(Error::io(path))?.path();
        if mounts.iter().any(|mount| mount.starts_with(&entry)) {
            tracing::warn!(path = %entry.display(), "something is mounted there, so it stays");
            continue;
        }
        let removed = if entry.is_dir() && !entry.is_symlink() {
            fs::remove_dir_all(&entry)
        } else {
            fs::remove_file(&entry)
        };
        // What can't be removed (a mount that somebody left) doesn't keep the daemon from starting.
        if let Err(error) = removed {
            tracing::warn!(path = %entry.display(), %error, "a temporary file stays");
        }
    }
    Ok(())
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(Error::io(&path))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        return Err(Error::InUse {
            path: root.to_owned(),
            pid: pid.trim().to_owned(),
        });
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(Error::io(&path))?;
    Ok(file)
}

/// Finds out how the last daemon ended, drops what can't be vouched for, and marks the root as in use. Also returns
/// the durable epoch; rows of later epochs that are kept become part of the next one.
fn recover(connection: &mut Connection) -> Result<(Recovery, u64)> {
    let boot_id = fs::read_to_string(BOOT_ID)
        .map(|id| id.trim().to_owned())
        .unwrap_or_default();
    let tx = connection.transaction()?;
    let (durable, in_use, last_boot): (i64, bool, String) = tx.query_row(
        "SELECT durable, in_use, boot_id FROM epoch_state",
        (),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let tables: Vec<String> = tx
        .prepare("SELECT name FROM epoch_tables ORDER BY position, name")?
        .query_map((), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let recovery = if !in_use {
        Recovery::Clean
    } else if !boot_id.is_empty() && boot_id == last_boot {
        for table in &tables {
            tx.execute(
                &format!("UPDATE {} SET epoch = ?1 WHERE epoch > ?1", quoted(table)),
                [durable + 1],
            )?;
        }
        Recovery::Killed
    } else {
        let found: String = tx.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
        if found != "ok" {
            return Err(Error::Broken { found });
        }
        let mut dropped_rows = 0;
        for table in &tables {
            dropped_rows += tx.execute(
                &format!("DELETE FROM {} WHERE epoch > ?1", quoted(table)),
                [durable],
            )?;
        }
        tracing::warn!(
            dropped_rows,
            "the machine went down; dropped what wasn't durable yet"
        );
        Recovery::Crashed { dropped_rows }
    };
    tx.execute("UPDATE epoch_state SET in_use = 1, boot_id = ?1", [boot_id])?;
    tx.commit()?;
    Ok((recovery, durable.cast_unsigned()))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
