//! Kiln's machine: a real guest under QEMU, by the `kiln` command and a `kiln-vmd` with directories of their own.
//!
//! The programs are `$KILN_CLI` and `$KILN_VMD`, else the newest of `target/{release,debug}`; the guest image is
//! `$KILN_GUEST`, else `target/guest/image` (`cargo xtask guest`).
//!
//! Invariant: the machine ends with its owner here, also when a test panics.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::kiln::binary;
use crate::run::Run;

/// Where the guest finds the host's loopback.
pub const HOST: &str = "host.kiln.internal";

/// A machine of a test's own.
#[derive(Debug)]
pub struct Machine {
    directory: TempDir,
    guest: PathBuf,
}

impl Machine {
    /// Starts one with these settings.
    pub fn start(settings: &str) -> Result<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        let guest = std::env::var_os("KILN_GUEST")
            .map_or_else(|| target.join("guest/image"), PathBuf::from);
        ensure!(
            guest.join("manifest.json").is_file(),
            "no guest image in {}: cargo xtask guest",
            guest.display()
        );
        // Sockets need a short path.
        let directory = tempfile::Builder::new().prefix("km").tempdir()?;
        let machine = Self { directory, guest };
        fs::create_dir(machine.path("c"))?;
        fs::write(machine.path("c/settings.toml"), settings)?;
        machine.run(&["start"])?.succeeds()?;
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The socket that speaks BuildKit's API.
    pub fn socket(&self) -> PathBuf {
        self.path("r/buildkitd.sock")
    }

    /// `kiln ARGUMENTS` with this machine.
    pub fn kiln(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("KILN_CLI", "kiln")?);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("HOME", self.directory.path())
            .env("DOCKER_CONFIG", self.path("docker"))
            .env("KILN_CONFIG_DIR", self.path("c"))
            .env("KILN_STATE_DIR", self.path("s"))
            .env("KILN_RUNTIME_DIR", self.path("r"))
            .env("KILN_VMD", binary("KILN_VMD", "kiln-vmd")?)
            .env("KILN_GUEST", &self.guest);
        for name in ["KILN_HOST", "BUILDKIT_HOST", "KILN_DRIVER"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Result<Run> {
        Run::of(&mut self.kiln(arguments)?)
    }

    /// The end of what the machine printed.
    pub fn console(&self) -> String {
        let run = self.run(&["logs", "--tail", "30"]);
        run.map_or_else(|error| error.to_string(), |run| run.stdout)
    }

    /// Ends it in order.
    pub fn finish(self) -> Result<()> {
        let stopped = self.run(&["stop"])?.succeeds();
        stopped.map(drop).context("an orderly stop")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // What went wrong before says more than a failure to clean up.
        drop(self.run(&["stop", "--all", "--force"]));
    }
}
