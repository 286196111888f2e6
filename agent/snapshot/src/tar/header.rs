//! The header of an entry, read and written.

use std::collections::BTreeMap;

use super::pax::Records;
use super::{Kind, PAX_XATTR, TarTime};

/// What an archive says about one entry.
#[derive(Debug, Clone)]
pub struct Header {
    /// Its path: as the archive has it, or to be written, without a leading slash; directories end in one.
    pub name: Vec<u8>,
    /// Target of a link.
    pub linkname: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Name of the owner; layers that we write have none.
    pub uname: Vec<u8>,
    /// Name of the group; layers that we write have none.
    pub gname: Vec<u8>,
    /// Bytes of data that follow; only regular files have some.
    pub size: u64,
    /// Of the last change.
    pub mtime: TarTime,
    /// Of a device.
    pub devmajor: u32,
    /// Of a device.
    pub devminor: u32,
    /// PAX records, keys and values: all that were read, global ones included; of those to be written, the ones
    /// that repeat a field above are left out.
    pub pax: Records,
}

impl Header {
    /// A header of an empty thing at 1970.
    pub fn new(name: impl Into<Vec<u8>>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            linkname: Vec::new(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            uname: Vec::new(),
            gname: Vec::new(),
            size: 0,
            mtime: TarTime::default(),
            devmajor: 0,
            devminor: 0,
            pax: BTreeMap::new(),
        }
    }

    /// Its extended attributes.
    pub fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pax.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(PAX_XATTR.as_bytes())?;
            Some((name, value.as_slice()))
        })
    }
}
