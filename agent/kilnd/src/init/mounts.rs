//! The file systems that a Linux system expects, and a root that can be pivoted away from.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

/// Where the state is.
pub(super) const STATE: &str = "/var/lib/kiln";

/// File system, mount point, options.
const MOUNTS: [(&str, &str, &str); 9] = [
    ("devtmpfs", "/dev", "mode=0755"),
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("mqueue", "/dev/mqueue", ""),
    ("tmpfs", "/run", "mode=0755"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

/// Makes them all; then the console is where output goes.
pub(super) fn begin() -> anyhow::Result<()> {
    pivotable_root().context("making the initial file system a mount like others")?;
    for (kind, point, options) in MOUNTS {
        // Below /sys the kernel has them already.
        if !Path::new(point).is_dir() {
            fs::create_dir_all(point).with_context(|| point.to_owned())?;
        }
        let options = std::ffi::CString::new(options)?;
        let mounted = rustix::mount::mount(
            kind,
            point,
            kind,
            MountFlags::empty(),
            Some(options.as_c_str()),
        );
        match mounted {
            // The kernel mounts it itself if it was built to.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            // Not every kernel has message queues; few steps miss them.
            Err(_) if kind == "mqueue" => {}
            Err(error) => return Err(error).with_context(|| format!("mounting {kind} on {point}")),
        }
        if point == "/dev" {
            console();
        }
    }
    Ok(())
}

/// `pivot_root` refuses to leave the initial file system, since that isn't mounted on anything. Mounted on itself
/// it is, and nothing had to be copied.
fn pivotable_root() -> anyhow::Result<()> {
    fs::create_dir_all("/nr")?;
    rustix::mount::mount_bind_recursive("/", "/nr")?;
    std::env::set_current_dir("/nr")?;
    rustix::mount::mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Standard streams on the console. Without one there is nobody to tell either.
fn console() {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    if let Ok(console) = rustix::fs::open("/dev/console", flags, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
}

/// Takes the state's file system off, with what is mounted below it. One that is still in use is made read-only,
/// which writes it out as well.
pub(super) fn end() {
    let state = Path::new(STATE);
    // Failures lead to the next try; the journal covers the rest.
    let _ = kiln_sys::mount::unmount_below(state);
    if rustix::mount::unmount(state, UnmountFlags::empty()).is_err() {
        let _ = rustix::mount::mount_remount(state, MountFlags::RDONLY, "");
        let _ = rustix::mount::unmount(state, UnmountFlags::DETACH);
    }
}
