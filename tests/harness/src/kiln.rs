//! The `kiln` command as a client.
//!
//! The binary is `$KILN_CLI`, else the newest of `target/{release,debug}/kiln`; CI builds it.
//!
//! Invariant: nothing of the user's configuration is read or written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::bed::Stage;
use crate::context::Context;

impl Stage<'_> {
    /// `kiln ARGUMENTS` with the scenario's daemon as the builder.
    pub fn kiln(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("KILN_CLI", "kiln")?);
        let home = self.path("home");
        fs::create_dir_all(&home)?;
        command
            .args(arguments)
            .current_dir(self.directory())
            .env("HOME", &home)
            .env("DOCKER_CONFIG", home.join("docker"))
            .env("KILN_CONFIG_DIR", home.join("config"))
            .env("KILN_STATE_DIR", home.join("state"))
            .env("KILN_RUNTIME_DIR", home.join("run"))
            .env(
                "KILN_HOST",
                format!("unix://{}", self.engine.socket().display()),
            )
            .env(
                "DOCKER_HOST",
                format!("unix://{}", home.join("no-docker.sock").display()),
            );
        for name in [
            "BUILDKIT_HOST",
            "BUILDKIT_PROGRESS",
            "DBUS_SESSION_BUS_ADDRESS",
            "DOCKER_CERT_PATH",
            "DOCKER_CONTEXT",
            "DOCKER_DEFAULT_PLATFORM",
            "DOCKER_TLS",
            "DOCKER_TLS_VERIFY",
            "SOURCE_DATE_EPOCH",
            "SSH_AUTH_SOCK",
        ] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// `kiln build ARGUMENTS .` in a context, with what each build needs on this daemon.
    pub fn kiln_build(&self, context: &Context, arguments: &[&str]) -> Result<Command> {
        let mut all = vec!["build"];
        all.extend(self.engine.build_arguments());
        all.extend(arguments);
        all.push(".");
        let mut command = self.kiln(&all)?;
        command.current_dir(context.path());
        Ok(command)
    }
}

/// A program of the workspace: what the variable names, else the newest that was built.
pub(crate) fn binary(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    ["release", "debug"]
        .iter()
        .map(|profile| target.join(profile).join(name))
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .with_context(|| format!("{name} isn't built: run `cargo build -p kiln -p kiln-vm`"))
}
