//! Runs cargo for the commands that build and test.
//!
//! Invariant: the daemon that benchmarks use is the one of this tree that ships.

use std::path::{Path, PathBuf};
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

/// Cargo, in a workspace of this tree, as if it were called by hand.
pub(crate) fn cargo_in(directory: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(directory);
    // What the outer cargo says of this program. Build scripts look at it, and everything above them would be
    // compiled anew for whoever calls cargo next.
    let of_package = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
    ];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if of_package.iter().any(|start| text.starts_with(start)) {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Runs cargo; an error if it fails.
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let status = cargo_in(&workspace::root())
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .context("cargo doesn't start")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}
