//! A container's root, mounted for as long as the container and what is read from it need.

use std::path::Path;
use std::sync::Arc;

use kiln_sys::mount::{MountError, MountSpec, Mountable, TempMount};
use kiln_sys::rootfs::RootDir;

use crate::Error;

/// A mounted root. An overlay may be mounted only once, so everybody uses this mount.
#[derive(Debug)]
pub struct Root {
    mount: Arc<Held>,
    dir: RootDir,
}

#[derive(Debug)]
struct Held {
    mount: TempMount,
    /// What the mount is made of; dropped after it.
    _source: Mountable,
}

impl Root {
    /// Mounts `source` at a new directory below `scratch`. Blocks.
    pub fn mount(source: Mountable, scratch: &Path) -> Result<Self, Error> {
        let failed = |source: MountError| Error::Mount {
            target: "/".into(),
            source,
        };
        let mount = TempMount::new(&source.specs, scratch).map_err(failed)?;
        let dir = RootDir::open(mount.path()).map_err(|source| Error::Io {
            doing: "failed to open the root",
            path: mount.path().to_owned(),
            source,
        })?;
        Ok(Self {
            mount: Arc::new(Held {
                mount,
                _source: source,
            }),
            dir,
        })
    }

    /// The root's files.
    pub fn dir(&self) -> &RootDir {
        &self.dir
    }

    /// The root as a container takes it.
    pub fn mountable(&self) -> Mountable {
        let spec = MountSpec::bind(self.mount.mount.path(), false);
        Mountable::new(vec![spec], Arc::clone(&self.mount))
    }

    /// Unmounts it, if no container holds it any more. Blocks.
    pub fn unmount(self) -> Result<(), Error> {
        drop(self.dir);
        match Arc::into_inner(self.mount) {
            Some(held) => held.mount.unmount().map_err(|source| Error::Mount {
                target: "/".into(),
                source,
            }),
            None => Ok(()),
        }
    }
}
