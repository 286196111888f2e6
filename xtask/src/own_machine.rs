//! Kiln's command with a machine of its own, for commands of the project.
//!
//! Invariant: nothing of the user's is touched: sockets, disk and settings are in a directory that is removed with the
//! machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::cargo::target;
use crate::guest;

/// The command; the machine ends with it.
pub(crate) struct Kiln {
    program: PathBuf,
    pub(crate) guest: PathBuf,
    /// The context of builds.
    pub(crate) context: PathBuf,
    pub(crate) directory: PathBuf,
}

impl Kiln {
    /// Of builds of this profile, with the guest image of this tree.
    pub(crate) fn new(root: &Path, profile: &str) -> Result<Self> {
        // Sockets need a short path.
        let directory = std::env::temp_dir().join(format!("kiln-own-{}", std::process::id()));
        let kiln = Self {
            program: target().join(profile).join("kiln"),
            guest: guest::directory(root),
            context: directory.join("context"),
            directory,
        };
        fs::create_dir_all(&kiln.context).with_context(|| kiln.context.display().to_string())?;
        Ok(kiln)
    }

    /// A Dockerfile for the context.
    pub(crate) fn write(&self, dockerfile: &str) -> Result<()> {
        Ok(fs::write(self.context.join("Dockerfile"), dockerfile)?)
    }

    /// Runs it before everybody's eyes; how long it took.
    pub(crate) fn runs(&self, arguments: &[&str]) -> Result<Duration> {
        eprintln!("\n$ kiln {}", arguments.join(" "));
        let began = Instant::now();
        let status = self
            .command(arguments)
            .status()
            .context("kiln doesn't start")?;
        ensure!(status.success(), "kiln {} failed", arguments.join(" "));
        Ok(began.elapsed())
    }

    /// The command with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
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
