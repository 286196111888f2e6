//! Keeps a record's hash tree up to date while files arrive.

use kiln_cache::contenthash::{self, FileStat, Tree};
use kiln_filesync::{Change, ChangeHook, FileHasher, HookError, Stat};
use kiln_oci::{Digest, Digester};
use parking_lot::Mutex;

/// Applies a receiver's changes to a hash tree.
pub(super) struct TreeHook(Mutex<State>);

/// Runs before the first change; its failure stops the transfer.
type First = Box<dyn FnOnce() -> Result<(), kiln_cache::Error> + Send>;

#[derive(Default)]
struct State {
    tree: Tree,
    changed: bool,
    first: Option<First>,
}

impl TreeHook {
    pub(super) fn new(tree: Tree) -> Self {
        Self(Mutex::new(State {
            tree,
            ..State::default()
        }))
    }

    /// Calls `first` before the first change is made, if there is any.
    pub(super) fn on_first_change(
        &self,
        first: impl FnOnce() -> Result<(), kiln_cache::Error> + Send + 'static,
    ) {
        self.0.lock().first = Some(Box::new(first));
    }

    /// Whether anything changed.
    pub(super) fn changed(&self) -> bool {
        self.0.lock().changed
    }

    /// The tree as it is now.
    pub(super) fn take(&self) -> Tree {
        let mut state = self.0.lock();
        state.first = None;
        std::mem::take(&mut state.tree)
    }
}

struct Hasher(Digester);

impl FileHasher for Hasher {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(self: Box<Self>) -> [u8; 32] {
        *self.0.finish().as_bytes()
    }
}

fn file_stat(stat: &Stat) -> FileStat {
    FileStat {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        linkname: stat.linkname.clone(),
        devmajor: stat.devmajor,
        devminor: stat.devminor,
        xattrs: stat
            .xattrs
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}

impl ChangeHook for TreeHook {
    fn begin(&self) -> Result<(), HookError> {
        let first = {
            let mut state = self.0.lock();
            state.changed = true;
            state.first.take()
        };
        if let Some(first) = first {
            first()?;
        }
        Ok(())
    }

    fn hasher(&self, stat: &Stat) -> Box<dyn FileHasher> {
        Box::new(Hasher(contenthash::file_hasher(&file_stat(stat))))
    }

    fn change(&self, change: Change) -> Result<(), HookError> {
        match change {
            Change::Put { path, stat, digest } => {
                let stat = file_stat(&stat);
                let digest = digest.map_or_else(
                    || contenthash::file_hasher(&stat).finish(),
                    Digest::from_bytes,
                );
                let change = contenthash::Change::Put {
                    stat: &stat,
                    digest,
                };
                self.0.lock().tree.apply_change(&path, change);
            }
            Change::Delete { path } => {
                let mut state = self.0.lock();
                state.tree.apply_change(&path, contenthash::Change::Delete);
            }
        }
        Ok(())
    }
}
