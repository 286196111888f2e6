//! The content store and the codecs as other crates use them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod codecs;
mod store;
