//! Blobs by digest: ingest, verify, resume; codecs and compression profiles; the table of image names.
//!
//! ```text
//! ROOT/content/blobs/sha256/<hex>   immutable; the file's bytes have that hash
//! ROOT/content/ingest/<hex of key>  what is being written; emptied at each start
//! ```
//!
//! Invariants:
//! - A blob gets its name only after its hash and size were checked; it is never written again.
//! - A blob counts as durable with the sync epoch of its row; after a machine crash blobs of later
//!   epochs are removed, so nothing is served whose bytes may not have reached the disk.
//! - A failed write (wrong digest, full disk) leaves nothing behind. A dropped one leaves its bytes for
//!   the next writer of the same key, which hashes them again.

pub mod codec;
mod compression;
mod documents;
mod error;
mod images;
mod store;

pub use compression::{Compression, CompressionSpec, UnsupportedCompression};
pub use documents::{Document, Documents};
pub use error::{Error, Result};
pub use images::{ImageTable, NamedImage};
pub use store::{BlobInfo, BlockingWriter, ContentStore, Follow, FollowStop, Writer};
