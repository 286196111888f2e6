//! Cache policies, prune, plan and disk usage.
//!
//! A [`Policy`] says what may go and how much may stay, with BuildKit's meaning. [`plan`] works out,
//! from usage records alone, what a run of policies would remove, in which order and why; a
//! [`Collector`] does it. What a run removes is what its plan said, less what came into use meanwhile.
//!
//! Invariants: nothing in use, pinned or built upon is removed; a record goes only after all that is
//! built on it; a plan touches nothing.

mod collector;
mod error;
mod filter;
mod plan;
mod plans;
mod policies;
mod policy;
mod reason;
mod runs;
mod sweep;

pub use collector::{AfterRun, Collector, Outcome, QuietCheck};
pub use error::Error;
pub use filter::{Filter, Filters};
pub use plan::{Order, Plan, PlannedRemoval, plan};
pub use policies::InForce;
pub use policy::{Disk, Policy};
pub use reason::{Kept, Reason};
pub use runs::{Removal, Run, Trigger};
