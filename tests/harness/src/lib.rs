//! Starts daemons and servers on loopback and drives them with stock clients.
//!
//! ```text
//!   Bed ── Registry (docker-registry, filled with busybox)   Web (files, slow files, git)   Tools
//!    │
//!   Stage ── one Engine (kilnd of its own, or the shared real BuildKit) ── one buildx version ── one directory
//! ```
//!
//! A scenario is a function of a [`Stage`]. It runs unchanged on `kilnd` and on a real BuildKit, which proves
//! that what it expects is what users of BuildKit know.
//!
//! Invariants: everything listens on loopback or on a socket in a temporary directory; what was started ends with
//! its owner, also when a test panics; a wait is for a condition and has a deadline.

mod archive;
mod authority;
mod bed;
mod buildx;
mod collector;
mod context;
mod disk;
mod engine;
mod git;
mod keyring;
mod kiln;
mod kilnd;
mod leftovers;
mod lie;
mod machine;
mod moby;
mod registry;
mod relay;
mod run;
mod service;
mod terminal;
mod wait;
mod web;

pub use archive::{Archive, Image, Layer};
pub use authority::Authority;
pub use bed::{Bed, Stage};
pub use buildx::Client;
pub use collector::{Collector, Seen};
pub use context::Context;
pub use disk::Disk;
pub use engine::Engine;
pub use git::Repository;
pub use keyring::Keyring;
pub use kiln_test_tools::{Buildx, Tools, on_path};
pub use kilnd::{Kilnd, KilndOptions};
pub use leftovers::{mounts_under, processes_with_argument, processes_with_mounts_under};
pub use machine::{HOST, Machine};
pub use moby::Moby;
pub use registry::Registry;
pub use run::{Run, Running};
pub use service::Service;
pub use terminal::{Size, Terminal};
pub use wait::{until, within};
pub use web::Web;
