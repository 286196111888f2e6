//! The snapshots of a state root.
//!
//! ```text
//! ROOT/snapshots/<id>/fs      the files: with overlayfs a layer, with plain copies the whole state
//! ROOT/snapshots/<id>/work    overlayfs's work directory, while the snapshot is written
//! ROOT/snapshots/.empty/      what a state without layers is mounted from
//! ROOT/snapshots/.layers/     or .copies/: what the snapshots here are, for whoever opens them next
//! ROOT/snapshots/.gone-*      on the way out; a name is freed at once, its files a little later
//! ```
//!
//! A snapshot doesn't know its parents: whoever mounts it gives the stack of snapshots that make the
//! state, the lowest first. With overlayfs a snapshot is valid below any others, so layers can be
//! extracted side by side and stacked afterwards. Once committed (which is a word of the records, not
//! an act on files) its files are never written again.

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_sys::mount::{MountSpec, TempMount, overlay_collects_options};
use rustix::fs::{Gid, Uid};

use crate::Error;
use crate::apply::{Applied, ApplyOptions, Whiteouts, apply};
use crate::copy::copy_tree;
use crate::remove::remove_tree;
use crate::stack::StackDir;
use crate::tar::Limits;

/// The mark of snapshots that are layers.
const LAYERS: &str = ".layers";
/// The mark of snapshots that are whole states.
const COPIES: &str = ".copies";

/// How states are made of snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Overlay mounts of layers.
    Overlay {
        /// As an unprivileged user: `userxattr`.
        userxattr: bool,
    },
    /// Each snapshot is a whole state, copied from its parent. Works everywhere, slowly.
    Copy,
}

/// What a snapshot occupies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of disk blocks; an inode with several names counts once.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// All snapshots of a state root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    driver: Driver,
    gone: AtomicU64,
}

