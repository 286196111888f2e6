//! Which files of a folder change, of those that a build sees.
//!
//! Each directory is watched by itself, so that one that the ignore file leaves out costs nothing, however large it is.
//!
//! Invariants: reading is no change; what a build of this watch writes isn't either; nothing in `.git` counts, since
//! asking git for the state of a folder writes there.

use std::path::{Path, PathBuf};

use futures::Stream;
use kiln_client::build::Ignored;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::Failure;

pub(super) struct Changes {
    context: PathBuf,
    dockerfile: PathBuf,
    own: Option<PathBuf>,
    ignored: Ignored,
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<PathBuf>,
}

impl Changes {
    /// Watches from now on. `own` is what builds write.
    pub(super) fn of(
        context: &Path,
        dockerfile: &Path,
        own: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let (sender, events) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let changed = match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
                EventKind::Access(_) => false,
                _ => true,
            };
            if changed {
                for path in event.paths {
                    // Nobody listens any more: the watcher goes too.
                    let _ = sender.send(path);
                }
            }
        })
        .map_err(|error| failed(&error))?;
        let mut changes = Self {
            ignored: Ignored::of(context, dockerfile),
            context: context.into(),
            dockerfile: dockerfile.into(),
            own,
            watcher,
            events,
        };
        changes.add(context)?;
        // A Dockerfile elsewhere.
        if let Some(directory) = dockerfile.parent()
            && !directory.starts_with(context)
        {
            changes.watch(directory)?;
        }
        Ok(changes)
    }

    /// Paths, relative to the folder, as they change.
    pub(super) fn stream(self) -> impl Stream<Item = String> {
        futures::stream::unfold(self, |mut changes| async move {
            let path = changes.next().await?;
            Some((path, changes))
        })
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            let path = self.events.recv().await?;
            if !self.counts(&path) {
                continue;
            }
            if path.file_name().is_some_and(is_ignore_file) {
                self.ignored = Ignored::of(&self.context, &self.dockerfile);
                self.add_later(&self.context.clone());
            } else {
                self.add_later(&path);
            }
            let shown = path.strip_prefix(&self.context).unwrap_or(&path);
            return Some(shown.display().to_string());
        }
    }

    fn counts(&self, path: &Path) -> bool {
        let own = self.own.as_ref().is_some_and(|own| path.starts_with(own));
        !own && !self.in_git(path) && !self.ignored.leaves_out(path)
    }

    fn in_git(&self, path: &Path) -> bool {
        let below = path.strip_prefix(&self.context).unwrap_or(path);
        below.components().any(|part| part.as_os_str() == ".git")
    }

    /// A directory that came while the folder is watched; one that went again doesn't matter.
    fn add_later(&mut self, path: &Path) {
        if let Err(failure) = self.add(path) {
            tracing::warn!(%failure, "changes below a new directory aren't seen");
        }
    }

    /// Watches a directory and those below it.
    fn add(&mut self, directory: &Path) -> Result<(), Failure> {
        if !directory.is_dir() || directory.is_symlink() && directory != self.context {
            return Ok(());
        }
        self.watch(directory)?;
        let Ok(entries) = std::fs::read_dir(directory) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let own = self.own.as_ref().is_some_and(|own| path.starts_with(own));
            if is_directory
                && !own
                && !self.in_git(&path)
                && !self.ignored.leaves_out_all_below(&path)
            {
                self.add(&path)?;
            }
        }
        Ok(())
    }

    fn watch(&mut self, directory: &Path) -> Result<(), Failure> {
        let watched = self.watcher.watch(directory, RecursiveMode::NonRecursive);
        match watched {
            // It went between the look and the watch.
            Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => Ok(()),
            outcome => outcome.map_err(|error| failed(&error)),
        }
    }
}

fn is_ignore_file(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().ends_with(".dockerignore")
}

fn failed(error: &notify::Error) -> Failure {
    let hint = match error.kind {
        ErrorKind::MaxFilesWatch => {
            "Leave large folders out with .dockerignore, or raise fs.inotify.max_user_watches."
        }
        _ => "",
    };
    Failure::user(format!("The folder can’t be watched: {error}."), hint)
}
