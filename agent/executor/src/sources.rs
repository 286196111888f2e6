//! The source of a container's mount as a detached mount.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kiln_sys::mount::{self, Attributes, TempMount};
use kiln_sys::rootfs::RootDir;

use crate::{ContainerMount, ExecutorError, prepare};

/// Mounts the source, or the part of it that is asked for, without attaching it anywhere. `scratch`
/// is a directory for a passing mount point. Blocks.
pub(crate) fn detached(entry: &ContainerMount, scratch: &Path) -> Result<OwnedFd, ExecutorError> {
    let target = entry.target.display();
    let failed = |error: mount::MountError| ExecutorError::Prepare {
        action: format!("mount {target}"),
        source: io::Error::other(error),
    };
    let whole = entry.subpath.as_os_str().is_empty() || entry.subpath == Path::new("/");
    let mounted = if whole {
        mount::detached(&entry.source.specs, scratch).map_err(failed)?
    } else {
        // A detached mount can't be walked into on older kernels, so it is attached for a moment.
        let passing = TempMount::new(&entry.source.specs, scratch).map_err(failed)?;
        let part = RootDir::open(passing.path())
            .and_then(|root| root.locate(&entry.subpath, true))
            .and_then(|part| mount::clone_fd(part.as_fd(), true))
            .map_err(prepare(|| {
                format!("mount {target}: {}", entry.subpath.display())
            }))?;
        passing.unmount().map_err(failed)?;
        part
    };
    if entry.readonly {
        mount::set_attributes(mounted.as_fd(), Attributes::READONLY, None, true)
            .map_err(prepare(|| format!("make {target} read-only")))?;
    }
    Ok(mounted)
}
