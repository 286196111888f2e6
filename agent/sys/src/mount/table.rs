//! The table of mounts, for what an earlier process left behind.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{MountError, Result, unmount};

/// Undoes the octal escapes of `/proc/self/mountinfo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let (
            [b'\\'],
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ],
        ) = ([*first], tail)
        {
            out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

fn parse(table: &[u8], root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .filter(|path| path != root && path.starts_with(root))
        .collect();
    found.reverse();
    found
}

/// Mount points below `root`, the latest first; not `root` itself.
pub fn mounts_below(root: &Path) -> Result<Vec<PathBuf>> {
    let file = Path::new("/proc/self/mountinfo");
    let table = std::fs::read(file).map_err(|source| MountError::Path {
        path: file.to_owned(),
        source,
    })?;
    Ok(parse(&table, root))
}

/// Unmounts everything below `root`, the latest first. Goes on after a failure and reports the first.
pub fn unmount_below(root: &Path) -> Result<()> {
    let mut first = Ok(());
    for path in mounts_below(root)? {
        if let Err(error) = unmount(&path)
            && first.is_ok()
        {
            first = Err(error);
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_below_a_root_come_latest_first_and_unescaped() {
        let table = b"22 27 0:21 / /proc rw - proc proc rw\n\
            30 27 0:5 / /r rw - tmpfs t rw\n\
            31 30 0:6 / /r/a\\040b rw shared:1 - tmpfs t rw\n\
            32 30 0:7 / /r/c rw - tmpfs t rw\n\
            33 27 0:8 / /rest rw - tmpfs t rw\n";
        assert_eq!(
            parse(table, Path::new("/r")),
            [PathBuf::from("/r/c"), PathBuf::from("/r/a b")]
        );
    }
}
