//! Scenarios and where they run.
//!
//! Each scenario becomes a test `kilnd/buildx-old/NAME` and `kilnd/buildx-new/NAME`, each on a `kilnd` of its own
//! that must leave nothing behind, and `moby/NAME` on a real BuildKit, which proves the expectation. A test [`OnBed`]
//! starts the daemons that it needs.
//!
//! Invariant: a scenario that doesn't run somewhere says why in its own words.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use kiln_harness::{Bed, Buildx, KilndOptions, Stage};
use libtest_mimic::{Arguments, Failed, Trial};

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    name: &'static str,
    run: fn(&mut Stage<'_>) -> Result<()>,
    not_on_moby: Option<&'static str>,
    not_with_old_buildx: Option<&'static str>,
    fresh_moby: bool,
    config: &'static str,
}

impl Scenario {
    /// A scenario that runs everywhere.
    pub const fn new(name: &'static str, run: fn(&mut Stage<'_>) -> Result<()>) -> Self {
        Self {
            name,
            run,
            not_on_moby: None,
            not_with_old_buildx: None,
            fresh_moby: false,
            config: "",
        }
    }

    /// Not on the real BuildKit, for this reason.
    #[must_use]
    pub const fn kilnd_only(self, reason: &'static str) -> Self {
        Self {
            not_on_moby: Some(reason),
            ..self
        }
    }

    /// Not with the old buildx, for this reason.
    #[must_use]
    pub const fn new_buildx_only(self, reason: &'static str) -> Self {
        Self {
            not_with_old_buildx: Some(reason),
            ..self
        }
    }

    /// On a real BuildKit that has done nothing before.
    #[must_use]
    pub const fn fresh_moby(self) -> Self {
        Self {
            fresh_moby: true,
            ..self
        }
    }

    /// With more of `buildkitd.toml` for `kilnd`.
    #[must_use]
    pub const fn config(self, config: &'static str) -> Self {
        Self { config, ..self }
    }

    /// The tests that this scenario becomes.
    fn trials(self, bed: &Arc<Bed>) -> Vec<Trial> {
        let mut trials = Vec::new();
        for version in Buildx::ALL {
            if version == Buildx::Old && self.not_with_old_buildx.is_some() {
                continue;
            }
            let bed = Arc::clone(bed);
            let name = format!("kilnd/{}/{}", version.name(), self.name);
            trials.push(Trial::test(name, move || {
                let options = KilndOptions {
                    config: self.config.to_owned(),
                    ..KilndOptions::default()
                };
                report(bed.on_kilnd(version, options, self.run))
            }));
        }
        if self.not_on_moby.is_none() {
            let bed = Arc::clone(bed);
            trials.push(Trial::test(format!("moby/{}", self.name), move || {
                report(bed.on_moby(Buildx::New, self.fresh_moby, self.run))
            }));
        }
        trials
    }
}

/// Runs scenarios, and tests with daemons of their own, as `cargo test` would run tests, and stops what they
/// shared.
pub fn main(
    scenarios: impl IntoIterator<Item = Scenario>,
    others: &[(&'static str, OnBed)],
) -> ExitCode {
    run(&Arguments::from_args(), scenarios, others)
}

/// The same, one after the other, for scenarios that measure time.
pub fn main_in_turn(
    scenarios: impl IntoIterator<Item = Scenario>,
    others: &[(&'static str, OnBed)],
) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    run(&arguments, scenarios, others)
}

/// A test that starts its own daemons, with the servers that all share.
pub type OnBed = fn(&Bed) -> Result<()>;

/// Runs such tests one after the other, for those that look at what the whole machine has mounted or running.
pub fn main_on_bed(tests: &[(&'static str, OnBed)]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    run(&arguments, [], tests)
}

fn run(
    arguments: &Arguments,
    scenarios: impl IntoIterator<Item = Scenario>,
    others: &[(&'static str, OnBed)],
) -> ExitCode {
    let bed = match Bed::start() {
        Ok(bed) => Arc::new(bed),
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let others = others.iter().map(|&(name, test)| {
        let bed = Arc::clone(&bed);
        Trial::test(name, move || report(test(&bed)))
    });
    let trials = scenarios
        .into_iter()
        .flat_map(|scenario| scenario.trials(&bed))
        .chain(others)
        .collect();
    // Not `exit()`: the servers that the bed owns must be stopped first.
    libtest_mimic::run(arguments, trials).exit_code()
}

fn report(outcome: Result<()>) -> Result<(), Failed> {
    // The chain without a backtrace: where a scenario stopped shows in its words.
    outcome.map_err(|error| {
        let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
        Failed::from(causes.join("\n\ncaused by: "))
    })
}
