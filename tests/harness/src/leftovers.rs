//! What a daemon or a build left behind: mounts and processes, as the kernel sees them.
//!
//! Invariant: looking changes nothing; only [`unmount_under`] does, for daemons that aren't ours.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

/// Mount points under `directory` in this mount namespace, deepest last; not the directory's own.
pub fn mounts_under(directory: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(directory) && point != directory)
        .collect();
    found.sort();
    found
}

/// Processes other than this one in whose mount namespace something comes from `directory`: what still runs in a
/// container made there.
pub fn processes_with_mounts_under(directory: &Path) -> Vec<u32> {
    let needle = directory.to_string_lossy().into_owned();
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    processes()
        .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() != own)
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|text| {
                let own = |line: &&str| line.split(' ').nth(4) == Some(&needle);
                text.lines()
                    .any(|line| line.contains(&needle) && !own(&line))
            })
        })
        .collect()
}

/// Processes that have `argument` as one of their arguments.
pub fn processes_with_argument(argument: &str) -> Vec<u32> {
    processes()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                line.split(|byte| *byte == 0)
                    .any(|part| part == argument.as_bytes())
            })
        })
        .collect()
}

/// Detaches everything that is mounted under `directory`.
pub(crate) fn unmount_under(directory: &Path) {
    for point in mounts_under(directory).iter().rev() {
        if let Err(error) = unmount(point, UnmountFlags::DETACH) {
            eprintln!("umount {}: {error}", point.display());
        }
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(move |pid| *pid != own)
}