impl Snapshots {
    /// Snapshots in the directory, with the best driver that works there.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let root = root.into();
        make_dir(&root)?;
        let overlay = [false, true]
            .map(|userxattr| Driver::Overlay { userxattr })
            .into_iter()
            .find(|driver| probe(&root, *driver));
        let driver = match (holds_copies(&root), overlay) {
            (Some(false), None) => return Err(Error::NoOverlay(root)),
            (Some(false) | None, Some(driver)) => driver,
            (Some(true), _) | (None, None) => Driver::Copy,
        };
        if driver == Driver::Copy {
            tracing::warn!(path = ?root, "snapshots are copies: each step copies what it is based on");
        }
        Self::with_driver(root, driver)
    }

    /// Snapshots in the directory with a driver of choice.
    pub fn with_driver(root: impl Into<PathBuf>, driver: Driver) -> Result<Self, Error> {
        let root = root.into();
        make_dir(&root)?;
        let snapshots = Self {
            inner: Arc::new(Inner {
                root,
                driver,
                gone: AtomicU64::new(0),
            }),
        };
        make_dir(&snapshots.inner.root.join(".empty"))?;
        let kind = match driver {
            Driver::Copy => COPIES,
            Driver::Overlay { .. } => LAYERS,
        };
        make_dir(&snapshots.inner.root.join(kind))?;
        snapshots.sweep()?;
        Ok(snapshots)
    }

    /// The driver in use.
    pub fn driver(&self) -> Driver {
        self.inner.driver
    }

    /// Whether a snapshot is a layer that doesn't depend on those below it.
    pub fn layers_are_independent(&self) -> bool {
        matches!(self.inner.driver, Driver::Overlay { .. })
    }

    /// Makes a snapshot to write, on top of `stack`. What was there under the name is removed.
    pub fn create(&self, id: &str, stack: &[&str]) -> Result<(), Error> {
        let dir = self.dir(id)?;
        self.remove(id)?;
        let top = stack.last().map(|top| self.files(top)).transpose()?;
        make_dir(&dir)?;
        let files = dir.join("fs");
        std::fs::DirBuilder::new()
            .mode(0o755)
            .create(&files)
            .map_err(Error::io("failed to make", &files))?;
        make_dir(&dir.join("work"))?;
        rustix::fs::chmod(&files, rustix::fs::Mode::from_raw_mode(0o755))
            .map_err(|e| Error::io("failed to set the mode of", &files)(e.into()))?;
        let Some(top) = top else { return Ok(()) };
        if self.inner.driver == Driver::Copy {
            return copy_tree(&top, &files);
        }
        // The root of an overlay mount shows the uppermost layer's owner.
        let below = std::fs::metadata(&top).map_err(Error::io("failed to stat", &top))?;
        rustix::fs::chown(
            &files,
            Some(Uid::from_raw(below.uid())),
            Some(Gid::from_raw(below.gid())),
        )
        .map_err(|e| Error::io("failed to set the owner of", &files)(e.into()))
    }

    /// The directory of a snapshot's files.
    pub fn files(&self, id: &str) -> Result<PathBuf, Error> {
        Ok(self.dir(id)?.join("fs"))
    }

    /// Whether the snapshot is there.
    pub fn exists(&self, id: &str) -> bool {
        self.files(id).is_ok_and(|files| files.is_dir())
    }

    /// Mounts of the state that `stack` makes (the lowest first), to read. Where the lowest layer is a
    /// difference to something that isn't mounted, `is_difference` keeps its whiteouts from showing.
    pub fn read_only(&self, stack: &[&str], is_difference: bool) -> Result<Vec<MountSpec>, Error> {
        let mut layers = self.layers(stack)?;
        let empty = self.inner.root.join(".empty");
        if is_difference && layers.len() == 1 && self.layers_are_independent() {
            layers.insert(0, empty.clone());
        }
        let source = match layers.len() {
            0 => empty,
            1 => layers.remove(0),
            _ => return Ok(vec![self.overlay(&layers, None)]),
        };
        Ok(vec![MountSpec::bind(source, true)])
    }

    /// Mounts of the state that `stack` and the snapshot `id` on top make, to write into `id`. An
    /// overlay is volatile: nothing of it is durable before the next epoch.
    pub fn writable(&self, stack: &[&str], id: &str) -> Result<Vec<MountSpec>, Error> {
        let layers = self.layers(stack)?;
        if layers.is_empty() || self.inner.driver == Driver::Copy {
            return Ok(vec![MountSpec::bind(self.files(id)?, false)]);
        }
        Ok(vec![self.overlay(&layers, Some(&self.dir(id)?))])
    }

    /// The directories that make up a state, the lowest first.
    pub fn layers(&self, stack: &[&str]) -> Result<Vec<PathBuf>, Error> {
        let stack = match self.inner.driver {
            Driver::Copy => &stack[stack.len().saturating_sub(1)..],
            Driver::Overlay { .. } => stack,
        };
        // The kernel refuses a layer twice; the upper place of two is what counts.
        let mut seen = HashSet::new();
        let mut layers = Vec::with_capacity(stack.len());
        for id in stack.iter().rev() {
            if seen.insert(*id) {
                layers.push(self.files(id)?);
            }
        }
        layers.reverse();
        Ok(layers)
    }

    /// Extracts a layer into the snapshot `id`, made by [`create`](Self::create) (with the stack below
    /// it, where snapshots are whole states). Nothing is ever below a lowest layer, so whiteouts in it
    /// have no effect. A failure leaves the snapshot to be removed.
    pub fn apply(
        &self,
        id: &str,
        layer: impl Read,
        is_lowest: bool,
        limits: Limits,
    ) -> Result<Applied, Error> {
        let options = ApplyOptions {
            whiteouts: match self.inner.driver {
                Driver::Overlay { userxattr } if !is_lowest => Whiteouts::Overlay { userxattr },
                Driver::Overlay { .. } | Driver::Copy => Whiteouts::Remove,
            },
            limits,
            skip_devices: !rustix::process::geteuid().is_root() || self.is_unprivileged(),
            owner: None,
        };
        apply(layer, &self.files(id)?, &options).map_err(|source| Error::Apply {
            id: id.to_owned(),
            source,
        })
    }

    /// Gives directories that a layer implied the attributes that they have below. Call it when the
    /// layers below are extracted.
    pub fn settle(&self, id: &str, implied: &[PathBuf], below: &[&str]) -> Result<(), Error> {
        if implied.is_empty() || below.is_empty() || self.inner.driver == Driver::Copy {
            return Ok(());
        }
        let files = self.files(id)?;
        let stack = StackDir::root(&self.layers(below)?);
        for path in implied {
            let target = files.join(path);
            let found = stack
                .find(path)
                .map_err(Error::io("failed to look below", &target))?;
            if let Some(found) = found.filter(|found| found.dir.is_some()) {
                crate::copy::copy_metadata(&found.path, &found.stat, &target)?;
            }
        }
        Ok(())
    }

    /// Removes a snapshot: its name at once. Nothing is there: fine.
    pub fn remove(&self, id: &str) -> Result<(), Error> {
        let dir = self.dir(id)?;
        let number = self.inner.gone.fetch_add(1, Ordering::Relaxed);
        let gone = self
            .inner
            .root
            .join(format!(".gone-{}-{number}", std::process::id()));
        match std::fs::rename(&dir, &gone) {
            Ok(()) => remove_tree(&gone).map_err(Error::io("failed to remove", &gone)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("failed to remove", &dir)(e)),
        }
    }

    /// What a snapshot occupies.
    pub fn usage(&self, id: &str) -> Result<Usage, Error> {
        usage(&self.files(id)?)
    }

    /// Names of all snapshots.
    pub fn ids(&self) -> Result<Vec<String>, Error> {
        let root = &self.inner.root;
        let failed = || Error::io("failed to list", root);
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(root).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            if let Ok(name) = entry.file_name().into_string()
                && !name.starts_with('.')
            {
                ids.push(name);
            }
        }
        Ok(ids)
    }

    /// Finishes removals that a crash interrupted.
    fn sweep(&self) -> Result<(), Error> {
        let root = &self.inner.root;
        for entry in std::fs::read_dir(root).map_err(Error::io("failed to list", root))? {
            let entry = entry.map_err(Error::io("failed to list", root))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".gone-") {
                let path = entry.path();
                remove_tree(&path).map_err(Error::io("failed to remove", &path))?;
            }
        }
        Ok(())
    }

    fn is_unprivileged(&self) -> bool {
        self.inner.driver == (Driver::Overlay { userxattr: true })
    }

    fn dir(&self, id: &str) -> Result<PathBuf, Error> {
        let plain = !id.is_empty()
            && id.len() <= 200
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if plain {
            Ok(self.inner.root.join(id))
        } else {
            Err(Error::Name(id.to_owned()))
        }
    }

    fn overlay(&self, layers: &[PathBuf], upper: Option<&Path>) -> MountSpec {
        overlay(self.inner.driver, layers, upper)
    }
}

