//! Sync epochs: commits are visible at once and durable after a batched barrier.
//!
//! ```text
//! rows of epoch N written ──▶ barrier: N+1 begins ─▶ syncfs ─▶ row "N is durable", synced
//!        │                                                        │
//!        └ lost with the machine until here ───────────────────────┘ kept from here on
//! ```
//!
//! The epoch begins in the writer thread, so every row that carries N was written, and its files
//! before it, ahead of the `syncfs` that makes N durable. After an unclean start rows of later epochs
//! are dropped, whether or not SQLite had brought them to the disk: their files may not have been.
//!
//! A background thread makes a barrier [`QUIET`] after the last commit, and at the latest [`LATEST`]
//! after the first that isn't durable. What users name forces one with [`Epochs::barrier`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::error::chain;
use crate::{Database, Error, Result};

/// How long after the last commit the background barrier comes.
const QUIET: Duration = Duration::from_secs(1);
/// How long after the first commit it comes even if commits go on.
const LATEST: Duration = Duration::from_secs(5);

/// A handle on the epochs of one root. Cheap to clone.
#[derive(Clone)]
pub struct Epochs {
    current: Arc<AtomicU64>,
    signal: Arc<Signal>,
}

/// What the background thread waits for.
#[derive(Default)]
pub(crate) struct Signal {
    state: Mutex<Wanted>,
    changed: Condvar,
}

/// A failure is text because many callers share it.
type Answer = oneshot::Sender<std::result::Result<(), String>>;

#[derive(Default)]
struct Wanted {
    /// First and last commit since the last barrier.
    dirty: Option<(Instant, Instant)>,
    callers: Vec<Answer>,
    closed: bool,
}

impl Signal {
    /// Called after each commit.
    pub(crate) fn committed(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let first = state.dirty.map_or(now, |(first, _)| first);
        let was_clean = state.dirty.replace((first, now)).is_none();
        drop(state);
        if was_clean {
            self.changed.notify_one();
        }
    }

    /// Asks for a barrier. False when the root is closed.
    fn ask(&self, answer: Answer) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        state.callers.push(answer);
        drop(state);
        self.changed.notify_one();
        true
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }
}

impl Epochs {
    /// Starts the background thread. `durable` is what the database has.
    pub(crate) fn start(
        root: &Path,
        database: &Database,
        current: Arc<AtomicU64>,
        signal: Arc<Signal>,
    ) -> Result<Self> {
        let barrier = Barrier {
            directory: File::open(root).map_err(Error::io(root))?,
            wal: root.join("state.db-wal"),
            database: database.clone(),
            current: Arc::clone(&current),
        };
        let this = Self {
            current,
            signal: Arc::clone(&signal),
        };
        std::thread::Builder::new()
            .name("kiln-epochs".into())
            .spawn(move || run(&barrier, &signal))
            .map_err(Error::io(root))?;
        Ok(this)
    }

    /// The epoch that rows get now. Only meaningful inside of a write closure; SQL has `current_epoch()`.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    /// Returns once everything that was committed before the call is durable. Callers share barriers.
    pub async fn barrier(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        if !self.signal.ask(answer) {
            return Err(Error::Closed);
        }
        match answered.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(message)) => Err(Error::Sync(std::io::Error::other(message))),
            Err(_) => Err(Error::Closed),
        }
    }
}

impl std::fmt::Debug for Epochs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epochs")
            .field("current", &self.current())
            .finish_non_exhaustive()
    }
}

fn run(barrier: &Barrier, signal: &Signal) {
    while let Some(callers) = next(signal) {
        let result = barrier.make();
        if let Err(error) = &result {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "a sync barrier failed"
            );
        }
        let result = result.map_err(|error| chain(&error));
        for caller in callers {
            let _ = caller.send(result.clone());
        }
    }
}

/// Waits until a barrier is due. `None` when the root is closed.
fn next(signal: &Signal) -> Option<Vec<Answer>> {
    let mut state = signal.state.lock();
    loop {
        if state.closed {
            return None;
        }
        let due = state
            .dirty
            .map(|(first, last)| (last + QUIET).min(first + LATEST));
        let is_due = due.is_some_and(|due| due <= Instant::now());
        if is_due || !state.callers.is_empty() {
            state.dirty = None;
            return Some(std::mem::take(&mut state.callers));
        }
        match due {
            Some(due) => {
                let _ = signal.changed.wait_until(&mut state, due);
            }
            None => signal.changed.wait(&mut state),
        }
    }
}

/// What a barrier works on.
pub(crate) struct Barrier {
    directory: File,
    wal: PathBuf,
    database: Database,
    current: Arc<AtomicU64>,
}

impl Barrier {
    fn make(&self) -> Result<()> {
        let current = Arc::clone(&self.current);
        let ended = self
            .database
            .write_unnoticed(move |_| Ok(current.fetch_add(1, Ordering::AcqRel)))?;
        rustix::fs::syncfs(&self.directory).map_err(|error| Error::Sync(error.into()))?;
        self.database.write_unnoticed(move |tx| {
            let durable = ended.cast_signed();
            tx.prepare_cached("UPDATE epoch_state SET durable = max(durable, ?1)")?
                .execute([durable])
        })?;
        match File::open(&self.wal) {
            Ok(wal) => wal.sync_data().map_err(Error::Sync),
            // Checkpointed and gone, which syncs the database file.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::Sync(error)),
        }
    }
}
