//! Policies, plans and prunes.

#![expect(clippy::unwrap_used, reason = "what makes test data may fail loudly")]

mod filter;
mod plan;
mod prune;
mod record;
