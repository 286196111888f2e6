//! Generated wire code only.
//!
//! BuildKit's messages come from `bollard-buildkit-proto`; what it lacks is generated from the pinned
//! files in `proto/`. Invariant: nothing here has behaviour; conversions live in the crate at whose
//! boundary a message arrives.

pub use bollard_buildkit_proto::{fsutil, google, health, moby, pb};

/// `containerd.services.content.v1`: blobs by digest.
#[allow(
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
pub mod content {
    tonic::include_proto!("containerd.services.content.v1");
}

/// `moby.exporter.v1`: exporters that the client chooses when it knows the result.
#[allow(
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
pub mod session_exporter {
    tonic::include_proto!("moby.exporter.v1");
}

/// `moby.buildkit.v1.sourcepolicy.policysession`: a client that decides on sources itself.
#[allow(
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
pub mod policy_session {
    tonic::include_proto!("moby.buildkit.v1.sourcepolicy.policysession");
}

/// `opentelemetry.proto.collector.trace.v1`.
#[allow(
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
pub mod otlp_trace {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}

/// `kiln.agent.v1`: what BuildKit's API lacks: cache, builds, images, machine.
#[allow(
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
pub mod agent {
    tonic::include_proto!("kiln.agent.v1");
}

/// `kiln.host.v1`: the owner of the machine.
#[allow(
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
pub mod host {
    tonic::include_proto!("kiln.host.v1");
}
