//! A mount that lasts as long as a value.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{MountError, MountSpec, Result, mount_all, unmount};

/// Mounts at a fresh directory; dropping it unmounts and removes the directory.
#[derive(Debug)]
pub struct TempMount {
    path: PathBuf,
}

impl TempMount {
    /// Mounts `specs` at a new directory (mode 0700) in `parent`, which is made if it isn't there.
    pub fn new(specs: &[MountSpec], parent: &Path) -> Result<Self> {
        let path = fresh_directory(parent)?;
        match mount_all(specs, &path) {
            Ok(()) => Ok(Self { path }),
            Err(error) => {
                // An empty directory is all that could stay; the mount's error matters more.
                let _ = std::fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts now, and tells if that failed.
    pub fn unmount(mut self) -> Result<()> {
        let path = std::mem::take(&mut self.path);
        remove(&path)
    }
}

fn fresh_directory(parent: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let error = |path: &Path, source| MountError::Path {
        path: path.to_owned(),
        source,
    };
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("mount-{}-{number}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(parent).map_err(|e| error(parent, e))?;
            }
            Err(e) => return Err(error(&path, e)),
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    unmount(path)?;
    std::fs::remove_dir(path).map_err(|source| MountError::Path {
        path: path.to_owned(),
        source,
    })
}

impl Drop for TempMount {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = ?self.path, %error, "a temporary mount stays behind");
        }
    }
}
