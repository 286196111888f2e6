//! A build context in a temporary directory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

/// A directory with a Dockerfile and files.
#[derive(Debug)]
pub struct Context {
    path: PathBuf,
    /// Removed with the context, unless the directory is somebody else's.
    _own: Option<TempDir>,
}

impl Context {
    /// A context with this Dockerfile.
    pub fn new(dockerfile: &str) -> Result<Self> {
        let own = tempfile::Builder::new().prefix("context-").tempdir()?;
        let context = Self {
            path: own.path().to_path_buf(),
            _own: Some(own),
        };
        context.put("Dockerfile", dockerfile)?;
        Ok(context)
    }

    /// A directory that is there already and stays.
    pub fn existing(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            _own: None,
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file, with the directories above it.
    pub fn put(&self, path: &str, contents: impl AsRef<[u8]>) -> Result<&Self> {
        let target = self.path().join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(target, contents)?;
        Ok(self)
    }

    /// Sets a file's permissions.
    pub fn mode(&self, path: &str, mode: u32) -> Result<&Self> {
        fs::set_permissions(self.path().join(path), fs::Permissions::from_mode(mode))?;
        Ok(self)
    }

    /// Makes a symbolic link.
    pub fn link(&self, path: &str, target: &str) -> Result<&Self> {
        symlink(target, self.path().join(path))?;
        Ok(self)
    }

    /// Removes a file.
    pub fn remove(&self, path: &str) -> Result<&Self> {
        fs::remove_file(self.path().join(path))?;
        Ok(self)
    }
}
