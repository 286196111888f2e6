//! What can go wrong with a step's mounts.

use std::path::PathBuf;

use kiln_sys::mount::MountError;

/// An error of preparing mounts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The op names an input that it doesn't have.
    #[error("missing input {0}")]
    MissingInput(i64),
    /// Only a bind mount can be the root.
    #[error("invalid mount type {kind} for {target}")]
    RootType {
        /// The type's name.
        kind: &'static str,
        /// `/`.
        target: String,
    },
    /// A type that this version doesn't know.
    #[error("mount type {0} not implemented")]
    UnknownType(i32),
    /// A step without a root.
    #[error("no root mount found")]
    NoRoot,
    /// A mount of a type lacks that type's options.
    #[error("invalid {kind} mount options")]
    MissingOptions {
        /// The type's name.
        kind: &'static str,
    },
    /// A way of sharing that this version doesn't know.
    #[error("invalid cache sharing option: {0}")]
    Sharing(i32),
    /// A secret without a name.
    #[error("secret ID missing from mount options")]
    NoSecretId,
    /// A secret for an environment variable without a name.
    #[error("secret ID missing for {variable:?} environment variable")]
    NoSecretEnvId {
        /// The variable.
        variable: String,
    },
    /// The client forwards no agent at all.
    #[error("no SSH key {id:?} forwarded from the client")]
    NoAgent {
        /// The agent's name.
        id: String,
    },
    /// The client said no.
    #[error(transparent)]
    Session(#[from] kiln_session::Error),
    /// Of the cache.
    #[error(transparent)]
    Cache(#[from] kiln_cache::Error),
    /// Mounting failed.
    #[error("failed to mount {}", target.display())]
    Mount {
        /// Where it should have gone.
        target: PathBuf,
        /// Why not.
        #[source]
        source: MountError,
    },
    /// Reading or writing files.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was done, as "failed to read".
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A record that is no cache mount, or is gone.
    #[error("no cache mount has the record {0}")]
    NotCacheMount(kiln_ids::RefId),
    /// A step has it, or another import.
    #[error("the cache mount {0:?} is in use")]
    CacheInUse(String),
    /// A file of a cache mount.
    #[error("{path:?}")]
    File {
        /// Its path in the mount.
        path: String,
        /// Why it can't be had.
        #[source]
        source: std::io::Error,
    },
    /// What was to be imported.
    #[error("failed to import the archive")]
    Archive(#[source] kiln_snapshot::apply::ApplyError),
    /// Of the snapshots.
    #[error(transparent)]
    Snapshot(#[from] kiln_snapshot::Error),
    /// No such user.
    #[error(transparent)]
    User(#[from] crate::users::UserError),
    /// An address that is none.
    #[error("failed to parse IP {0}")]
    Address(String),
    /// Nobody waits for it any more.
    #[error("canceled")]
    Cancelled,
}
