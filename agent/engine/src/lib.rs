//! Composes the layers below into a build.
//!
//! ```text
//! BuildRequest ──► Engine::build ──► job of the solver, hub of progress, history record
//!                       │
//!                       ├─ a definition, or a frontend's name ──► EngineBridge::solve ──┐
//!                       └─ nothing: the frontend runs at the client ──► Forwarder ──────┤
//!                                                                                       ▼
//!                                     BuildResponse ◄── exporters ◄── evaluated references
//! ```
//!
//! Invariants: a build owns one cancellation token, and when its caller goes away everything it started
//! stops; what the solver, the frontends and the exporters do is reported in the build's hub, which
//! ends after them; entitlements need the daemon's consent and the client's, for nested solves as well;
//! a capability that isn't served isn't in [`caps`].

mod bridge;
mod build;
mod caches;
pub mod caps;
mod client;
mod entitlements;
mod errors;
mod exports;
mod files;
mod frontends;
mod graph_details;
mod ingredients;
mod policy;
mod present;
mod project;
mod provenance;
mod record;
mod reference;
mod results;
mod status;
mod worker;

pub use build::{BuildRequest, BuildResponse, Engine, EngineParts, ExporterRequest};
pub use caches::RemoteCaches;
pub use entitlements::{Entitlement, Entitlements, UnknownEntitlement};
pub use frontends::Frontends;
pub use results::Results;
pub use status::StatusSource;
pub use worker::{GcPolicy, Worker};
