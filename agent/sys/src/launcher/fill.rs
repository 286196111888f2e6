//! Fills a container's root with mounts and makes it the process's own.
//!
//! Every place is found through [`RootDir`], so that no link of an image leads a mount elsewhere, and
//! every mount goes to an open descriptor, not to a name (CVE-2025-31133, 52565, 52881).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::protocol::{Container, Report};
use super::slot::{CGROUPS, ROOT};
use crate::mount::{self, Attributes, MountSpec};
use crate::rootfs::{Creation, RootDir};

type Result<T> = std::result::Result<T, Report>;

fn tried(action: impl Into<String>) -> impl FnOnce(io::Error) -> Report {
    let action = action.into();
    move |error| Report::new(action, &error)
}

fn mount_tried(action: impl Into<String>) -> impl FnOnce(mount::MountError) -> Report {
    let action = action.into();
    move |error| {
        let errno = std::error::Error::source(&error)
            .and_then(|source| source.downcast_ref::<io::Error>())
            .and_then(io::Error::raw_os_error);
        Report {
            action: format!("{action}: {error}"),
            errno: errno.unwrap_or(libc::EINVAL),
            program: false,
        }
    }
}

const DIRECTORY: Creation = Creation {
    mode: 0o755,
    uid: 0,
    gid: 0,
};

/// Mounts everything below the container's root, and pivots into it.
pub(super) fn fill(
    container: &Container,
    fds: &[OwnedFd],
    cwd: &Path,
    owner: (u32, u32),
) -> Result<()> {
    let fd = |number: usize| fds.get(number).ok_or_else(missing);
    let root_mount = fd(container.root)?;
    let nodev = Attributes {
        nodev: container.nodev,
        ..Attributes::default()
    };
    if container.nodev {
        mount::set_attributes(root_mount.as_fd(), nodev, None, true)
            .map_err(tried("guard the root"))?;
    }
    mount::attach(root_mount.as_fd(), Path::new(ROOT)).map_err(tried("mount the root"))?;
    let root = RootDir::open(Path::new(ROOT)).map_err(tried("open the root"))?;
    let creation = Creation {
        mode: 0o755,
        uid: owner.0,
        gid: owner.1,
    };
    root.create_dir_all(cwd, creation)
        .map_err(tried(format!("create working directory {}", cwd.display())))?;
    for standard in &container.standard {
        let target = Path::new(&standard.target);
        let spec = MountSpec {
            fstype: standard.fstype.clone(),
            source: standard.fstype.clone().into(),
            options: standard.options.clone(),
        };
        let made = mount::detached(&[spec], Path::new("/")).map_err(mount_tried("mount"))?;
        let place = standard_place(&root, target)?;
        mount::attach_to(made.as_fd(), place.as_fd())
            .map_err(tried(format!("mount {}", standard.target)))?;
        if standard.target == "/dev" {
            devices(container, &root)?;
        }
        if standard.target == "/sys" {
            cgroups(container, &root)?;
        }
    }
    for entry in &container.mounts {
        let source = fd(entry.mount)?;
        let action = || format!("mount {}", entry.target.display());
        if container.nodev {
            mount::set_attributes(source.as_fd(), nodev, None, true).map_err(tried(action()))?;
        }
        let place = place(&root, &entry.target, source).map_err(tried(action()))?;
        mount::attach_to(source.as_fd(), place.as_fd()).map_err(tried(action()))?;
    }
    for path in &container.readonly {
        freeze(&root, Path::new(path)).map_err(tried(format!("make {path} read-only")))?;
    }
    mask(container, &root)?;
    if container.readonly_root {
        mount::set_attributes(root.as_fd(), Attributes::READONLY, None, false)
            .map_err(tried("make the root read-only"))?;
    }
    pivot(&root).map_err(tried("enter the root"))
}

pub(super) fn missing() -> Report {
    Report::new("find a descriptor", &rustix::io::Errno::BADF.into())
}

/// A place for a standard file system: a directory that no link leads to.
fn standard_place(root: &RootDir, target: &Path) -> Result<OwnedFd> {
    let action = || tried(format!("make {}", target.display()));
    if root.resolve(target).map_err(action())? != target {
        return Err(Report::new(
            format!("{} must be an ordinary directory", target.display()),
            &rustix::io::Errno::LOOP.into(),
        ));
    }
    root.create_dir_all(target, DIRECTORY).map_err(action())?;
    root.locate(target, false).map_err(action())
}

