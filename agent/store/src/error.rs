//! What can go wrong with the state root.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// The result of operations on the state root.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the state root or its database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the root couldn't be made or read.
    #[error("cannot use {path} as part of the state root")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another daemon holds the lock.
    #[error("{path} is in use by another daemon (process {pid}); stop it or choose another --root")]
    InUse {
        /// The root.
        path: PathBuf,
        /// What the lock file says.
        pid: String,
    },
    /// The database was written by a newer version.
    #[error(
        "{path} was written by a newer kilnd: it has schema migration {number:04}, which this version doesn't know; \
         start the newer version, or move the directory away to begin anew"
    )]
    NewerSchema {
        /// The root.
        path: PathBuf,
        /// The unknown migration.
        number: u32,
    },
    /// A migration was applied in another wording.
    #[error(
        "{path} was written by another build of kilnd: migration {number:04}_{name} differs from this one's; \
         move the directory away to begin anew"
    )]
    ChangedMigration {
        /// The root.
        path: PathBuf,
        /// Its number.
        number: u32,
        /// Its name.
        name: String,
    },
    /// The disk is full.
    #[error("no space left on the disk of the state root; prune the build cache or free space")]
    Full,
    /// The database can't be read.
    #[error(
        "state.db is damaged; nothing was changed: put a copy of it back, or move it away to begin with an empty cache"
    )]
    Damaged(#[source] rusqlite::Error),
    /// The database can be read, and contradicts itself.
    #[error(
        "state.db is damaged ({found}); nothing was changed: put a copy of it back, or move it away to begin with an \
         empty cache"
    )]
    Broken {
        /// What SQLite's check found.
        found: String,
    },
    /// There is state, but the database has nothing in it.
    #[error(
        "state.db in {path} is damaged: it is empty, though there is content beside it; nothing was changed: put a copy \
         of it back, or move it away to begin with an empty cache"
    )]
    Emptied {
        /// The root.
        path: PathBuf,
    },
    /// SQLite failed.
    #[error("the state database failed")]
    Database(#[source] rusqlite::Error),
    /// The whole batch of writes couldn't be committed.
    #[error("the state database failed to commit: {message}")]
    Commit {
        /// What SQLite said; the error is shared by all writes of the batch.
        message: String,
    },
    /// A write closure panicked; its changes were rolled back.
    #[error("a write to the state database panicked and was rolled back")]
    Panicked,
    /// The database's thread has ended.
    #[error("the state database is closed")]
    Closed,
    /// The file system couldn't be brought to the disk.
    #[error("cannot sync the file system of the state root")]
    Sync(#[source] std::io::Error),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error),
            _ => Self::Database(error),
        }
    }
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
