//! BuildKit's gRPC API over an engine: conversions only.
//!
//! ```text
//! Control ─ LLBBridge ─ Content (read-only) ─ TraceService ─ Health ──► routes() ──► one server per address
//! ```
//!
//! Invariants: messages of up to 16 MiB pass in both directions; an error keeps its code, text and typed
//! details; a call that the client drops is dropped here; what clients read of the content store they
//! can't write.

mod content;
mod convert;
mod history;
mod prune;
mod server;
mod service;
mod trace;

pub use prune::{DiskUsage, PruneRequest, Records};
pub use server::{Connected, MAX_MESSAGE, ServerOptions, TlsOptions, routes, serve};
pub use service::ControlService;
/// Services of an address, to which others may be added.
pub use tonic::service::Routes;
