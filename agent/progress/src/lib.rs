//! Vertices, statuses, logs and warnings while a build runs.
//!
//! A [`VertexProgress`] is the hand that an op holds: it reports to every build that waits for the
//! vertex. What a build's clients see is assembled by the [`Hub`] of the build behind it.

mod board;
mod hub;
mod step;
pub mod wire;

pub use hub::{BuildWarning, Counts, Hub, Output, Reader, StatusChange, Update};
pub use step::Step;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use kiln_oci::Digest;

/// Which stream of a process a log line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub enum Stream {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

/// Who gets a piece of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Audience {
    /// Clients, and the record of the build.
    #[default]
    Everybody,
    /// Clients only: words about what they aren't shown, or what the record has already.
    Clients,
    /// The record only: what was cut for clients.
    Record,
}

/// One line of a progress display below a vertex: a layer's download, an upload, "exporting layers".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What it is about; the key under which later reports replace this one.
    pub id: String,
    /// Words for it, when the id isn't for people.
    pub name: String,
    /// Units done: bytes, mostly.
    pub current: i64,
    /// Units in all; 0 when unknown.
    pub total: i64,
    /// When it began.
    pub started: Option<SystemTime>,
    /// When it was done.
    pub completed: Option<SystemTime>,
}

/// A warning for a vertex or for the build, with the place in the source that it is about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Warning {
    /// 1 is for the frontend's checks.
    pub level: i64,
    /// One line.
    pub short: Bytes,
    /// Further lines.
    pub detail: Vec<Bytes>,
    /// Where the rule is explained.
    pub url: String,
    /// The file that `ranges` points into.
    pub source: Option<kiln_proto::pb::SourceInfo>,
    /// The lines it is about.
    pub ranges: Vec<kiln_proto::pb::Range>,
}

/// A vertex as a build's clients see it. Sent whole each time something of it changes.
#[derive(Debug, Clone, PartialEq)]
pub struct VertexState {
    /// Its digest, under which this build knows it.
    pub digest: Digest,
    /// Digests of its inputs.
    pub inputs: Vec<Digest>,
    /// What displays call it.
    pub name: String,
    /// Its result came from the cache.
    pub cached: bool,
    /// Set once work on it began; a cached vertex has both times.
    pub started: Option<SystemTime>,
    /// Set once it ended.
    pub completed: Option<SystemTime>,
    /// Why it failed, in the words that clients print; empty if it didn't.
    pub error: String,
    /// The group that displays fold it into.
    pub group: Option<kiln_proto::pb::ProgressGroup>,
}

/// Receives the progress of one build, from the solver and from everything else that works for it
/// (exporters and cache transfers report under vertices of their own). Must not block.
pub trait BuildReceiver: Send + Sync {
    /// A vertex appeared or changed.
    fn vertex(&self, vertex: VertexState);
    /// A status below a vertex.
    fn status(&self, vertex: Digest, status: Status);
    /// Output of a vertex.
    fn log(&self, vertex: Digest, stream: Stream, audience: Audience, bytes: Bytes);
    /// Output for the record comes faster than it is written: whoever makes it should wait a moment.
    fn is_behind(&self) -> bool {
        false
    }
    /// A warning for a vertex.
    fn warn(&self, vertex: Option<Digest>, warning: Warning);
}

/// Receives what ops report. Implementations fan out to builds and must not block.
pub trait Receiver: Send + Sync {
    /// A status began, moved or ended.
    fn status(&self, status: Status);
    /// A piece of output, whole lines or not.
    fn log(&self, stream: Stream, audience: Audience, bytes: Bytes);
    /// As [`BuildReceiver::is_behind`].
    fn is_behind(&self) -> bool {
        false
    }
    /// A warning.
    fn warn(&self, warning: Warning);
}

/// An op's way to report on its vertex. Cheap to clone.
#[derive(Clone)]
pub struct VertexProgress(Arc<dyn Receiver>);

impl VertexProgress {
    /// Reports to `receiver`.
    pub fn new(receiver: Arc<dyn Receiver>) -> Self {
        Self(receiver)
    }

    /// Reports to nobody.
    pub fn silent() -> Self {
        struct Silent;
        impl Receiver for Silent {
            fn status(&self, _: Status) {}
            fn log(&self, _: Stream, _: Audience, _: Bytes) {}
            fn warn(&self, _: Warning) {}
        }
        Self(Arc::new(Silent))
    }

    /// Reports a status.
    pub fn status(&self, status: Status) {
        self.0.status(status);
    }

    /// Reports output.
    pub fn log(&self, stream: Stream, bytes: impl Into<Bytes>) {
        self.log_for(Audience::Everybody, stream, bytes);
    }

    /// Reports output that not everybody gets.
    pub fn log_for(&self, audience: Audience, stream: Stream, bytes: impl Into<Bytes>) {
        self.0.log(stream, audience, bytes.into());
    }

    /// Whether whoever makes output should wait a moment.
    pub fn is_behind(&self) -> bool {
        self.0.is_behind()
    }

    /// Reports a warning.
    pub fn warn(&self, warning: Warning) {
        self.0.warn(warning);
    }
}

impl std::fmt::Debug for VertexProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VertexProgress")
    }
}
