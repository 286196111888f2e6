//! Typed client of a daemon's API; serves the session.
//!
//! A module per service of Kiln's own API (`Client::cache()` and so on), beside BuildKit's calls.
//! Thin and fast: one connection, no task that outlives its call, progress handed on as it comes. What
//! speaks BuildKit's API is a daemon: `kilnd` or a real `buildkitd`.

pub mod archive;
pub mod build;
mod builds;
pub mod buildx;
mod cache;
mod call;
mod client;
mod connect;
pub mod docker;
mod dockerbuild;
mod error;
mod excerpt;
pub mod host;
mod images;
pub mod login;
mod logins;
mod machine;
mod session;
mod tls;

pub use builds::{
    BuildsClient, Cause, Description, Difference, ExplainResponse, Explanation, Project, ResultSize,
};
pub use cache::CacheClient;
pub use client::{Client, SolveOptions, Solved};
pub use connect::Address;
pub use dockerbuild::{Dockerbuild, DockerbuildError, LocalState};
pub use error::Error;
pub use excerpt::excerpt;
pub use host::HostClient;
pub use images::{BlobProgress, Image, ImagesClient, wire_credential};
pub use kiln_errdefs::Detail;
pub use kiln_ids::BuildRef;
/// Messages of `kiln.agent.v1`.
pub use kiln_proto::agent;
pub use kiln_provenance::scrub;
pub use logins::{HUB, Logins, registry_of};
pub use machine::{Activity, MachineClient, MachineInfo};
pub use session::{
    Attachments, Credential, CredentialSource, DockerConfig, Output, Secret, Session, Sink, Upload,
};
pub use tls::{TlsFiles, TlsRefusal};
