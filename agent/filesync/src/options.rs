//! What callers say about a transfer, and what they hear of it.

use std::sync::Arc;

use crate::{PatternMatcher, Stat};

/// A change that the receiver made.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The entry is new or replaces another one. `digest` is set for regular files.
    Put {
        /// Relative to the root, without a leading slash.
        path: String,
        /// As it was sent, after the map function.
        stat: Box<Stat>,
        /// The digest that the hook's hasher made of the bytes.
        digest: Option<[u8; 32]>,
    },
    /// The entry and all below it are gone.
    Delete {
        /// Relative to the root, without a leading slash.
        path: String,
    },
}

/// Hashes one file while it arrives.
pub trait FileHasher: Send {
    /// Takes the next piece.
    fn update(&mut self, bytes: &[u8]);
    /// The digest of all pieces.
    fn finish(self: Box<Self>) -> [u8; 32];
}

/// Why a hook refused a change.
pub type HookError = Box<dyn std::error::Error + Send + Sync>;

/// Hears of every change that a receiver makes, from several threads and not in path order.
/// A directory's change comes before those of its entries.
pub trait ChangeHook: Send + Sync {
    /// The destination is about to be changed for the first time. Not called if nothing changes.
    fn begin(&self) -> Result<(), HookError> {
        Ok(())
    }
    /// A hasher for the file with this stat, started with whatever of the stat is hashed too.
    fn hasher(&self, stat: &Stat) -> Box<dyn FileHasher>;
    /// A change was made.
    fn change(&self, change: Change) -> Result<(), HookError>;
}

/// Changes a stat before it is used (owners, times); `false` leaves the entry out.
pub type MapStat = Arc<dyn Fn(&str, &mut Stat) -> bool + Send + Sync>;

/// Bytes moved so far; the second argument is `true` for the last report.
pub type Progress = Arc<dyn Fn(u64, bool) + Send + Sync>;

/// How the receiver tells whether a file that it has is the one that was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Differ {
    /// By type, mode, owner, size, time, device and link target.
    #[default]
    Metadata,
    /// Not at all: everything is fetched again.
    None,
}

/// Limits against hostile senders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one transfer.
    pub entries: u64,
    /// Bytes of one path or link target.
    pub path: u64,
    /// Directories below one another.
    pub depth: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4 << 20,
            path: 4096,
            depth: 1024,
        }
    }
}

/// Which entries are transferred with their metadata only.
#[derive(Debug, Clone)]
pub struct MetadataOnly {
    /// Paths that match come whole all the same.
    pub except: Option<Arc<PatternMatcher>>,
}

/// How to receive.
#[derive(Clone, Default)]
pub struct ReceiveOptions {
    /// Keep what the sender doesn't have. Nothing is compared: every file is fetched.
    pub merge: bool,
    /// How unchanged files are recognised.
    pub differ: Differ,
    /// Applied to each stat before it is compared and used.
    pub map: Option<MapStat>,
    /// Hears of each change.
    pub hook: Option<Arc<dyn ChangeHook>>,
    /// Hears of progress.
    pub progress: Option<Progress>,
    /// Fetch stats instead of files; they are left in the file `.fsutil-metadata`.
    pub metadata_only: Option<MetadataOnly>,
    /// Limits against hostile senders.
    pub limits: Limits,
    /// Kept until the last write is done, even when the transfer is dropped halfway.
    pub keep: Option<Arc<dyn std::any::Any + Send + Sync>>,
}

impl std::fmt::Debug for ReceiveOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveOptions")
            .field("merge", &self.merge)
            .field("differ", &self.differ)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What a transfer did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries that the sender has.
    pub entries: u64,
    /// Files whose bytes were fetched.
    pub files: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Entries that were deleted.
    pub deleted: u64,
}

/// Which part of a sender's tree is wanted: the `include-patterns`, `exclude-patterns` and
/// `followpaths` of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterOptions {
    /// Only what matches; everything when empty.
    pub includes: Vec<String>,
    /// Not what matches, in the syntax of `.dockerignore`.
    pub excludes: Vec<String>,
    /// Symlinks among these are followed; they and their targets become includes.
    pub follow_paths: Vec<String>,
}
