//! The clients and the rival that Kiln is tested with.
//!
//! Debian's `docker-buildx` in two versions, a `docker` CLI, and Debian's `docker.io`, which has a real BuildKit
//! inside. They are taken from suites that the machine doesn't run, so they are not installed but unpacked
//! into a directory of their own:
//!
//! ```text
//! $KILN_TOOLS_DIR, else $XDG_CACHE_HOME/kiln/tools, else ~/.cache/kiln/tools
//!   apt/                       private lists and archives of apt
//!   unpacked/NAME_VERSION/     one package each, complete once it has this name
//!   rootfs-SUITE.tar           a small Debian, made when a test first wants it
//!   buildx-old, buildx-new, docker-cli, dockerd, containerd    links into unpacked/
//! ```
//!
//! Invariants: nothing outside that directory changes but for the packages that the machine's own apt
//! installs; a link points to a complete package or doesn't exist; no mirror is named here, since the machine's
//! apt configuration knows one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

mod apt;
mod install;
mod rootfs;

pub use apt::{PrivateApt, install_system};
pub use install::install;
pub use rootfs::debian_rootfs;

/// Which of the two buildx versions to drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Buildx {
    /// The oldest that Debian still ships in a stable release.
    Old,
    /// The newest in Debian.
    New,
}

impl Buildx {
    /// Both, oldest first.
    pub const ALL: [Self; 2] = [Self::Old, Self::New];

    /// The name in test names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Old => "buildx-old",
            Self::New => "buildx-new",
        }
    }
}

/// The directory of unpacked tools, with everything in place.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Finds the tools that `cargo xtask setup` has put in place.
    pub fn locate() -> Result<Self> {
        let tools = Self { root: directory()? };
        for package in &install::UNPACKED {
            let program = tools.root.join(package.link).join(package.program);
            if !program.is_file() {
                bail!("{} is missing: run `cargo xtask setup`", program.display());
            }
        }
        for program in install::PROGRAMS {
            on_path(program).with_context(|| format!("{program}: run `cargo xtask setup`"))?;
        }
        Ok(tools)
    }

    /// The buildx plugin of one version.
    pub fn buildx(&self, version: Buildx) -> PathBuf {
        self.root
            .join(version.name())
            .join("usr/libexec/docker/cli-plugins/docker-buildx")
    }

    /// The `docker` CLI.
    pub fn docker(&self) -> PathBuf {
        self.root.join("docker-cli/usr/bin/docker")
    }

    /// The daemon that has the real BuildKit inside.
    pub fn dockerd(&self) -> PathBuf {
        self.root.join("dockerd/usr/sbin/dockerd")
    }

    /// What must come first in the daemon's `PATH`.
    pub fn dockerd_path(&self) -> Vec<PathBuf> {
        ["dockerd/usr/sbin", "dockerd/usr/bin", "containerd/usr/bin"]
            .iter()
            .map(|directory| self.root.join(directory))
            .collect()
    }

    /// `NAME_VERSION` of the package behind a link, for reports.
    pub fn version(&self, link: &str) -> String {
        let target = std::fs::read_link(self.root.join(link)).unwrap_or_default();
        target
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

/// Where the tools are unpacked.
pub fn directory() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("KILN_TOOLS_DIR") {
        return Ok(PathBuf::from(directory));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither KILN_TOOLS_DIR nor XDG_CACHE_HOME nor HOME is set")?;
    Ok(cache.join("kiln/tools"))
}

/// The first `program` in `PATH` or in a directory of the system's administrators.
pub fn on_path(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{program} isn't installed"))
}
