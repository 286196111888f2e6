//! Prepares bind, cache, tmpfs, secret and ssh mounts for a step, and what else a container needs of
//! the build around it: its root, users by name, the files that name hosts.
//!
//! Invariants: what is prepared and not used is given back when it is dropped; no path of an image or
//! a client is followed outside of the root or mount it belongs to; secrets exist in memory only.

mod cache;
mod caches;
mod error;
pub mod hosts;
mod prepare;
mod process;
mod root;
mod secrets;
mod ssh;
pub mod stubs;
pub mod users;

pub use caches::{CacheMountInfo, CacheTarget, Caches, Directory, FileEntry, FileKind, Pieces};
pub use error::Error;
pub use prepare::{Mounts, Passed, Prepared, Request, Written};
pub use process::{DEFAULT_PATH, Process, extra_hosts};
pub use root::Root;
