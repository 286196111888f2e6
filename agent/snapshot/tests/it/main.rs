//! Snapshots and layers against a real engine's layers, both drivers, and hostile archives.

#![expect(clippy::unwrap_used, reason = "what makes test data may fail loudly")]

mod contract;
mod golden;
mod hostile;
