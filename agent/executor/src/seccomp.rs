//! The system calls that a build step may make.
//!
//! The profile is the one that Docker and BuildKit apply by default, kept as data: `allowed.txt` has
//! the calls that anybody may make, [`profile::RULES`] those that depend on an argument, a
//! capability or the architecture. An executor that loads filters itself compiles a profile once
//! ([`filter`]); `runc` gets it as OCI data and compiles it for every container.
//!
//! | call | answer |
//! |---|---|
//! | allowed | made |
//! | listed, but its argument is refused | `EPERM` |
//! | `clone3` without `CAP_SYS_ADMIN` | `ENOSYS`, so that libraries fall back to `clone` |
//! | not listed | `EPERM` |
//! | newer than everything listed | `ENOSYS`, as from an older kernel |
//! | of an unknown ABI (x32 among them) | `ENOSYS` |

mod filter;
mod oci;
mod profile;

pub use filter::{Filter, compile};
pub use oci::to_oci;
pub use profile::{Architecture, Check, Outcome, Profile, Rule};
