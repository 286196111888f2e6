//! Debian's buildx as a client, with a configuration of its own for each scenario.
//!
//! Invariant: nothing of the user's Docker configuration is read or written.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use kiln_test_tools::{Buildx, Tools};
use tempfile::TempDir;

use crate::context::Context;
use crate::run::{Run, Running};

const BUILDER: &str = "scenario";

/// A buildx of one version with one builder.
#[derive(Debug)]
pub struct Client {
    tools: Tools,
    version: Buildx,
    build_arguments: &'static [&'static str],
    configuration: TempDir,
}

impl Client {
    /// Sets up a builder of the `remote` driver for `socket`; each build gets `build_arguments` first.
    pub fn connect(
        tools: &Tools,
        version: Buildx,
        socket: &Path,
        build_arguments: &'static [&'static str],
    ) -> Result<Self> {
        let configuration = tempfile::Builder::new().prefix("buildx-").tempdir()?;
        let client = Self {
            tools: tools.clone(),
            version,
            build_arguments,
            configuration,
        };
        let endpoint = format!("unix://{}", socket.display());
        let create = [
            "create", "--name", BUILDER, "--driver", "remote", "--use", &endpoint,
        ];
        client.buildx(create)?.succeeds()?;
        Ok(client)
    }

    /// Which buildx this is.
    pub fn version(&self) -> Buildx {
        self.version
    }

    /// `docker buildx ARGUMENTS`.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(self.tools.buildx(self.version));
        command.args(arguments);
        let directory = self.configuration.path();
        command.current_dir(directory).env("HOME", directory);
        command
            .env("DOCKER_CONFIG", directory.join("docker"))
            .env("BUILDX_CONFIG", directory.join("buildx"));
        for name in [
            "DOCKER_HOST",
            "BUILDKIT_HOST",
            "BUILDX_BUILDER",
            "SSH_AUTH_SOCK",
            "SOURCE_DATE_EPOCH",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// Runs `docker buildx ARGUMENTS`.
    pub fn buildx<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Run> {
        Run::of(&mut self.command(arguments))
    }

    /// The command of `docker buildx build` with plain progress.
    pub fn build_command(&self, context: &Context, arguments: &[&str]) -> Command {
        let mut command = self.command(["build", "--progress", "plain"]);
        command
            .args(self.build_arguments)
            .args(arguments)
            .arg(".")
            .current_dir(context.path());
        command
    }

    /// Builds a context to the end.
    pub fn build(&self, context: &Context, arguments: &[&str]) -> Result<Run> {
        Run::of(&mut self.build_command(context, arguments))
    }

    /// Starts to build a context.
    pub fn start_build(&self, context: &Context, arguments: &[&str]) -> Result<Running> {
        Running::start(&mut self.build_command(context, arguments))
    }
}
