//! The client against a real registry, and against servers that misbehave.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod auth;
mod misbehaving;
mod real;
mod scripted;
mod server;
