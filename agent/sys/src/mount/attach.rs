//! Making mounts detached, moving them into place, and removing them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    move_mount, open_tree,
};

use super::options::{Attributes, MountOptions, Propagation};
use super::temp::TempMount;
use super::{MountError, MountSpec, Result, overlay};

fn refused(spec: &MountSpec, target: &Path, source: impl Into<io::Error>) -> MountError {
    MountError::Mount {
        fstype: spec.fstype.clone(),
        target: target.to_owned(),
        source: source.into(),
    }
}

/// Mounts `specs` one over the other at `target`, which exists. On failure none stays.
pub fn mount_all(specs: &[MountSpec], target: &Path) -> Result<()> {
    for (done, spec) in specs.iter().enumerate() {
        if let Err(error) = mount_one(spec, target) {
            for _ in 0..done {
                // The first failure is what the caller needs to know.
                let _ = unmount_one(target);
            }
            return Err(error);
        }
    }
    if specs.is_empty() {
        return Err(MountError::Empty);
    }
    Ok(())
}

/// Binds `source`, with what is mounted below it, at `target`.
pub fn bind(source: &Path, target: &Path, readonly: bool) -> Result<()> {
    mount_all(&[MountSpec::bind(source, readonly)], target)
}

fn mount_one(spec: &MountSpec, target: &Path) -> Result<()> {
    match detached_one(spec) {
        Ok(fd) => attach(fd.as_fd(), target).map_err(|source| refused(spec, target, source)),
        Err(MountError::Mount { source, .. })
            if source.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) =>
        {
            classic(spec, target)
        }
        Err(MountError::Mount { fstype, source, .. }) => Err(MountError::Mount {
            fstype,
            target: target.to_owned(),
            source,
        }),
        Err(other) => Err(other),
    }
}

/// Makes the mounts without putting them anywhere: the file descriptor is the mount, and closing it
/// before it is attached removes it. `scratch` is a directory for a passing mount point, which is
/// needed where several mounts lie one over the other, and on kernels before 5.2.
pub fn detached(specs: &[MountSpec], scratch: &Path) -> Result<OwnedFd> {
    match specs {
        [] => Err(MountError::Empty),
        [spec] => match detached_one(spec) {
            Err(MountError::Mount { source, .. })
                if source.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) =>
            {
                through_mount_point(specs, scratch)
            }
            other => other,
        },
        _ => through_mount_point(specs, scratch),
    }
}

fn through_mount_point(specs: &[MountSpec], scratch: &Path) -> Result<OwnedFd> {
    let mounted = TempMount::new(specs, scratch)?;
    clone_tree(mounted.path(), true).map_err(|source| MountError::Mount {
        fstype: "bind".into(),
        target: mounted.path().to_owned(),
        source,
    })
}

fn detached_one(spec: &MountSpec) -> Result<OwnedFd> {
    let options = MountOptions::parse(&spec.options);
    let nowhere = Path::new("");
    if let Some(recursive) = options.bind.or((spec.fstype == "bind").then_some(true)) {
        let fd = clone_tree(&spec.source, recursive).map_err(|e| refused(spec, nowhere, e))?;
        if !options.attributes.is_empty() || options.propagation.is_some() {
            set_attributes(
                fd.as_fd(),
                options.attributes,
                options.propagation.map(|(kind, _)| kind),
                recursive,
            )
            .map_err(|e| refused(spec, nowhere, e))?;
        }
        return Ok(fd);
    }
    if spec.fstype == "overlay" {
        return overlay::detached(spec, &options);
    }
    let fs = fsopen(spec.fstype.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| refused(spec, nowhere, e))?;
    if !spec.source.as_os_str().is_empty() {
        fsconfig_set_string(&fs, "source", spec.source.as_path())
            .map_err(|e| refused(spec, nowhere, e))?;
    }
    for (key, value) in &options.data {
        configure(spec, fs.as_fd(), key, value.as_deref())?;
    }
    finish(spec, fs.as_fd(), options.attributes)
}

