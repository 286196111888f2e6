//! A whole `kilnd` that is killed, runs out of disk, loses its power, or finds its state damaged.
//!
//! | variable | what it sets |
//! |---|---|
//! | `KILN_CRASH_POINTS` | at how many points the daemon is killed |
//! | `KILN_CRASH_CUTS` | how often the power is cut |
//! | `KILN_CRASH_SEED` | where the random numbers start |
//!
//! They run one after the other: each looks at what is mounted and running.

mod damage;
mod full;
mod full_elsewhere;
mod full_sources;
mod kill;
mod power;
mod random;
mod state;
mod thin;
mod verify;
mod work;

use std::process::ExitCode;

use anyhow::{Context as _, Result};

fn main() -> ExitCode {
    let mut tests = vec![
        (
            "killed_at_random_points",
            kill::killed_at_random_points as kiln_e2e::OnBed,
        ),
        ("power_cut", power::power_cut),
        ("power_cut_without_syncs", power::power_cut_without_syncs),
    ];
    tests.extend(damage::ALL);
    tests.extend(full::ALL);
    tests.extend(full_elsewhere::ALL);
    tests.extend(full_sources::ALL);
    tests.extend(state::ALL);
    kiln_e2e::main_on_bed(&tests)
}

/// A number from the environment.
fn number_from(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(default),
    }
}
