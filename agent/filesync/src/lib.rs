//! The diff-copy protocol, both ends: how build contexts come in and `local` outputs go out.
//!
//! ```text
//!  sender                                receiver
//!    │ STAT 0, STAT 1, … in walk order      │ compares each with what it has
//!    │ ───────────────────────────────────▶ │
//!    │ ◀──────────────────────── REQ n      │ as soon as it misses a file
//!    │ DATA n … DATA n (empty)              │ several files at a time, hashed as they arrive
//!    │ ───────────────────────────────────▶ │
//!    │ STAT (empty): no more entries        │ deletes what the sender doesn't have
//!    │ ◀──────────────────────── FIN        │ when the last file is in place
//!    │ FIN ───────────────────────────────▶ │
//! ```
//! Either side may send ERR with a text and give up.
//!
//! **Invariant:** the receiver writes only below its root, never through a symlink, whatever is sent.
//! **Invariant:** a path holds either what it held before or the whole new file; a changed file is a
//! new inode, so that hard links to the old one (layers made by linking) keep the old content.
//! **Invariant:** every change is reported to the hook after it was made, a deletion before what
//! takes its place.

mod compose;
#[cfg(unix)]
mod dir;
mod error;
mod filter;
#[cfg(unix)]
mod follow;
pub mod grpc;
mod ignore;
pub mod mode;
mod options;
mod packet;
pub mod path;
mod pattern;
#[cfg(unix)]
mod receive;
mod request;
mod send;
mod stream;
mod tree;

pub use kiln_proto::fsutil::types::Stat;

pub use compose::{MemoryTree, MergedTree, SubdirTree};
#[cfg(unix)]
pub use dir::DirTree;
pub use error::Error;
pub use filter::Filter;
pub use ignore::ignore_patterns;
pub use options::{
    Change, ChangeHook, Differ, FileHasher, FilterOptions, HookError, Limits, MapStat,
    MetadataOnly, Progress, ReceiveOptions, Summary,
};
pub use packet::Packet;
pub use pattern::{MatchInfo, Pattern, PatternMatcher};
#[cfg(unix)]
pub use receive::receive;
pub use request::FileRequest;
pub use send::send;
pub use stream::MessageIo;
pub use tree::{Step, Tree, Visitor};
