//! `cargo xtask demo`: what Kiln is for, shown on this machine.
//!
//! ```text
//! demo native   the case of the notes on the engine itself, through stock buildx
//! demo machine  a virtual machine from nothing; a build in it from the image that it carries, twice; `kiln images`
//! demo          both
//! ```
//! Invariants: nothing of the user's is touched: sockets, disk and settings are in a directory of the demo's own, and
//! are removed with the machine at its end; no build of `demo machine` needs a network.

use std::process::ExitCode;

use anyhow::Result;

use crate::cargo::{self, target};
use crate::own_machine::Kiln;
use crate::{guest, workspace};

/// In the style of the notes: something that is slow to get is kept in a cache mount.
const DOCKERFILE: &str = "\
FROM busybox
RUN --mount=type=cache,target=/downloads \\
    [ -f /downloads/source ] || { echo getting the source, slowly; sleep 5; seq 2000000 > /downloads/source; }
RUN --mount=type=cache,target=/downloads wc -l /downloads/source > /lines
";
/// The same with a changed last step: the slow one isn't repeated.
const CHANGED: &str =
    "RUN --mount=type=cache,target=/downloads tail -n 1 /downloads/source > /last\n";

/// The case of the notes, with its progress.
pub(crate) fn native() -> Result<ExitCode> {
    kiln_test_tools::install()?;
    let kilnd = guest::kilnd(&workspace::root())?.display().to_string();
    let job = [
        "test",
        "--quiet",
        "-p",
        "kiln-e2e",
        "--test",
        "slow",
        "--",
        "buildx-new",
    ];
    cargo::run(&job, &[(cargo::KILND, &kilnd), ("KILN_SHOW", "1")])?;
    Ok(ExitCode::SUCCESS)
}

/// A machine, and two builds in it.
pub(crate) fn machine() -> Result<ExitCode> {
    kiln_test_tools::install()?;
    let root = workspace::root();
    guest::make(&root, guest::Purpose::Make, Some(&guest::kilnd(&root)?))?;
    cargo::run(&["build", "--release", "-p", "kiln", "-p", "kiln-vm"], &[])?;
    let kiln = Kiln::new(&root, "release")?;
    kiln.write(DOCKERFILE)?;
    let started = kiln.runs(&["start"])?;
    let context = kiln.context.display().to_string();
    let build = ["build", "--progress", "plain", "-t", "demo/lines", &context];
    let first = kiln.runs(&build)?;
    kiln.write(&format!("{DOCKERFILE}{CHANGED}"))?;
    let second = kiln.runs(&build)?;
    kiln.runs(&["images"])?;
    kiln.runs(&["du"])?;
    eprintln!(
        "\nThe machine was up after {started:.1?}. First build {first:.1?}, second {second:.1?}: \
         what hadn't changed came from the cache."
    );
    eprintln!(
        "To go on: add {} to PATH, then `kiln start`, `kiln build .`, `kiln --help`.",
        target().join("release").display()
    );
    Ok(ExitCode::SUCCESS)
}
