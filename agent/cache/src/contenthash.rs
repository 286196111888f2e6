//! Digests of what an op reads of its input, exactly BuildKit's (0.26 and later).
//!
//! | part | digest |
//! |---|---|
//! | file, link, device | sha256 of the legacy tarsum header (no name, no time), sorted attributes, bytes |
//! | directory's header | the same for the directory itself; of a transferred root: sha256 of nothing |
//! | directory | sha256 over its children in key order: relative key, then the digest as text |
//! | several paths (pattern, includes, excludes) | the same over headers and files that match, keys relative to the part before the pattern |
//!
//! What was hashed once is kept in the record's [`Tree`], so that a later question costs a lookup, and
//! after a change only what changed is hashed again. Files are read only where the tree doesn't know
//! them; a lazy state is extracted only then.

mod encode;
mod glob;
mod scan;
mod select;
mod tarsum;
#[cfg(test)]
mod tests;
mod tree;

use std::path::Path;
use std::sync::Arc;

use kiln_ids::SessionId;
use kiln_oci::Digest;
use kiln_progress::VertexProgress;

use crate::record::{Record, TreeSlot};
use crate::shared::Shared;
use crate::{Error, Ref, Result};

pub use tarsum::{FileStat, file_hasher};
pub use tree::{Change, Tree};

/// Which part of a path is hashed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChecksumOpts {
    /// The last component of the path is followed if it is a symbolic link.
    pub follow_links: bool,
    /// The path is a pattern as Go's `path.Match` reads it.
    pub wildcard: bool,
    /// Patterns below the path, as in `.dockerignore`; empty: everything.
    pub include_patterns: Vec<String>,
    /// Patterns below the path that are left out.
    pub exclude_patterns: Vec<String>,
    /// Prefixes that at least one matched path must have.
    pub required_paths: Vec<String>,
}

/// The digest of `path` in the state (`None` is scratch).
pub async fn checksum(
    state: Option<&Ref>,
    path: &str,
    opts: &ChecksumOpts,
    sessions: &[SessionId],
    progress: &VertexProgress,
) -> Result<Digest> {
    let Some(state) = state else {
        return if path == "/" {
            Ok(Digest::of(b""))
        } else {
            Err(Error::PathNotFound {
                path: path.to_owned(),
            })
        };
    };
    let shared = &state.hold.shared;
    let owner = shared.tree_owner(state.record());
    let turn = Arc::clone(&owner.tree_work).lock_owned().await;
    let question = Arc::new(Question {
        shared: Arc::clone(shared),
        owner,
        path: path.to_owned(),
        opts: opts.clone(),
    });
    // Most questions are answered by the tree alone: nothing is mounted or fetched for these.
    let (answer, turn) = ask(&question, None, turn).await?;
    match answer {
        Err(Stop::NeedsFiles) => {}
        Err(Stop::Failed(error)) => return Err(error),
        Ok(digest) => return Ok(digest),
    }
    let root = state.root_path(sessions, progress).await?;
    let (answer, _turn) = ask(&question, Some(root.path()), turn).await?;
    answer.map_err(|stop| match stop {
        Stop::Failed(error) => error,
        Stop::NeedsFiles => Error::PathNotFound {
            path: path.to_owned(),
        },
    })
}

/// What is known of a state's files without a look at them: every file of a client's directory.
#[derive(Debug, Clone)]
pub struct KnownFiles(Arc<Tree>);

/// The files of a state that were hashed. They stay as they were when this was called.
pub fn known_files(state: &Ref) -> KnownFiles {
    let shared = &state.hold.shared;
    KnownFiles(shared.tree(&shared.tree_owner(state.record())))
}

impl KnownFiles {
    /// Paths in order, without a slash before and with one after those of directories, whose digests are of
    /// themselves and not of what is in them.
    pub fn iter(&self) -> impl Iterator<Item = (String, &Digest)> {
        self.0.hashed()
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum Stop {
    /// The tree doesn't know enough and there are no files to look at.
    NeedsFiles,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

struct Question {
    shared: Arc<Shared>,
    owner: Arc<Record>,
    path: String,
    opts: ChecksumOpts,
}

type Turn = tokio::sync::OwnedMutexGuard<()>;
type Answer = std::result::Result<Digest, Stop>;

/// Works on the tree in a thread, which keeps the turn until it is done, also if nobody waits any more.
async fn ask(question: &Arc<Question>, root: Option<&Path>, turn: Turn) -> Result<(Answer, Turn)> {
    let question = Arc::clone(question);
    let root = root.map(Path::to_owned);
    tokio::task::spawn_blocking(move || (question.answer(root.as_deref()), turn))
        .await
        .map_err(|_| Error::Cancelled)
}

impl Question {
    fn answer(&self, root: Option<&Path>) -> Answer {
        let mut tree = self.shared.tree(&self.owner);
        // Taken out, so that it isn't copied when it is changed.
        *self.owner.tree.lock() = TreeSlot::Unknown;
        let inner = Arc::make_mut(&mut tree);
        inner.finish_changes();
        let answer = select::checksum(inner, root, &self.path, &self.opts);
        if inner.take_dirty() {
            self.shared.put_tree(&self.owner, tree);
        } else {
            *self.owner.tree.lock() = TreeSlot::Loaded(tree);
        }
        answer
    }
}
