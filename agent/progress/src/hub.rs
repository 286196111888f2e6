//! What one build's clients see: a hub that remembers, merges and replays.
//!
//! Every vertex and status has one place in an ordered map, keyed by the version of its last change;
//! output and warnings are appended. A reader holds the last version it has seen and takes everything
//! newer at once. From this follow, without timers or per-reader queues:
//!
//! - a reader who comes late gets the whole build, then goes on with the others;
//! - a slow reader gets fewer and larger updates, never a stale one, and slows nobody down;
//! - nothing is lost at the end: a reader ends only after it has taken what was there at [`Hub::finish`].
//!
//! The reader that writes the build's record gets output beside that which clients aren't shown. It is kept
//! until that reader has taken it; what makes it waits while much of it is there ([`BuildReceiver::is_behind`]).

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use kiln_oci::Digest;
use tokio::sync::watch;

use crate::board::{Board, Entry, Place};
use crate::{Audience, BuildReceiver, Status, Stream, VertexState, Warning};

/// Output for the record that waits to be taken. More than this much, and whoever makes it has to wait.
const WAITING: usize = 8 * 1024 * 1024;

/// A status with the vertex it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusChange {
    /// The vertex.
    pub vertex: Digest,
    /// Its status.
    pub status: Status,
    /// When it was reported.
    pub at: SystemTime,
}

/// A piece of output with the vertex it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The vertex.
    pub vertex: Digest,
    /// Which stream.
    pub stream: Stream,
    /// Who gets it.
    pub audience: Audience,
    /// When its first byte was reported.
    pub at: SystemTime,
    /// Whole lines or not.
    pub bytes: Bytes,
}

/// A warning with the vertex it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildWarning {
    /// The vertex, or the build as a whole.
    pub vertex: Option<Digest>,
    /// The warning.
    pub warning: Warning,
}

/// What changed since a reader last asked. Vertices are to be shown before what refers to them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// Vertices, whole.
    pub vertices: Vec<VertexState>,
    /// Statuses, whole.
    pub statuses: Vec<StatusChange>,
    /// Output in order.
    pub output: Vec<Output>,
    /// Warnings in order.
    pub warnings: Vec<BuildWarning>,
}

impl Update {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
            && self.statuses.is_empty()
            && self.output.is_empty()
            && self.warnings.is_empty()
    }
}

/// Sums over a build, for its history record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Vertices that the build has.
    pub total: usize,
    /// Those whose result came from the cache.
    pub cached: usize,
    /// Those that ended.
    pub completed: usize,
    /// Warnings.
    pub warnings: usize,
}

/// The progress of one build. Shared by the solver, which reports, and by every reader.
#[derive(Debug)]
pub struct Hub {
    board: std::sync::Mutex<Board>,
    changed: watch::Sender<u64>,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            board: std::sync::Mutex::default(),
            changed: watch::channel(0).0,
        }
    }
}

impl Hub {
    /// An empty hub for a build that begins.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A client's reader, which begins with everything there is.
    pub fn read(self: &Arc<Self>) -> Reader {
        self.read_as(Audience::Clients)
    }

    /// The reader that writes the build's record; there is one. Without it, or once it is dropped, output for
    /// the record alone isn't kept.
    pub fn record(self: &Arc<Self>) -> Reader {
        self.lock().is_recorded = true;
        self.read_as(Audience::Record)
    }

    fn read_as(self: &Arc<Self>, audience: Audience) -> Reader {
        Reader {
            changed: self.changed.subscribe(),
            hub: Arc::clone(self),
            audience,
            seen: 0,
        }
    }

    /// The build ended. Vertices that still run are reported as cancelled; later reports are ignored.
    pub fn finish(&self) {
        let now = SystemTime::now();
        self.with(|board| {
            let open: Vec<VertexState> = board
                .entries
                .values()
                .filter_map(|entry| match entry {
                    Entry::Vertex(vertex)
                        if vertex.started.is_some() && vertex.completed.is_none() =>
                    {
                        Some(vertex.clone())
                    }
                    _ => None,
                })
                .collect();
            for mut vertex in open {
                vertex.completed = Some(now);
                vertex.error = "context canceled".into();
                board.replace(Place::Vertex(vertex.digest), Entry::Vertex(vertex));
            }
            board.finished = true;
        });
    }

