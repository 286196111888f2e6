//! The cache on a real state root: life cycles of records, lazy layers, restarts and crashes.

#![expect(clippy::unwrap_used, reason = "what makes test data may fail loudly")]

mod compose;
mod fixture;
mod lazy;
mod life;
mod restart;
