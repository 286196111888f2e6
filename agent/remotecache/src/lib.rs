//! Cache export and import: registry, inline, local.
//!
//! ```text
//! solver records ──► assemble ──► CacheConfig + blobs ──► manifest in a registry or a directory
//!                                      └────────────────► records inside an image config (inline)
//! manifest or image config ──► CacheConfig ──► plan ──► records for the solver + Loader (lazy results)
//! ```
//! Invariants: an imported config is checked before anything is made of it; importing fetches
//! manifests and configs only, never a layer; an exported config is a function of the records alone.

mod assemble;
mod config;
mod import;
pub mod inline;
mod place;
mod transfer;

pub use assemble::{Assembled, Chain, assemble};
pub use config::{
    CacheConfig, CacheInput, CacheLayer, CacheRecord, CacheResult, ChainedResult, ConfigError,
    LayerAnnotations,
};
pub use import::{CREATED_AT, DESCRIPTION, Loader, Plan, UNCOMPRESSED, plan};
pub use place::{ClientPlace, Place, PlaceError, RegistryPlace};
pub use transfer::{Format, TransferError, export, import};
