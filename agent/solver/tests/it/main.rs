//! The solver driven through its public API with fake ops.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod builds;
mod invariants;
mod lab;
mod random;
mod store;
mod transfer;
