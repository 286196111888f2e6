//! A mount as data, a set of mounts that stays valid while somebody holds it, and mounting them.
//!
//! Mounts are made detached with the file-descriptor API (`fsopen`, `open_tree`) and then moved to
//! where they belong; a kernel without it gets classic `mount(2)`. Invariants: a call that fails
//! leaves nothing mounted; [`TempMount`] unmounts when it is dropped; overlay layers may be more
//! than a page of text.

mod attach;
mod options;
mod overlay;
mod table;
mod temp;

use std::path::PathBuf;
use std::sync::Arc;

pub use attach::{
    attach, attach_to, bind, clone_fd, clone_tree, detached, make_private, mount_all,
    set_attributes, unmount, unmount_one,
};
pub use options::{Attributes, MountOptions, Propagation};
pub use overlay::overlay_collects_options;
pub use table::{mounts_below, unmount_below};
pub use temp::TempMount;

/// Why a mount could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel refused a mount.
    #[error("mount {fstype} at {target:?}: {source}")]
    Mount {
        /// The file system, or `bind`.
        fstype: String,
        /// Where it should have gone; empty for a detached mount.
        target: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel refused an option.
    #[error("mount {fstype}: option {option:?}: {source}")]
    Option {
        /// The file system.
        fstype: String,
        /// The option, without its value where that is a long list.
        option: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A mount could not be removed.
    #[error("unmount {target:?}: {source}")]
    Unmount {
        /// Where it is.
        target: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A mount point could not be made, or the table of mounts not be read.
    #[error("{path:?}: {source}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// There was nothing to mount.
    #[error("nothing to mount")]
    Empty,
}

/// What mounting returns.
pub type Result<T, E = MountError> = std::result::Result<T, E>;

/// One mount, as `mount(8)` would take it, without its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// `overlay`, `bind`, `tmpfs`, …
    pub fstype: String,
    /// A path for `bind`; any word for the others.
    pub source: PathBuf,
    /// Options in order: `ro`, `rbind`, `lowerdir=…`.
    pub options: Vec<String>,
}

impl MountSpec {
    /// A bind mount of `source`, read-only if asked.
    pub fn bind(source: impl Into<PathBuf>, readonly: bool) -> Self {
        Self {
            fstype: "bind".into(),
            source: source.into(),
            options: vec!["rbind".into(), if readonly { "ro" } else { "rw" }.into()],
        }
    }
}

/// What a holder of mounts keeps alive: a snapshot's lease, a temporary directory, a lock.
pub trait Keep: Send + Sync {}
impl<T: Send + Sync> Keep for T {}

/// A file-system state that can be mounted. The state is kept until the last clone is dropped.
#[derive(Clone)]
pub struct Mountable {
    /// Applied in order, each at the same target. One bind mount means: the files are at its source.
    pub specs: Vec<MountSpec>,
    keep: Arc<dyn Keep>,
}

impl Mountable {
    /// Mounts that need `keep` to stay valid.
    pub fn new(specs: Vec<MountSpec>, keep: impl Keep + 'static) -> Self {
        Self {
            specs,
            keep: Arc::new(keep),
        }
    }

    /// The same mounts, made read-only.
    pub fn readonly(&self) -> Self {
        let mut specs = self.specs.clone();
        for spec in &mut specs {
            spec.options
                .retain(|option| option != "rw" && option != "ro");
            spec.options.push("ro".into());
        }
        Self {
            specs,
            keep: Arc::clone(&self.keep),
        }
    }
}

impl std::fmt::Debug for Mountable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mountable")
            .field("specs", &self.specs)
            .finish_non_exhaustive()
    }
}
