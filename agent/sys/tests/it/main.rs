//! Against the real kernel; needs root.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod mounts;
mod rootfs;