/// A place for a mount: a file for a file, a directory for a directory, made if need be.
fn place(root: &RootDir, target: &Path, source: &OwnedFd) -> io::Result<OwnedFd> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(source)?.st_mode);
    let target = root.resolve(target)?;
    if kind == FileType::Directory {
        root.create_dir_all(&target, DIRECTORY)?;
    } else if root.stat(&target, false).is_err() {
        if let Some(parent) = target.parent() {
            root.create_dir_all(parent, DIRECTORY)?;
        }
        let (parent, name) = root.parent_of(&target)?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o755))?;
    }
    root.locate(&target, false)
}

fn devices(container: &Container, root: &RootDir) -> Result<()> {
    for device in &container.devices {
        let make = || -> io::Result<()> {
            let path = Path::new(&device.path);
            if let Some(parent) = path.parent() {
                root.create_dir_all(parent, DIRECTORY)?;
            }
            let (parent, name) = root.parent_of(path)?;
            let kind = if device.block {
                FileType::BlockDevice
            } else {
                FileType::CharacterDevice
            };
            let number = rustix::fs::makedev(device.major, device.minor);
            rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(0o666), number)?;
            // The mode is as given, whatever the umask.
            rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o666), AtFlags::empty())?;
            Ok(())
        };
        make().map_err(tried(format!("make {}", device.path)))?;
    }
    let dev = root
        .locate(Path::new("/dev"), false)
        .map_err(tried("open /dev"))?;
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ] {
        rustix::fs::symlinkat(target, &dev, name)
            .map_err(io::Error::from)
            .map_err(tried(format!("make /dev/{name}")))?;
    }
    Ok(())
}

fn cgroups(container: &Container, root: &RootDir) -> Result<()> {
    let action = || tried("mount /sys/fs/cgroup");
    let attributes = Attributes {
        readonly: !container.writable_cgroups,
        nosuid: true,
        nodev: true,
        noexec: true,
        ..Attributes::default()
    };
    // A kernel without cgroups has no place for them.
    let Ok(place) = root.locate(Path::new("/sys/fs/cgroup"), false) else {
        return Ok(());
    };
    let made = if container.cgroup.is_some() {
        let spec = MountSpec {
            fstype: "cgroup2".into(),
            source: "cgroup".into(),
            options: Vec::new(),
        };
        mount::detached(&[spec], Path::new("/")).map_err(mount_tried("mount /sys/fs/cgroup"))?
    } else {
        mount::clone_tree(Path::new(CGROUPS), true).map_err(action())?
    };
    mount::set_attributes(made.as_fd(), attributes, None, true).map_err(action())?;
    mount::attach_to(made.as_fd(), place.as_fd()).map_err(action())
}

/// Puts a read-only copy over a path, if it is there.
fn freeze(root: &RootDir, path: &Path) -> io::Result<()> {
    let place = match root.locate(path, false) {
        Ok(place) => place,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let copy = mount::clone_fd(place.as_fd(), true)?;
    mount::set_attributes(copy.as_fd(), Attributes::READONLY, None, true)?;
    mount::attach_to(copy.as_fd(), place.as_fd())
}

/// Puts nothing over paths: an empty directory, or the null device.
fn mask(container: &Container, root: &RootDir) -> Result<()> {
    if container.masked.is_empty() {
        return Ok(());
    }
    let null = root
        .locate(Path::new("/dev/null"), false)
        .map_err(tried("open /dev/null"))?;
    let stat = rustix::fs::fstat(&null)
        .map_err(io::Error::from)
        .map_err(tried("open /dev/null"))?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if !is_null {
        return Err(Report::new(
            "/dev/null is something else",
            &rustix::io::Errno::NXIO.into(),
        ));
    }
    for path in &container.masked {
        let cover = || -> io::Result<()> {
            let place = match root.locate(Path::new(path), false) {
                Ok(place) => place,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e),
            };
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode);
            let cover = if kind == FileType::Directory {
                let spec = MountSpec {
                    fstype: "tmpfs".into(),
                    source: "tmpfs".into(),
                    options: ["ro", "nr_inodes=1", "size=4k"].map(Into::into).into(),
                };
                mount::detached(&[spec], Path::new("/")).map_err(io::Error::other)?
            } else {
                mount::clone_fd(null.as_fd(), false)?
            };
            mount::attach_to(cover.as_fd(), place.as_fd())
        };
        cover().map_err(tried(format!("mask {path}")))?;
    }
    Ok(())
}

fn pivot(root: &RootDir) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}
