//! What the crate promises to those who build and read definitions.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod decode;
mod keys;
