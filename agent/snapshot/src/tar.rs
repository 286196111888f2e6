//! Tar archives as OCI layers have them: a writer whose bytes are those of Go's `archive/tar`, a
//! strict streaming reader, and a rewriter of times.
//!
//! Layer digests are users' API, so the writer's choice between USTAR and PAX, its octal fields, its
//! name splitting and its record order follow Go's exactly; the tests compare with layers that a real
//! engine made.

mod fields;
mod header;
mod pax;
mod reader;
mod rewrite;
mod writer;

pub use header::Header;
pub use reader::{Limits, TarError, TarReader};
pub use rewrite::rewrite_timestamps;
pub use writer::TarWriter;

/// Bytes of a header, and the unit that data is padded to.
pub const BLOCK: usize = 512;

/// The prefix of PAX records that hold extended attributes.
pub const PAX_XATTR: &str = "SCHILY.xattr.";

/// What an entry is, by its type flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file with data.
    Regular,
    /// Another name of an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

impl Kind {
    /// The type flag.
    pub const fn flag(self) -> u8 {
        match self {
            Self::Regular => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::CharDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// Seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TarTime {
    /// May be negative.
    pub seconds: i64,
    /// 0 to 999,999,999, always counted forwards.
    pub nanoseconds: u32,
}
