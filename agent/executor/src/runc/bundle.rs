//! A container's directory: its mounts, and the files that `runc` reads and writes.
//!
//! ```text
//! ROOT/<id>/rootfs      the root, mounted
//!          /mounts/N    each further mount, mounted; runc binds it to its place
//!          /config.json
//!          /log.json    what runc has to say
//!          /pid         written once the process runs
//! ```
//! Invariant: nothing is ever removed recursively here, for below a mount that could not be removed
//! are a user's files.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use kiln_sys::mount;
use kiln_sys::rootfs::{Creation, RootDir};
use rustix::fs::FileType;

use crate::sources::detached;
use crate::{ContainerMount, ContainerSpec, ExecutorError, ProcessSpec, prepare};

/// The directory of one container.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) dir: PathBuf,
    /// Targets and mounted sources.
    pub(super) mounts: Vec<(PathBuf, PathBuf)>,
    mounted: Vec<PathBuf>,
}

impl Bundle {
    /// Mounts everything. On failure nothing stays.
    pub(super) fn create(
        root: &Path,
        container: &ContainerSpec,
        process: &ProcessSpec,
    ) -> Result<Self, ExecutorError> {
        let dir = root.join(&container.id);
        fs::create_dir(&dir).map_err(prepare(|| format!("create {}", dir.display())))?;
        let mut bundle = Self {
            dir,
            mounts: Vec::new(),
            mounted: Vec::new(),
        };
        bundle.fill(container, process)?;
        Ok(bundle)
    }

    fn fill(
        &mut self,
        container: &ContainerSpec,
        process: &ProcessSpec,
    ) -> Result<(), ExecutorError> {
        let root = self.rootfs();
        let parts = self.dir.join("mounts");
        for dir in [&root, &parts] {
            fs::create_dir(dir).map_err(prepare(|| format!("create {}", dir.display())))?;
        }
        // Pushed first: unmounting what isn't mounted does nothing.
        self.mounted.push(root.clone());
        mount::mount_all(&container.root.specs, &root).map_err(mount_failed("/"))?;
        let opened = RootDir::open(&root).map_err(prepare(|| "open the root".into()))?;
        let owner = Creation {
            mode: 0o755,
            uid: process.uid,
            gid: process.gid,
        };
        opened
            .create_dir_all(&process.cwd, owner)
            .map_err(prepare(|| {
                format!("create working directory {}", process.cwd.display())
            }))?;
        drop(opened);
        for (number, entry) in container.mounts.iter().enumerate() {
            let at = parts.join(number.to_string());
            self.mounted.push(at.clone());
            place(entry, &at, &parts)?;
            self.mounts.push((entry.target.clone(), at));
        }
        Ok(())
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Unmounts everything and removes the directory. A second call does nothing.
    pub(super) fn remove(&mut self) {
        if self.dir.as_os_str().is_empty() {
            return;
        }
        for path in self.mounted.drain(..).rev() {
            if let Err(error) = mount::unmount(&path) {
                tracing::warn!(%error, "a container's mount stays behind");
            }
            remove_entry(&path);
        }
        for name in ["config.json", "log.json", "pid", "rootfs", "mounts"] {
            remove_entry(&self.dir.join(name));
        }
        let dir = std::mem::take(&mut self.dir);
        if let Err(error) = fs::remove_dir(&dir) {
            tracing::warn!(path = ?dir, %error, "a container's directory stays behind");
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.remove();
    }
}

fn remove_entry(path: &Path) {
    // What isn't there needs no removing, and what can't be removed shows in the directory above.
    if fs::remove_file(path).is_err() {
        let _ = fs::remove_dir(path);
    }
}

/// Clears what an earlier daemon left of a container.
pub(super) fn clear_stale(dir: &Path) {
    let mounted = mount::mounts_below(dir).unwrap_or_default();
    let mut bundle = Bundle {
        mounts: Vec::new(),
        mounted: mounted.into_iter().rev().collect(),
        dir: dir.to_owned(),
    };
    for entry in fs::read_dir(dir.join("mounts"))
        .into_iter()
        .flatten()
        .flatten()
    {
        bundle.mounted.push(entry.path());
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("exec-") {
            remove_entry(&entry.path());
        }
    }
    bundle.remove();
}

/// Mounts one source at `at`, whose kind (file or directory) follows the source.
fn place(entry: &ContainerMount, at: &Path, scratch: &Path) -> Result<(), ExecutorError> {
    let target = entry.target.display();
    let mounted = detached(entry, scratch)?;
    let stat = rustix::fs::fstat(&mounted)
        .map_err(io::Error::from)
        .map_err(prepare(|| format!("stat the source of {target}")))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        fs::create_dir(at)
    } else {
        fs::write(at, "")
    }
    .map_err(prepare(|| format!("create {}", at.display())))?;
    mount::attach(mounted.as_fd(), at).map_err(prepare(|| format!("mount {target}")))
}

fn mount_failed(target: &str) -> impl FnOnce(mount::MountError) -> ExecutorError {
    let action = format!("mount {target}");
    move |error| ExecutorError::Prepare {
        action,
        source: io::Error::other(error),
    }
}
