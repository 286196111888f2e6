//! Slot processes: single-threaded children of the daemon that start containers for it.
//!
//! ```text
//! daemon (threads) ── exec of a sealed copy of itself ──► slot (one thread, own mount namespace)
//!    │  job: what to run, mounts and streams as descriptors        │ clone
//!    ├──────────────────────── socket ──────────────────────────►  ├──► first process of a container
//!    │◄──── pidfd at once, exit status later ──────────────────────┤
//!    │◄──── pipe: empty if the program was executed, else why not ─┴─── (closed by exec)
//! ```
//! A threaded process can't run Rust between `clone` and `exec`; a slot can. It is executed from a
//! sealed memory file, so that a container that finds it can't overwrite the daemon's binary
//! (CVE-2019-5736), and it can't be dumped or traced. Where cgroups are of version 1 a slot lives in
//! the group of its containers, for joining one there takes 15 ms.
//!
//! Invariants: a slot has one container at a time; everything it started dies with it, and it dies
//! with the daemon's end of the socket; all descriptors are closed on exec.

mod child;
mod clone;
mod confine;
mod fill;
mod protocol;
mod slot;
pub mod wire;

pub use protocol::{
    Attach, Container, Device, Exec, Job, Net, Prepare, Process, Reply, Report, Run, Standard,
    Streams,
};

/// The name (`argv[0]`) under which the binary is a slot.
pub const SLOT: &str = "kiln-slot";

/// To be called first in `main`, before there are threads: returns unless this process is a slot.
pub fn launcher_main() {
    if std::env::args_os().next().is_some_and(|name| name == SLOT) {
        std::process::exit(slot::serve());
    }
}
