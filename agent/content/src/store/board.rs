//! Who writes what: one writer per key, and how far each has come for those that follow it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::OwnedMutexGuard;

/// The right to write under a key.
pub(crate) type Turn = OwnedMutexGuard<()>;

#[derive(Default)]
pub(crate) struct Board {
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    pub(crate) state: Mutex<BoardState>,
    pub(crate) moved: Condvar,
}

#[derive(Default)]
pub(crate) struct BoardState {
    pub(crate) writing: HashMap<String, Progress>,
    /// Generations of ingest files that dropped writers left, by key.
    pub(crate) left: HashMap<String, u64>,
    /// Generations whose bytes turned out to be wrong.
    pub(crate) wrong: HashSet<u64>,
    last_generation: u64,
}

/// How far a writer has come.
#[derive(Clone)]
pub(crate) struct Progress {
    /// Bytes that are in the file.
    pub(crate) written: u64,
    pub(crate) file: Arc<File>,
    /// Tells files of one key apart: what a follower has read is only good for the generation that it read from.
    pub(crate) generation: u64,
}

impl BoardState {
    pub(crate) fn next_generation(&mut self) -> u64 {
        self.last_generation += 1;
        self.last_generation
    }
}

impl Board {
    /// Waits for the right to write under `key`.
    pub(crate) async fn turn(&self, key: &str) -> Turn {
        let lock = {
            let mut turns = self.turns.lock();
            turns.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(turns.entry(key.to_owned()).or_default())
        };
        lock.lock_owned().await
    }

    pub(crate) fn publish(&self, key: &str, progress: Progress) {
        self.state.lock().writing.insert(key.to_owned(), progress);
        self.moved.notify_all();
    }

    /// Wakes all followers; something that they look at was changed before.
    pub(crate) fn notify(&self) {
        // Under the lock, so that a follower that has just looked doesn't miss it.
        let _state = self.state.lock();
        self.moved.notify_all();
    }

    /// The writer is gone; what it wrote is `rest`.
    pub(crate) fn retract(&self, key: &str, generation: u64, rest: Rest) {
        let mut state = self.state.lock();
        state.writing.remove(key);
        state.left.remove(key);
        match rest {
            Rest::Left => drop(state.left.insert(key.to_owned(), generation)),
            Rest::Wrong => drop(state.wrong.insert(generation)),
            Rest::Right => {}
        }
        drop(state);
        self.moved.notify_all();
    }
}

/// What becomes of the bytes of a writer that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// They wait for the next writer.
    Left,
    /// They were wrong, or not all of them could be written.
    Wrong,
    /// They are the blob's.
    Right,
}
