//! Waiting for conditions of other processes, which can only be looked at again and again.
//!
//! Invariant: a wait ends at its deadline with the name of what didn't happen.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `condition` yields a value, or fails after `limit` with the name of what was awaited.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(PAUSE);
    }
}

/// Like [`until`] for a plain condition.
pub fn within(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, || condition().then_some(()))
}
