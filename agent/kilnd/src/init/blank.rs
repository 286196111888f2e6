//! Whether a disk is blank: the only kind that may be formatted.
//!
//! A disk counts as blank if nothing but zeros is where file systems, partition tables and volume managers
//! put their marks (the first MiB, each place of a copy of ext4's superblock, the last MiB), or if it has no
//! superblock but carries the mark of a formatting of ours that was cut off. That mark is in the last block of the
//! first group, which `mke2fs` leaves to files; with a superblock it is a file's contents, and means nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

const MIB: u64 = 1 << 20;
const MARK: &[u8; 16] = b"KILN FORMATTING\n";
const MARK_AT: u64 = GROUP - 4096;
/// Of ext4's superblock.
const MAGIC: [u8; 2] = [0x53, 0xef];
const MAGIC_AT: u64 = 1024 + 56;
/// Groups of blocks whose beginning has a copy of the superblock, in files of 4 KiB blocks.
const COPIES: [u64; 6] = [1, 3, 5, 7, 9, 25];
const GROUP: u64 = 32768 * 4096;

/// Whether it may be formatted.
pub(super) fn is_blank(disk: &File, size: u64) -> io::Result<bool> {
    if !has_superblock(disk)? && size > MARK_AT + 4096 {
        let mut found = [0; MARK.len()];
        disk.read_exact_at(&mut found, MARK_AT)?;
        if found == *MARK {
            return Ok(true);
        }
    }
    let copies = COPIES.map(|group| (group * GROUP, 4096));
    let ends = [(0, MIB), (size.saturating_sub(MIB), MIB)];
    for (offset, length) in ends.into_iter().chain(copies) {
        if offset + length <= size && !zero(disk, offset, length)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether ext4, or one of its ancestors, is on it.
pub(super) fn has_superblock(disk: &File) -> io::Result<bool> {
    let mut magic = [0; 2];
    disk.read_exact_at(&mut magic, MAGIC_AT)?;
    Ok(magic == MAGIC)
}

/// Whether a copy of ext4's superblock is on it: then a file system was here, whatever became of its beginning.
pub(super) fn has_copy_of_superblock(disk: &File, size: u64) -> io::Result<bool> {
    for group in COPIES {
        let mut magic = [0; 2];
        let at = group * GROUP + (MAGIC_AT - 1024);
        if at + 2 <= size {
            disk.read_exact_at(&mut magic, at)?;
            if magic == MAGIC {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn zero(disk: &File, offset: u64, length: u64) -> io::Result<bool> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    disk.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.iter().all(|byte| *byte == 0))
}

/// From here on the disk is ours, also if the power goes.
pub(super) fn mark(disk: &File) -> io::Result<()> {
    disk.write_all_at(MARK, MARK_AT)?;
    disk.sync_all()
}

/// The formatting is done.
pub(super) fn unmark(disk: &File) -> io::Result<()> {
    disk.sync_all()?;
    disk.write_all_at(&[0; MARK.len()], MARK_AT)?;
    disk.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zeros_and_our_own_cut_off_formatting_are_blank() {
        let size = 8 * GROUP;
        let check = |writes: &[(u64, &[u8])], blank: bool| {
            let disk = tempfile::tempfile().unwrap();
            disk.set_len(size).unwrap();
            for (offset, bytes) in writes {
                disk.write_all_at(bytes, *offset).unwrap();
            }
            assert_eq!(is_blank(&disk, size).unwrap(), blank, "{writes:?}");
        };
        check(&[], true);
        check(&[(1080, b"\x53\xef")], false);
        check(&[(510, b"\x55\xaa")], false);
        check(&[(size - 512, b"EFI PART")], false);
        check(&[(3 * GROUP + 56, b"\x53\xef")], false);
        check(&[(MARK_AT, MARK), (4096, b"half a table")], true);
        check(&[(MARK_AT, MARK), (1080, b"\x53\xef")], false);
    }

    #[test]
    fn a_formatting_leaves_the_mark_to_us() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        let size = 4 * GROUP;
        disk.as_file().set_len(size).unwrap();
        mark(disk.as_file()).unwrap();
        let formatted = std::process::Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-E", "nodiscard"])
            .arg(disk.path())
            .status()
            .unwrap();
        assert!(formatted.success());
        assert!(!is_blank(disk.as_file(), size).unwrap());
        assert!(has_copy_of_superblock(disk.as_file(), size).unwrap());
        let mut found = [0; MARK.len()];
        disk.as_file().read_exact_at(&mut found, MARK_AT).unwrap();
        assert_eq!(found, *MARK);
        // As if the superblock had not been written yet.
        disk.as_file().write_all_at(&[0; 2], MAGIC_AT).unwrap();
        assert!(is_blank(disk.as_file(), size).unwrap());
        unmark(disk.as_file()).unwrap();
        assert!(!is_blank(disk.as_file(), size).unwrap());
    }
}
