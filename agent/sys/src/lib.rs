//! All unsafe code: mounts, namespaces, cgroups, pidfds, the launcher, the reaper of children.
//!
//! Invariant: no other crate contains `unsafe`; each block here names the invariants it relies on.

pub mod cgroup;
pub mod environment;
pub mod heap;
pub mod inherit;
pub mod launcher;
pub mod memfd;
pub mod mount;
pub mod netns;
pub mod polled;
pub mod port;
pub mod process;
pub mod pty;
pub mod reaper;
pub mod rootfs;
pub mod trim;
