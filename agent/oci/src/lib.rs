//! Digests, descriptors, platforms, references, manifests and image configs, as the OCI and Docker
//! specifications write them; no I/O.
//!
//! Invariant: what is written here has the bytes that Go's `encoding/json` gives for the same value
//! (field order, escapes, what is left out when empty), because digests of these documents are
//! compared with those that other tools make.

mod descriptor;
mod digest;
pub mod go_json;
mod image_config;
pub mod media_type;
mod platform;
mod reference;
mod timestamp;

pub use descriptor::{Descriptor, Index, Manifest};
pub use digest::{Digest, DigestError, Digester};
pub use image_config::{
    ContainerConfig, Healthcheck, HistoryEntry, ImageConfig, RootFs, chain_id, chain_ids,
};
pub use platform::{Platform, PlatformError, PlatformMatcher};
pub use reference::{Reference, ReferenceError};
pub use timestamp::{Timestamp, TimestampError};
