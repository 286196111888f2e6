//! Sources against real servers, into a real state root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;
mod git;
mod hostile;
mod image;
#[allow(dead_code, reason = "what the registry's own tests need more")]
#[path = "../../../registry/tests/it/scripted.rs"]
mod scripted;
#[path = "../../../registry/tests/it/server.rs"]
mod server;
