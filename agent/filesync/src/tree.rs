//! What a sender sends: anything that can be walked in path order and whose files can be opened.

use std::io::{self, Read};

use crate::{Error, Stat};

/// What to do after an entry was visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    Continue,
    /// Go on, but not into this directory (or, after a file, not into the rest of its directory).
    SkipDir,
}

/// Called for each entry of a walk.
pub type Visitor<'a> = dyn FnMut(Stat) -> Result<Step, Error> + 'a;

/// A tree of files to be sent.
///
/// Implementers visit parents before children and siblings in byte order, with paths relative to
/// the root, without the root itself; and open any regular file that they visited.
pub trait Tree: Send + Sync {
    /// Visits all entries.
    fn walk(&self, visit: &mut Visitor<'_>) -> Result<(), Error>;
    /// Opens a file. `NotFound` is for files that are gone since they were visited.
    fn open(&self, path: &str) -> io::Result<Box<dyn Read + Send>>;
}
