//! The runtime directory and the one owner of it.
//!
//! Invariants: the directory is this user's and nobody else may look into it; who holds the lock may
//! remove what a dead owner left there; the lock is the kernel's and dies with its holder, whatever way.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use kiln_config::HostPaths;
use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;

/// Why this process can't be the owner.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstanceError {
    /// Somebody else is.
    #[error("another kiln-vmd (pid {pid}) serves {}: use it, or stop it first", .runtime.display())]
    AnotherRuns {
        /// Its process id, as it wrote it.
        pid: String,
        /// What it owns.
        runtime: PathBuf,
    },
    /// The directory isn't safe.
    #[error("{} {problem}: remove it, or set KILN_RUNTIME_DIR", .path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file system said no.
    #[error("{action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstanceError {
    let path = path.to_owned();
    move |source| InstanceError::Io {
        action,
        path,
        source,
    }
}

/// Held for as long as this process owns the runtime directory.
#[derive(Debug)]
pub(crate) struct Instance {
    _lock: File,
}

impl Instance {
    /// Makes the directories and takes the lock.
    pub(crate) fn take(paths: &HostPaths) -> Result<Self, InstanceError> {
        private_directory(&paths.runtime)?;
        for directory in [&paths.state, &paths.config] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(io_error("create", directory))?;
        }
        let path = paths.lock_file();
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            // Only for the message; a lock that was taken a moment ago may be empty still.
            drop((&lock).take(20).read_to_string(&mut pid));
            return Err(InstanceError::AnotherRuns {
                pid: pid.trim().to_owned(),
                runtime: paths.runtime.clone(),
            });
        }
        lock.set_len(0).map_err(io_error("write", &path))?;
        writeln!(&lock, "{}", std::process::id()).map_err(io_error("write", &path))?;
        private_directory(&paths.machine_dir())?;
        Ok(Self { _lock: lock })
    }

    /// Binds a socket for this user alone. What lies there is of a dead owner: the lock is ours.
    #[expect(clippy::unused_self, reason = "only the owner may bind")]
    pub(crate) fn bind(&self, path: &Path) -> Result<UnixListener, InstanceError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", path)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(io_error("bind", path))?;
        // Nobody got through the directory in between.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(io_error("bind", path))?;
        Ok(listener)
    }
}

fn private_directory(path: &Path) -> Result<(), InstanceError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error("create", path))?;
    let unsafe_because = |problem| InstanceError::Unsafe {
        path: path.to_owned(),
        problem,
    };
    let metadata = fs::symlink_metadata(path).map_err(io_error("look at", path))?;
    if !metadata.is_dir() {
        return Err(unsafe_because("is a link or no directory"));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(unsafe_because("belongs to another user"));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(io_error("close to others", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(root: &Path) -> HostPaths {
        HostPaths {
            runtime: root.join("run"),
            state: root.join("state"),
            config: root.join("config"),
        }
    }

    #[tokio::test]
    async fn there_is_one_owner_and_its_leftovers_go() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let first = Instance::take(&paths).unwrap();
        let socket = paths.host_socket();
        drop(first.bind(&socket).unwrap());
        let error = Instance::take(&paths).unwrap_err().to_string();
        let own = format!("pid {}", std::process::id());
        assert!(error.contains(&own), "{error}");
        drop(first);
        let second = Instance::take(&paths).unwrap();
        let _listener = second.bind(&socket).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&socket), 0o600);
        assert_eq!(mode(&paths.runtime), 0o700);
        assert_eq!(mode(&paths.lock_file()), 0o600);
    }

    #[test]
    fn a_directory_that_others_may_change_is_closed_or_refused() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        fs::create_dir(&paths.runtime).unwrap();
        fs::set_permissions(&paths.runtime, Permissions::from_mode(0o777)).unwrap();
        drop(Instance::take(&paths).unwrap());
        assert_eq!(fs::metadata(&paths.runtime).unwrap().mode() & 0o777, 0o700);
        fs::rename(&paths.runtime, root.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &paths.runtime).unwrap();
        let error = Instance::take(&paths).unwrap_err().to_string();
        assert!(error.contains("is a link"), "{error}");
    }
}
