//! The digest of one file: the header that Docker's old tarsum (version 1) takes, then the bytes.

use std::collections::BTreeMap;

use kiln_oci::Digester;

/// What a file is, as fsutil sends it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileStat {
    /// Go's `os.FileMode`: permission bits and the high type bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: i64,
    /// Target of a symbolic link, or the path (in the tree) that a hard link is another name of.
    pub linkname: String,
    /// Of a device.
    pub devmajor: i64,
    /// Of a device.
    pub devminor: i64,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// Bits of Go's `os.FileMode`.
pub(super) mod go_mode {
    pub(crate) const DIR: u32 = 1 << 31;
    pub(crate) const SYMLINK: u32 = 1 << 27;
    pub(crate) const DEVICE: u32 = 1 << 26;
    pub(crate) const NAMED_PIPE: u32 = 1 << 25;
    pub(crate) const SOCKET: u32 = 1 << 24;
    pub(crate) const SETUID: u32 = 1 << 23;
    pub(crate) const SETGID: u32 = 1 << 22;
    pub(crate) const CHAR_DEVICE: u32 = 1 << 21;
    pub(crate) const STICKY: u32 = 1 << 20;
    pub(crate) const IRREGULAR: u32 = 1 << 19;
}

/// A hash that has taken the header of a file; give it the file's bytes and finish it.
pub fn file_hasher(stat: &FileStat) -> Digester {
    use go_mode as bit;
    // Go's tar knows neither sockets nor irregular files; they hash as regular ones.
    let mode = stat.mode & !(bit::SOCKET | bit::IRREGULAR);
    let (flag, is_link) = if mode & bit::DIR != 0 {
        ('5', false)
    } else if mode & bit::SYMLINK != 0 {
        ('2', true)
    } else if mode & bit::DEVICE != 0 {
        (
            if mode & bit::CHAR_DEVICE != 0 {
                '3'
            } else {
                '4'
            },
            false,
        )
    } else if mode & bit::NAMED_PIPE != 0 {
        ('6', false)
    } else {
        ('0', false)
    };
    let mut permissions = mode & 0o777;
    for (bit, tar) in [
        (bit::SETUID, 0o4000),
        (bit::SETGID, 0o2000),
        (bit::STICKY, 0o1000),
    ] {
        if mode & bit != 0 {
            permissions |= tar;
        }
    }
    let size = if flag == '0' { stat.size } else { 0 };
    let link = if is_link { stat.linkname.as_str() } else { "" };
    let mut hasher = Digester::new();
    hasher.update(format!(
        "namemode{permissions}uid{}gid{}size{size}typeflag{flag}linkname{link}unamegnamedevmajor{}devminor{}",
        stat.uid, stat.gid, stat.devmajor, stat.devminor
    ));
    for (name, value) in &stat.xattrs {
        let hidden = name.starts_with("security.") || name.starts_with("system.");
        if name == "security.capability" || !hidden {
            hasher.update(name);
            hasher.update(value);
        }
    }
    hasher
}
