//! A small disk of its own for a daemon's state: an ext4 file system in a file.
//!
//! It can be filled up, and its power can be cut: the kernel stops writing to it at once and forgets what it hadn't
//! written, as it does when a machine goes down. What is mounted afterwards is what the disk held at that instant.
//! And it can be slowed down to so many writes a second, like a disk that others keep busy.
//!
//! Invariant: the file is mounted at most once at a time, so that no write of before the cut comes after it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::leftovers::unmount_under;
use crate::wait::within;

const BLOCK: u64 = 4096;
const LET_GO_WITHIN: Duration = Duration::from_secs(15);

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: no further write reaches the disk, not even the journal's.
const SHUT_DOWN: &str = r#"open(my $f, "<", $ARGV[0]) or die $!; my $how = pack("L", 2); ioctl($f, 0x8004587D, $how) or die $!;"#;

/// Where the kernel takes limits of a device for all that isn't in a cgroup of its own, which writeback isn't.
const LIMITS: &str = "/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device";

/// A mounted disk. Unmounted and removed when dropped.
#[derive(Debug)]
pub struct Disk {
    directory: TempDir,
}

impl Disk {
    /// An empty disk of so many MiB.
    pub fn new(mebibytes: u64) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("disk-").tempdir()?;
        let disk = Self { directory };
        fs::create_dir(disk.path())?;
        fs::File::create(disk.image())?.set_len(mebibytes << 20)?;
        let mut command = Command::new("mkfs.ext4");
        command.args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0"]);
        run(command.arg(disk.image()))?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// Bytes that are free.
    pub fn free(&self) -> Result<u64> {
        let found = rustix::fs::statvfs(self.path())?;
        Ok(found.f_bavail * found.f_frsize)
    }

    /// Takes all but so many bytes of what is free, or gives some back. The file counts as somebody else's.
    pub fn leave_free(&self, bytes: u64) -> Result<()> {
        let path = self.path().join("somebody-elses-file");
        let taken = fs::metadata(&path).map_or(0, |meta| meta.len());
        let file = fs::File::options().create(true).append(true).open(&path)?;
        let length = (taken + self.free()?).saturating_sub(bytes);
        if length < taken {
            file.set_len(length)?;
        }
        let (mut taken, mut step) = (taken, length.saturating_sub(taken));
        while step >= BLOCK {
            // A file needs some room beside its own blocks: the last of it is taken in smaller and smaller steps.
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), taken, step) {
                Ok(()) if taken + step >= length => break,
                Ok(()) => taken += step,
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        // Blocks that were freed become free for others with the journal's next commit.
        Ok(rustix::fs::syncfs(&file)?)
    }

    /// From now on the disk takes so many writes a second, each flush of its cache being one; 0 is without a limit.
    pub fn limit_writes(&self, per_second: u32) -> Result<()> {
        let device = self.device().context("the disk isn't attached")?;
        let number = fs::read_to_string(device.join("dev"))?;
        let limit = format!("{} {per_second}", number.trim_end());
        fs::write(LIMITS, limit)
            .with_context(|| format!("a slow disk needs the blkio controller at {LIMITS}"))
    }

    /// Cuts the power: from now on nothing reaches the disk, and users of it see errors.
    pub fn cut_power(&self) -> Result<()> {
        run(Command::new("perl")
            .arg("-e")
            .arg(SHUT_DOWN)
            .arg(self.path()))
    }

    /// Mounts the disk after a cut, as the machine does when it is back. Nothing may use it any more.
    pub fn power_on(&self) -> Result<()> {
        unmount_under(&self.path());
        unmount(self.path(), UnmountFlags::empty()).context("somebody still uses the disk")?;
        // Another mount namespace may hold on to it for a moment.
        within("the disk is let go", LET_GO_WITHIN, || !self.is_attached())?;
        self.mount()
    }

    /// Checks the unmounted file system and leaves it mounted.
    pub fn check(&self) -> Result<()> {
        self.power_on()?;
        unmount(self.path(), UnmountFlags::empty())?;
        within("the disk is let go", LET_GO_WITHIN, || !self.is_attached())?;
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(self.image()))?;
        self.mount()
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn mount(&self) -> Result<()> {
        let mut command = Command::new("mount");
        command.args(["-t", "ext4", "-o", "loop,noatime"]);
        run(command.arg(self.image()).arg(self.path()))
    }

    fn is_attached(&self) -> bool {
        self.device().is_some()
    }

    /// The kernel's directory of the device that the file is attached to.
    fn device(&self) -> Option<PathBuf> {
        let image = self.image();
        let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        devices.map(|device| device.path()).find(|device| {
            fs::read(device.join("loop/backing_file"))
                .is_ok_and(|file| file.trim_ascii_end() == image.as_os_str().as_bytes())
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The limit would stay with the device; without the controller there is none.
        let _ = self.limit_writes(0);
        unmount_under(self.directory.path());
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn has(path: &Path) -> bool {
        fs::read(path).is_ok_and(|bytes| bytes == b"x")
    }

    #[test]
    fn what_was_not_synced_is_lost_with_the_power() {
        let disk = Disk::new(16).unwrap();
        let (synced, written) = (disk.path().join("synced"), disk.path().join("written"));
        fs::write(&synced, "x").unwrap();
        rustix::fs::syncfs(fs::File::open(disk.path()).unwrap()).unwrap();
        fs::write(&written, "x").unwrap();
        disk.cut_power().unwrap();
        disk.power_on().unwrap();
        assert!(has(&synced) && !has(&written));
        disk.check().unwrap();
        disk.leave_free(4096).unwrap();
        assert!(disk.free().unwrap() <= 8192);
        assert!(fs::write(&written, vec![0; 1 << 20]).is_err());
        disk.leave_free(1 << 20).unwrap();
        fs::write(&written, vec![0; 1 << 19]).unwrap();
    }
}
