//! The `kiln` command with directories of its own, as a person has it: it starts the `kiln-vmd` that it needs.
//!
//! The binary is `$KILN_CLI`, else the one beside `kiln-vmd`. The owner that a test leaves running ends with its
//! [`Home`], also when the test panics.
#![allow(
    dead_code,
    reason = "two test programs share this, and each needs its part"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_config::HostPaths;
use serde_json::Value;
use tempfile::TempDir;

use crate::bed::{directories, is_alive, kill, kilnd, vmd_program};

/// Of one user.
pub(crate) struct Home {
    pub(crate) root: TempDir,
    pub(crate) paths: HostPaths,
    environment: Vec<(&'static str, String)>,
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command, the exit code that it should have, and what it should say.
pub(crate) struct Row<'a> {
    pub(crate) arguments: &'a [&'a str],
    pub(crate) code: i32,
    pub(crate) says: &'a [&'a str],
}

/// A line of a table.
pub(crate) const fn row<'a>(arguments: &'a [&'a str], code: i32, says: &'a [&'a str]) -> Row<'a> {
    Row {
        arguments,
        code,
        says,
    }
}

pub(crate) fn binary() -> PathBuf {
    let path = std::env::var_os("KILN_CLI")
        .map_or_else(|| vmd_program().with_file_name("kiln"), PathBuf::from);
    assert!(
        path.is_file(),
        "{} isn't there: cargo build -p kiln, or set KILN_CLI",
        path.display()
    );
    path
}

impl Home {
    /// With these settings.
    pub(crate) fn new(settings: &str) -> Self {
        let (root, paths) = directories(settings);
        Self {
            root,
            paths,
            environment: Vec::new(),
        }
    }

    /// With the native driver, chosen by the environment.
    pub(crate) fn native() -> Self {
        let mut home = Self::new("");
        home.set("KILN_DRIVER", "native");
        home
    }

    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.environment.push((name, value.into()));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .current_dir(self.root.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.root.path())
            .env("DOCKER_CONFIG", self.path("docker"))
            .env("BUILDX_CONFIG", self.path("buildx"))
            .env("KILN_RUNTIME_DIR", &self.paths.runtime)
            .env("KILN_STATE_DIR", &self.paths.state)
            .env("KILN_CONFIG_DIR", &self.paths.config)
            .env("KILN_VMD", vmd_program())
            .env("KILN_KILND", kilnd())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ended {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Runs it, and expects that it ends and speaks like this.
    pub(crate) fn expect(&self, row: &Row<'_>) -> Ended {
        let ended = self.run(row.arguments);
        let said = |text: &&&str| ended.stdout.contains(**text) || ended.stderr.contains(**text);
        let missing: Vec<_> = row.says.iter().filter(|text| !said(text)).collect();
        assert!(
            ended.code == Some(row.code) && missing.is_empty(),
            "kiln {:?}: want {} and {missing:?}\n{ended:#?}\n{}\nconsole:\n{}",
            row.arguments,
            row.code,
            std::fs::read_to_string(self.paths.vmd_log()).unwrap_or_default(),
            std::fs::read_to_string(self.paths.console_log()).unwrap_or_default()
        );
        ended
    }

    /// Runs it, and reads its answer.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.expect(&row(arguments, 0, &[]));
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    }

    /// The process id of the owner, while one runs.
    pub(crate) fn owner(&self) -> Option<i32> {
        let pid = std::fs::read_to_string(self.paths.lock_file()).ok()?;
        let pid = pid.trim().parse().ok()?;
        is_alive(pid).then_some(pid)
    }

    pub(crate) fn put(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Its state is deleted in a moment: whatever holds it must be gone.
        if let Some(pid) = self.owner() {
            let asked = self.run(&["stop", "--all", "--force"]);
            let deadline = std::time::Instant::now() + crate::bed::PATIENCE;
            while is_alive(pid) && asked.code == Some(0) && std::time::Instant::now() < deadline {
                std::thread::yield_now();
            }
            if is_alive(pid) {
                kill(pid, "KILL");
            }
        }
    }
}
