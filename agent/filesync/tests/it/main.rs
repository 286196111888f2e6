//! Transfers between the two ends over in-memory streams, and hostile or dying peers.

#![expect(clippy::unwrap_used, reason = "tests fail where they stand")]

mod delta;
mod filters;
mod hostile;
mod pair;
mod whole;