    /// Everything that clients are shown, in one piece.
    pub fn snapshot(&self) -> Update {
        self.lock().since(0, Audience::Clients)
    }

    /// Every time that a vertex was at work, and the vertices that never were.
    pub fn vertices(&self) -> Vec<VertexState> {
        let board = self.lock();
        let of_vertex = |entry: &Entry| match entry {
            Entry::Vertex(vertex) | Entry::Earlier(vertex) => Some(vertex.clone()),
            _ => None,
        };
        board.entries.values().filter_map(of_vertex).collect()
    }

    /// Sums over the build so far.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in self.lock().entries.values() {
            match entry {
                Entry::Vertex(vertex) => {
                    counts.total += 1;
                    counts.cached += usize::from(vertex.cached);
                    counts.completed += usize::from(vertex.completed.is_some());
                }
                Entry::Warning(_) => counts.warnings += 1,
                Entry::Earlier(_) | Entry::Status(_) | Entry::Output { .. } => {}
            }
        }
        counts
    }

    /// No code that holds the lock can panic half-way through a change, so a poisoned board is whole.
    fn lock(&self) -> std::sync::MutexGuard<'_, Board> {
        self.board
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn with(&self, change: impl FnOnce(&mut Board)) {
        let version = {
            let mut board = self.lock();
            if board.finished {
                return;
            }
            change(&mut board);
            // Finishing alone changes no entry but must wake readers too.
            board.version + u64::from(board.finished)
        };
        self.changed.send_replace(version);
    }
}

impl BuildReceiver for Hub {
    fn vertex(&self, vertex: VertexState) {
        self.with(|board| {
            board.replace_vertex(vertex);
        });
    }

    fn status(&self, vertex: Digest, status: Status) {
        self.with(|board| {
            board.replace(
                Place::Status(vertex, status.id.clone()),
                Entry::Status(StatusChange {
                    vertex,
                    status,
                    at: SystemTime::now(),
                }),
            );
            board.repeat_end(vertex);
        });
    }

    fn log(&self, vertex: Digest, stream: Stream, audience: Audience, bytes: Bytes) {
        self.with(|board| {
            let output = Output {
                vertex,
                stream,
                audience,
                at: SystemTime::now(),
                bytes,
            };
            if board.output(&output) {
                board.repeat_end(vertex);
            }
        });
    }

    fn is_behind(&self) -> bool {
        let board = self.lock();
        board.is_recorded && !board.finished && board.waiting > WAITING
    }

    fn warn(&self, vertex: Option<Digest>, warning: Warning) {
        self.with(|board| board.append(Entry::Warning(BuildWarning { vertex, warning })));
    }
}

/// One reader of a [`Hub`].
#[derive(Debug)]
pub struct Reader {
    hub: Arc<Hub>,
    changed: watch::Receiver<u64>,
    audience: Audience,
    seen: u64,
}

impl Reader {
    /// What changed since the last call; waits for a change. `None` once the build has ended and
    /// everything was taken.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            self.changed.mark_unchanged();
            {
                let mut board = self.hub.lock();
                if board.version > self.seen {
                    let update = board.take_since(self.seen, self.audience);
                    self.seen = board.version;
                    // All of it may be for others.
                    if !update.is_empty() {
                        return Some(update);
                    }
                }
                if board.finished {
                    return None;
                }
            }
            self.changed.changed().await.ok()?;
        }
    }

    /// From now on output for the record alone isn't kept: there is enough of it.
    pub fn decline_hidden(&mut self) {
        if self.audience == Audience::Record {
            self.hub.lock().forget_hidden();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.decline_hidden();
    }
}
