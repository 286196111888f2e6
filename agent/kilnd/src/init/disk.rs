//! The data disk: found by its serial number, formatted if it is blank, checked, mounted, grown.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::mount::MountFlags;

use super::blank;
use super::mounts::STATE;

/// `e2fsck`'s codes: up to these all is well, now.
const CHECKED: i32 = 1 | 2;
/// And this one is for what it can't make sense of.
const UNREADABLE: i32 = 8;
const PATIENCE: Duration = Duration::from_secs(10);
/// What a person may do about a damaged disk.
const REPAIR: &str = "`kiln start --repair-disk` mends it and may lose what is damaged; `kiln reset` makes a new one";
/// Where the kernel counts the errors of each file system.
const COUNTS: &str = "/sys/fs/ext4";
/// Nobody: what is reserved is for who may go over limits, which the daemon is and a step isn't.
const NOBODY: &str = "resuid=65534,resgid=65534";

/// Why there is no state to work with.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    /// The host attached none.
    #[error("the machine has no disk with the serial number {serial:?}")]
    Missing {
        /// What was looked for.
        serial: &'static str,
    },
    /// Something is on it that isn't ours.
    #[error(
        "the data disk ({size} MiB) is neither blank nor an ext4 file system; it was left as it is"
    )]
    Foreign {
        /// Its size.
        size: u64,
    },
    /// It needs a person's consent.
    #[error("the data disk is damaged (e2fsck: {code}): {output}")]
    Damaged {
        /// What `e2fsck` ended with.
        code: i32,
        /// What it said.
        output: String,
    },
    /// The kernel found out after it was mounted.
    #[error("the data disk is damaged, as its use showed: {cause}")]
    Errors {
        /// What didn't work.
        cause: String,
    },
}

impl DiskError {
    /// What a person may do.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "update kiln: the guest image and kiln-vmd don't fit together",
            Self::Foreign { .. } => "`kiln reset` makes a new disk and loses the old one's cache",
            Self::Damaged { .. } | Self::Errors { .. } => REPAIR,
        }
    }
}

/// Makes the state's directory the data disk. Returns what a person should know.
pub(super) fn attach(repair: bool) -> anyhow::Result<Vec<String>> {
    let mut warnings = Vec::new();
    let device = find(kiln_link::machine::DATA_DISK)?;
    let disk = OpenOptions::new().read(true).write(true).open(&device)?;
    let size = size_of(&device)?;
    if blank::is_blank(&disk, size)? {
        format(&device, &disk)?;
    } else if blank::has_superblock(&disk)? || blank::has_copy_of_superblock(&disk, size)? {
        check(&device, repair, &mut warnings)?;
    } else {
        return Err(DiskError::Foreign { size: size >> 20 }.into());
    }
    drop(disk);
    fs::create_dir_all(STATE)?;
    let options = std::ffi::CString::new(format!("discard,errors=remount-ro,{NOBODY}"))?;
    rustix::mount::mount(
        &device,
        STATE,
        "ext4",
        MountFlags::NOATIME,
        Some(options.as_c_str()),
    )
    .map_err(|error| DiskError::Errors {
        cause: format!("mounting {}: {error}", device.display()),
    })?;
    if let Err(error) = grow() {
        warnings.push(format!("the data disk wasn't grown: {error:#}"));
    }
    Ok(warnings)
}

/// Errors of the data disk's file system that the kernel has met so far. A start after them checks it.
pub(crate) fn errors() -> u64 {
    let counts = fs::read_dir(COUNTS).into_iter().flatten().flatten();
    let counts = counts.filter_map(|entry| {
        let text = fs::read_to_string(entry.path().join("errors_count")).ok()?;
        text.trim().parse::<u64>().ok()
    });
    counts.sum()
}

/// An error that the disk is to blame for says so.
pub(super) fn blame(error: anyhow::Error) -> anyhow::Error {
    if error.is::<DiskError>() || errors() == 0 {
        return error;
    }
    let cause = format!("{error:#}");
    DiskError::Errors { cause }.into()
}