fn overlay(driver: Driver, layers: &[PathBuf], upper: Option<&Path>) -> MountSpec {
    let escape = |path: &Path| {
        path.to_string_lossy()
            .replace('\\', "\\\\")
            .replace(':', "\\:")
    };
    let lower: Vec<String> = layers.iter().rev().map(|layer| escape(layer)).collect();
    let mut options = vec![format!("lowerdir={}", lower.join(":"))];
    if let Some(upper) = upper {
        options.push(format!("upperdir={}", upper.join("fs").display()));
        options.push(format!("workdir={}", upper.join("work").display()));
        options.push("volatile".into());
    }
    // Neither inodes without data nor redirects may enter a layer, or be followed from one.
    match driver {
        Driver::Overlay { userxattr: true } => options.push("userxattr".into()),
        _ => options.extend(["metacopy=off".into(), "redirect_dir=nofollow".into()]),
    }
    options.push("index=off".into());
    MountSpec {
        fstype: "overlay".into(),
        source: "overlay".into(),
        options,
    }
}

/// Whether the snapshots that are there are copies, or layers; `None` if there are none.
fn holds_copies(root: &Path) -> Option<bool> {
    let is_there = |name: &str| root.join(name).is_dir();
    if is_there(COPIES) {
        return Some(true);
    }
    if is_there(LAYERS) {
        return Some(false);
    }
    // Daemons that left no mark took copies where the kernel collects options, and layers elsewhere.
    is_there(".empty").then(overlay_collects_options)
}

/// Whether the driver's mounts work in the directory, whiteouts included.
fn probe(root: &Path, driver: Driver) -> bool {
    let Ok(dir) = tempfile_in(root) else {
        return false;
    };
    let works = || -> Result<(), Error> {
        let (upper, lower, other) = (dir.join("upper"), dir.join("lower"), dir.join("other"));
        for path in [&upper.join("fs"), &upper.join("work"), &lower, &other] {
            std::fs::create_dir_all(path).map_err(Error::io("failed to make", path))?;
        }
        let file = lower.join("file");
        std::fs::write(&file, "").map_err(Error::io("failed to write", &file))?;
        let spec = overlay(driver, &[other, lower], Some(&upper));
        let mount = TempMount::new(&[spec], &dir)?;
        let file = mount.path().join("file");
        std::fs::remove_file(&file).map_err(Error::io("failed to remove", &file))
    };
    let works = works();
    if let Err(error) = &works {
        tracing::debug!(?driver, %error, "a snapshot driver doesn't work here");
    }
    if let Err(error) = remove_tree(&dir) {
        tracing::warn!(path = ?dir, %error, "a probe's directory stays behind");
    }
    works.is_ok()
}

fn tempfile_in(root: &Path) -> Result<PathBuf, Error> {
    let dir = root.join(format!(".gone-probe-{}", std::process::id()));
    remove_tree(&dir).map_err(Error::io("failed to remove", &dir))?;
    make_dir(&dir)?;
    Ok(dir)
}

fn make_dir(path: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("failed to make", path))
}

/// Counts the blocks and inodes below a path.
pub(crate) fn usage(path: &Path) -> Result<Usage, Error> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    for entry in walkdir::WalkDir::new(path) {
        let failed = |e: walkdir::Error| {
            let at = e.path().unwrap_or(path).to_owned();
            Error::io("failed to measure", &at)(e.into())
        };
        let meta = entry.map_err(failed)?.metadata().map_err(failed)?;
        if meta.nlink() == 1 || meta.is_dir() || linked.insert((meta.dev(), meta.ino())) {
            usage.bytes += meta.blocks() * 512;
            usage.inodes += 1;
        }
    }
    Ok(usage)
}
