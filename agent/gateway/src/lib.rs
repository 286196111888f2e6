//! Serves `LLBBridge` to frontends that run outside the engine.
//!
//! ```text
//! client-side frontend ── control socket ──► BridgeService::joined ── build id ──► Registrar ─┐
//! frontend in a container ── stdio ─────────► BridgeService::single ─────────────────────────┴─► Forwarder ──► Bridge
//! ```
//!
//! A [`Forwarder`] belongs to one build: it keeps the results that the frontend names by id, until the
//! frontend returns one of them and the build ends. Invariants: an id names a result of this build
//! only; a call that names an unknown build waits a little, since a client may call before its Solve
//! has arrived; what a frontend is told it can do (`caps`), it can do.

pub mod caps;
mod forwarder;
mod registrar;
mod service;
mod wire;

pub use forwarder::{Forwarder, WorkerInfo};
pub use registrar::{Registrar, Registration, Rendezvous, Waiter};
pub use service::{BUILD_ID_HEADER, BridgeService};
