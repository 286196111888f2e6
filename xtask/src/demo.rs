//! `cargo xtask demo`: what Kiln is for, shown on this machine.
//!
//! ```text
//! demo native   the case of the notes on the engine itself, through stock buildx
//! demo machine  a virtual machine from nothing; a build in it from the image that it carries, twice; `kiln images`
//! demo          both
//! ```
//! Invariants: nothing of the user's is touched: sockets, disk and settings are in a directory of the demo's own, and
//! are removed with the machine at its end; no build of `demo machine` needs a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{self, target};
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
    let kiln = Kiln::new(&root)?;
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

/// The command, in a directory of the demo's own; the machine ends with it.
struct Kiln {
    program: PathBuf,
    guest: PathBuf,
    context: PathBuf,
    directory: PathBuf,
}

impl Kiln {
    fn new(root: &Path) -> Result<Self> {
        // Sockets need a short path.
        let directory = std::env::temp_dir().join(format!("kiln-demo-{}", std::process::id()));
        let kiln = Self {
            program: target().join("release/kiln"),
            guest: guest::directory(root),
            context: directory.join("context"),
            directory,
        };
        fs::create_dir_all(&kiln.context).with_context(|| kiln.context.display().to_string())?;
        kiln.write(DOCKERFILE)?;
        Ok(kiln)
    }

    fn write(&self, dockerfile: &str) -> Result<()> {
        Ok(fs::write(self.context.join("Dockerfile"), dockerfile)?)
    }

    /// Runs it before everybody's eyes; how long it took.
    fn runs(&self, arguments: &[&str]) -> Result<Duration> {
        eprintln!("\n$ kiln {}", arguments.join(" "));
        let began = Instant::now();
        let status = self
            .command(arguments)
            .status()
            .context("kiln doesn't start")?;
        ensure!(status.success(), "kiln {} failed", arguments.join(" "));
        Ok(began.elapsed())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KILN_GUEST", &self.guest);
        for (variable, name) in [
            ("KILN_RUNTIME_DIR", "run"),
            ("KILN_STATE_DIR", "state"),
            ("KILN_CONFIG_DIR", "config"),
        ] {
            command.env(variable, self.directory.join(name));
        }
        for variable in ["KILN_HOST", "KILN_DRIVER"] {
            command.env_remove(variable);
        }
        command
    }
}

impl Drop for Kiln {
    fn drop(&mut self) {
        // What went wrong before says more than a failure to clean up.
        let _ = self.command(&["stop", "--force", "--all"]).status();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
