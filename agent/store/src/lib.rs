//! The state root and its metadata database: schema, migrations, leases, sync epochs.
//!
//! ```text
//! ROOT/lock        held by the one daemon that uses ROOT
//! ROOT/state.db    SQLite in WAL mode: records, refs, keys, images, history index
//! ROOT/reserve     space that a prune may use when the disk is full
//! ROOT/content     blobs by digest          (kiln-content)
//! ROOT/snapshots   file-system states       (kiln-snapshot)
//! ROOT/history     spool of running builds  (kiln-history)
//! ROOT/tmp         emptied at each start
//! ```
//!
//! Invariants:
//! - One process owns a root at a time; a second one is refused by name.
//! - All writes of the database go through one thread, in the order in which they were asked for.
//! - A row that names files carries an epoch ([`Epochs`]); it is written after its files, in a write
//!   closure, with the SQL function `current_epoch()`.
//! - A database with a migration that this binary doesn't know is refused and left untouched.

mod database;
mod epochs;
mod error;
mod leases;
mod migrations;
mod root;

pub use database::{Database, Queued};
pub use epochs::Epochs;
pub use error::{Error, Result};
pub use leases::{Lease, Leases};
pub use root::{Recovery, StateRoot};
