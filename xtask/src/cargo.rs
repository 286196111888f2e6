//! Runs cargo for the commands that build and test.
//!
//! Invariant: the daemon that benchmarks use is the one of this tree that ships.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{guest, workspace};

/// The variable that tells the harness which daemon to start.
pub(crate) const KILND: &str = "KILN_KILND";

/// The benchmarks; they write `docs/performance.md`.
pub(crate) fn bench(arguments: &[&str]) -> Result<ExitCode> {
    kiln_test_tools::install()?;
    let kilnd = guest::kilnd(&workspace::root())?.display().to_string();
    let mut all = vec!["run", "--release", "-p", "kiln-benches", "--"];
    all.extend(arguments);
    run(&all, &[(KILND, &kilnd)])?;
    Ok(ExitCode::SUCCESS)
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace::root().join("target"), PathBuf::from)
}

/// Runs cargo; an error if it fails.
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(workspace::root())
        .status()
        .context("cargo doesn't start")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}
