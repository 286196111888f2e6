//! What the frontend makes of Dockerfiles, compared with what a BuildKit daemon made of them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure here is a failure of the test"
)]

mod bridge;
mod contexts;
mod errors;
mod frontend;
mod golden;
mod hostile;