/// The block device with this serial number. It may take a moment to appear.
fn find(serial: &'static str) -> anyhow::Result<PathBuf> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(device) = look_for(serial) {
            return Ok(device);
        }
        if Instant::now() > end {
            return Err(DiskError::Missing { serial }.into());
        }
        // The kernel tells of new devices over a socket that nothing else here needs.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The block device with this serial number, if it is there now.
pub(super) fn look_for(serial: &str) -> Option<PathBuf> {
    let mut devices = fs::read_dir("/sys/block").ok()?.flatten();
    let device = devices.find(|device| {
        let read = fs::read_to_string(device.path().join("serial"));
        read.is_ok_and(|text| text.trim() == serial)
    })?;
    Some(Path::new("/dev").join(device.file_name()))
}

fn size_of(device: &Path) -> anyhow::Result<u64> {
    let name = device.file_name().context("a device without a name")?;
    let sectors = fs::read_to_string(Path::new("/sys/class/block").join(name).join("size"))?;
    Ok(sectors.trim().parse::<u64>()? * 512)
}

/// Bytes of the file system, as its superblock has them.
fn formatted_size(disk: &File) -> anyhow::Result<u64> {
    let mut superblock = [0; 1024];
    disk.read_exact_at(&mut superblock, 1024)?;
    let field = |offset: usize| -> u64 {
        superblock[offset..offset + 4]
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    let blocks = field(0x150) << 32 | field(4);
    Ok(blocks << (10 + field(24).min(6)))
}

fn format(device: &Path, disk: &File) -> anyhow::Result<()> {
    tracing::info!("the data disk is blank: formatting it");
    blank::mark(disk)?;
    let output = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "kiln", "-m", "1"])
        .args(["-E", "assume_storage_prezeroed=1,nodiscard"])
        .arg(device)
        .output()
        .context("mke2fs")?;
    if !output.status.success() {
        bail!("mke2fs: {}", text(&output.stderr));
    }
    blank::unmark(disk)?;
    Ok(())
}

fn check(device: &Path, repair: bool, warnings: &mut Vec<String>) -> anyhow::Result<()> {
    let output = Command::new("/sbin/e2fsck")
        .args(if repair { &["-f", "-y"][..] } else { &["-p"] })
        .arg(device)
        .output()
        .context("e2fsck")?;
    let code = output.status.code().unwrap_or(-1);
    if code == 0 {
        return Ok(());
    }
    let output = match code {
        // It goes on with advice for those who have a shell and no `kiln`.
        UNREADABLE => "its superblock can't be read".to_owned(),
        _ => text(&[output.stdout, output.stderr].concat()),
    };
    if code < 0 || code & !CHECKED != 0 {
        return Err(DiskError::Damaged { code, output }.into());
    }
    warnings.push(format!("the data disk was mended: {output}"));
    Ok(())
}

/// The file system takes the whole device. Returns its size in bytes.
pub(crate) fn grow() -> anyhow::Result<u64> {
    let device = find(kiln_link::machine::DATA_DISK)?;
    let size = size_of(&device)?;
    let formatted = formatted_size(&File::open(&device)?)?;
    // Less than a group of blocks isn't worth it, and may not be possible.
    if size.saturating_sub(formatted) > 128 << 20 {
        let output = Command::new("/sbin/resize2fs")
            .arg(&device)
            .output()
            .context("resize2fs")?;
        if !output.status.success() {
            bail!("resize2fs: {}", text(&output.stderr));
        }
        tracing::info!(size, "the data disk was grown");
    }
    Ok(size)
}

/// The end of what a tool said, on one line.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_file_system_is_read_from_it() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(300 << 20).unwrap();
        let formatted = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4"])
            .arg(disk.path())
            .arg("200M")
            .status()
            .unwrap();
        assert!(formatted.success());
        assert_eq!(formatted_size(disk.as_file()).unwrap(), 200 << 20);
    }
}
