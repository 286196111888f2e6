//! Images: what is written for a result, and where it goes.
//!
//! ```text
//!  result ─► layers as blobs ─► config, manifest (one per platform) ─► attestation manifests ─► index
//!                                            │ content store
//!                      ┌─────────────────────┼──────────────────────┐
//!                 names, push            tar to the client      content store of the client
//!                (image, moby)          (oci, docker)           (oci, docker with tar=false)
//! ```
//! **Invariant:** bytes of configs, manifests and indexes are those that BuildKit writes for the same
//! layers: their digests are users' API.

mod annotations;
mod archive;
mod config;
mod options;
mod output;
mod push;
mod writer;

pub(crate) use archive::{ArchiveExporter, Variant};
pub(crate) use output::ImageExporter;
