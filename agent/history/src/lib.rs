//! Records of builds: who asked for what, how it went, and where its log is.
//!
//! ```text
//! build begins ──► started ──► completed ──► (pinned, finalized) ──► deleted, or removed by retention
//!                  in memory   row + blobs
//! ```
//!
//! On disk: the table `history_records` in `state.db` has one encoded `BuildHistoryRecord` per finished
//! build, and Kiln's own [`Details`]. Logs, errors, traces, provenance and ingredients are blobs of the content
//! store, which clients read by digest; `ROOT/history` is the [`spool`] of running builds.
//! All records are also kept in memory, since retention keeps them few and a client asks after every build.
//!
//! Invariants: a record is written once its blobs are; a build's spool goes after its record is durable; a listener sees each change exactly once, after
//! the records that were there when it came; a record that is being read isn't taken from under the reader.

mod details;
mod events;
pub mod explain;
mod filter;
mod images;
mod record;
mod retention;
mod running;
mod sizes;
mod spool;
mod store;
pub mod trace;

pub use details::{Details, Project};
pub use events::{Event, Listen, Listener};
pub use filter::{Filter, FilterError};
pub use record::{Blob, LOG_MEDIA_TYPE, encode_log, read_log};
pub use retention::Retention;
pub use running::{Completed, Recording, Running};
pub use sizes::ResultSize;
pub use store::{Error, Finished, History};
pub use trace::{TraceContext, Traces};
