//! `kilnd` in the guest: as its first process, and as the daemon below that.
//!
//! ```text
//! kernel ─► /init (pid 1, one thread)                     kiln-guest (the daemon)
//!            root that can be pivoted, /proc /sys /dev …    modules that the link needs
//!            starts ────────────────────────────────────►   link: waits for a host and its Setup
//!            buries orphans                                 clock, names, certificates, proxies
//!            │                                              data disk ∥ other modules, add-on, network
//!            │                                              engine ─► Ready ─► serves streams of the link
//!            │◄─────────────────────────────── exit ─────   Shutdown, power button ─► drained, state closed
//!            kills what is left, unmounts, powers off
//! ```
//!
//! Failures: whatever goes wrong before `Ready` is told to the host over the link (`Failed`) and is the last line
//! on the console (`KILN-FAILED: …`), with the reason; a daemon that dies without a word is reported by the first
//! process, which can't be killed. The machine then powers off.
//!
//! Invariants: only a disk that is blank is formatted; what can't be mounted is reported and left as it is; the
//! first process does nothing that can panic on what it reads.

mod add_on;
mod base_image;
mod blank;
mod disk;
mod first;
mod guest;
mod link;
mod modules;
mod mounts;
mod network;
mod offer;
mod power_button;
mod system;

use std::process::ExitCode;

pub(crate) use disk::{errors as disk_errors, grow as grow_disk};
pub(crate) use link::LinkStream;
pub(crate) use system::set_clock;

/// The name (`argv[0]`) under which the binary is the daemon of a guest.
const GUEST: &str = "kiln-guest";

/// What this process is in a guest, if it is in one. To be called before there are threads.
pub(crate) fn main() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    if name == GUEST {
        return Some(guest::main());
    }
    (std::process::id() == 1 && name == "/init").then(first::main)
}

/// The last words: a line that the host finds on the console.
#[expect(
    clippy::print_stderr,
    reason = "the console is all that is left to speak on"
)]
fn last_words(reason: &str) {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("\n{}{line}", kiln_link::machine::LAST_WORDS);
}
