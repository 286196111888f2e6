//! The two daemons that a scenario can run on.

use std::path::Path;

use anyhow::Result;

use crate::kilnd::Kilnd;
use crate::moby::Moby;

/// A daemon that speaks BuildKit's API on a unix socket.
#[derive(Debug)]
pub enum Engine<'a> {
    /// A `kilnd` of the scenario's own.
    Kilnd(Box<Kilnd>),
    /// The real BuildKit, shared by scenarios that run one after the other.
    Moby(&'a Moby),
}

impl Engine<'_> {
    /// The socket of the BuildKit API.
    pub fn socket(&self) -> &Path {
        match self {
            Self::Kilnd(kilnd) => kilnd.socket(),
            Self::Moby(moby) => moby.socket(),
        }
    }

    /// What each build needs on this daemon. The real one has no bridge here, so its steps use the host's network.
    pub fn build_arguments(&self) -> &'static [&'static str] {
        match self {
            Self::Kilnd(_) => &[],
            Self::Moby(_) => &["--network", "host"],
        }
    }

    /// Whether this is `kilnd`.
    pub fn is_kilnd(&self) -> bool {
        matches!(self, Self::Kilnd(_))
    }

    /// The end of the daemon's log.
    pub fn log_tail(&self) -> String {
        match self {
            Self::Kilnd(kilnd) => kilnd.log_tail(),
            Self::Moby(moby) => moby.log_tail(),
        }
    }

    /// Checks that no build left anything mounted or running.
    pub fn check_idle(&self) -> Result<()> {
        match self {
            Self::Kilnd(kilnd) => kilnd.check_idle(),
            Self::Moby(_) => Ok(()),
        }
    }

    /// Ends a daemon of one's own and checks that it left nothing.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Kilnd(kilnd) => kilnd.finish(),
            Self::Moby(_) => Ok(()),
        }
    }
}