/// Sets one option of a file system that is being made.
pub(super) fn configure(
    spec: &MountSpec,
    fs: BorrowedFd<'_>,
    key: &str,
    value: Option<&str>,
) -> Result<()> {
    match value {
        Some(value) => fsconfig_set_string(fs, key, value),
        None => fsconfig_set_flag(fs, key),
    }
    .map_err(|source| MountError::Option {
        fstype: spec.fstype.clone(),
        option: key.to_owned(),
        source: source.into(),
    })
}

/// Creates the file system and its mount.
pub(super) fn finish(
    spec: &MountSpec,
    fs: BorrowedFd<'_>,
    attributes: Attributes,
) -> Result<OwnedFd> {
    fsconfig_create(fs)
        .and_then(|()| {
            fsmount(
                fs,
                FsMountFlags::FSMOUNT_CLOEXEC,
                attributes.fsmount_flags(),
            )
        })
        .map_err(|source| refused(spec, Path::new(""), source))
}

/// A detached copy of the mount at `path`. A symbolic link at its end is followed.
pub fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    Ok(open_tree(CWD, path, flags)?)
}

/// A detached copy of the mount, or the part of one, that a descriptor refers to.
pub fn clone_fd(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    Ok(open_tree(fd, "", flags)?)
}

/// Moves a detached mount to `target`, an existing file or directory.
pub fn attach(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    Ok(move_mount(
        mount,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// Moves a detached mount onto what a descriptor refers to.
pub fn attach_to(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Adds attributes to a mount that `mount` refers to, and to those below it if asked.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: Attributes,
    propagation: Option<Propagation>,
    recursive: bool,
) -> io::Result<()> {
    let set = attributes.fsmount_flags().bits();
    // The three ways to keep access times are one field, which is cleared as a whole before it is set.
    let clear = if attributes.noatime || attributes.strictatime {
        libc::MOUNT_ATTR__ATIME
    } else {
        0
    };
    let attr = MountAttr {
        set: u64::from(set),
        clear,
        propagation: propagation.map_or(0, Propagation::flag),
        userns: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, `attr` lives across the call and its size is
    // passed with it; the kernel only reads both.
    let code = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            std::mem::size_of::<MountAttr>(),
        )
    };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `mount(2)`, for kernels without the file-descriptor API.
fn classic(spec: &MountSpec, target: &Path) -> Result<()> {
    let options = MountOptions::parse(&spec.options);
    if let Some(recursive) = options.bind.or((spec.fstype == "bind").then_some(true)) {
        let mut flags = MountFlags::BIND;
        flags.set(MountFlags::REC, recursive);
        rustix::mount::mount(&spec.source, target, "", flags, None)
            .map_err(|e| refused(spec, target, e))?;
        if !options.attributes.is_empty() {
            let flags = MountFlags::BIND | options.attributes.classic_flags();
            if let Err(error) = rustix::mount::mount_remount(target, flags, "") {
                let _ = unmount_one(target);
                return Err(refused(spec, target, error));
            }
        }
        return Ok(());
    }
    if spec.fstype == "overlay" {
        return overlay::classic(spec, &options, target);
    }
    let data = options
        .data
        .iter()
        .map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        })
        .collect::<Vec<_>>()
        .join(",");
    let data = std::ffi::CString::new(data)
        .map_err(|_| refused(spec, target, io::ErrorKind::InvalidInput))?;
    rustix::mount::mount(
        &spec.source,
        target,
        spec.fstype.as_str(),
        options.attributes.classic_flags(),
        Some(data.as_c_str()),
    )
    .map_err(|e| refused(spec, target, e))
}

/// Keeps mounts at and below `path` from travelling to or from other namespaces. `path` must be a
/// mount point.
pub fn make_private(path: &Path) -> Result<()> {
    rustix::mount::mount_change(
        path,
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|source| MountError::Path {
        path: path.to_owned(),
        source: source.into(),
    })
}

/// Removes the topmost mount at `target`; `false` where there is none. A mount that is still in use
/// disappears from the tree at once and ends with its last user.
pub fn unmount_one(target: &Path) -> Result<bool> {
    let result = match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => {
            rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        }
        other => other,
    };
    match result {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(source) => Err(MountError::Unmount {
            target: target.to_owned(),
            source: source.into(),
        }),
    }
}

/// Removes everything that is mounted at `target`, which may be nothing.
pub fn unmount(target: &Path) -> Result<()> {
    while unmount_one(target)? {}
    Ok(())
}
