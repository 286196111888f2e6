//! `kilnd` with a root directory, a configuration and a socket of its own.
//!
//! The binary is `$KILN_KILND`, else the newest of `target/{release,debug}/kilnd`; `cargo xtask test` builds it.
//!
//! Invariants: the daemon is ready when it accepts a connection; after [`Kilnd::finish`] nothing of it is mounted
//! or running, or the call says what is.

use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::leftovers::{mounts_under, processes_with_mounts_under, unmount_under};
use crate::lie::without_syncs;
use crate::registry::Registry;
use crate::service::Service;
use crate::wait::within;

const READY_WITHIN: Duration = Duration::from_secs(15);
const CLEAN_WITHIN: Duration = Duration::from_secs(2);

/// How to start the daemon.
#[derive(Debug, Clone, Default)]
pub struct KilndOptions {
    /// More of `buildkitd.toml`, after the registries.
    pub config: String,
    /// More flags.
    pub flags: Vec<String>,
    /// More environment.
    pub environment: Vec<(String, String)>,
    /// Where the state is; in the daemon's own directory if not given.
    pub root: Option<PathBuf>,
    /// Its calls to write to the disk do nothing.
    pub drops_syncs: bool,
}

/// A running `kilnd`.
#[derive(Debug)]
pub struct Kilnd {
    service: Option<Service>,
    directory: TempDir,
    socket: PathBuf,
    options: KilndOptions,
}

impl Kilnd {
    /// Starts a daemon with `registry` as the mirror of Docker Hub.
    pub fn start(registry: &Registry, options: KilndOptions) -> Result<Self> {
        let mut kilnd = Self::prepare(registry, options)?;
        kilnd.spawn()?;
        Ok(kilnd)
    }

    /// The same, not started yet.
    pub fn prepare(registry: &Registry, options: KilndOptions) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("kilnd-").tempdir()?;
        let host = registry.host();
        let config = format!(
            "insecure-entitlements = [\"network.host\", \"security.insecure\"]\n\n[registry.\"docker.io\"]\nmirrors = \
             [\"{host}\"]\n\n[registry.\"{host}\"]\nhttp = true\n\n{}",
            options.config
        );
        fs::write(directory.path().join("buildkitd.toml"), config)?;
        let socket = directory.path().join("buildkitd.sock");
        Ok(Self {
            service: None,
            directory,
            socket,
            options,
        })
    }

    /// The socket of the BuildKit API.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The daemon's state.
    pub fn root(&self) -> PathBuf {
        let own = || self.directory.path().join("root");
        self.options.root.clone().unwrap_or_else(own)
    }

    /// The process id of the running daemon.
    pub fn id(&self) -> Option<u32> {
        self.service.as_ref().map(Service::id)
    }

    /// The end of the daemon's log.
    pub fn log_tail(&self) -> String {
        self.service
            .as_ref()
            .map(Service::log_tail)
            .unwrap_or_default()
    }

    /// Stops the daemon in order and starts it again on the same state.
    pub fn restart(&mut self) -> Result<()> {
        self.end()?;
        self.spawn()
    }

    /// Stops the daemon and starts it on an empty state.
    pub fn start_anew(&mut self) -> Result<()> {
        self.stop()?;
        fs::remove_dir_all(self.root())?;
        self.spawn()
    }

    /// Whether the daemon holds a blob.
    pub fn has_blob(&self, digest: &str) -> bool {
        let blobs = self.root().join("content/blobs");
        blobs.join(digest.replace(':', "/")).exists()
    }

    /// Kills the daemon without warning and starts it again on the same state.
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.kill()?;
        self.spawn()
    }

    /// Kills the daemon without warning.
    pub fn kill(&mut self) -> Result<()> {
        match self.service.take() {
            Some(service) => service.kill(),
            None => Ok(()),
        }
    }

    /// Whether the next start is one whose calls to write to the disk do nothing.
    pub fn drop_syncs(&mut self, drop: bool) {
        self.options.drops_syncs = drop;
    }

    /// Stops the daemon in order.
    pub fn stop(&mut self) -> Result<()> {
        self.end()
    }

    /// Starts the daemon again on its state.
    pub fn start_again(&mut self) -> Result<()> {
        self.spawn()
    }

    /// Starts the daemon again and expects that it refuses; gives what it says.
    pub fn refuses_to_start(&mut self) -> Result<String> {
        let log = self.directory.path().join("kilnd.log");
        let before = fs::read(&log).unwrap_or_default().len();
        let mut service = self.launch()?;
        within("kilnd ends by itself", READY_WITHIN, || {
            !service.is_running()
        })?;
        let said = fs::read(&log)?;
        Ok(String::from_utf8_lossy(&said[before..]).into_owned())
    }

    /// What builds left behind while the daemon runs: nothing after `CLEAN_WITHIN`.
    pub fn check_idle(&self) -> Result<()> {
        let root = self.root();
        let left = || (mounts_under(&root), processes_with_mounts_under(&root));
        within("no mount and no process is left", CLEAN_WITHIN, || {
            let (mounts, processes) = left();
            mounts.is_empty() && self.only_own(&processes)
        })
        .with_context(|| format!("left behind: {:?}", left()))
    }

    /// Stops the daemon and checks that nothing of it is left.
    pub fn finish(mut self) -> Result<()> {
        self.check_idle()?;
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(service) = self.service.take() else {
            return Ok(());
        };
        let log = service.log().to_path_buf();
        let status = service.stop()?;
        if !status.success() {
            bail!(
                "kilnd ended with {status}:\n{}",
                fs::read_to_string(log).unwrap_or_default()
            );
        }
        let root = self.root();
        let mounts = mounts_under(&root);
        if !mounts.is_empty() {
            bail!("still mounted after kilnd ended: {mounts:?}");
        }
        let processes = processes_with_mounts_under(&root);
        if !processes.is_empty() {
            bail!("still running after kilnd ended: {processes:?}");
        }
        Ok(())
    }

    fn spawn(&mut self) -> Result<()> {
        let mut service = self.launch()?;
        let socket = self.socket.clone();
        service.wait_until("listening", READY_WITHIN, || {
            UnixStream::connect(&socket).is_ok_and(|stream| stream.shutdown(Shutdown::Both).is_ok())
        })?;
        self.service = Some(service);
        Ok(())
    }

    fn launch(&self) -> Result<Service> {
        let at = |name: &str| self.directory.path().join(name);
        let binary = binary()?;
        let mut command = if self.options.drops_syncs {
            without_syncs(&binary)
        } else {
            Command::new(binary)
        };
        command
            .arg("--root")
            .arg(self.root())
            .arg("--config")
            .arg(at("buildkitd.toml"))
            .arg("--addr")
            .arg(format!("unix://{}", self.socket.display()))
            .args(&self.options.flags)
            .envs(
                self.options
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .current_dir(self.directory.path());
        Service::start("kilnd", &mut command, at("kilnd.log"))
    }

    /// The daemon's own children (its slots and the processes it keeps) may hold its mounts; a step's may not.
    fn only_own(&self, processes: &[u32]) -> bool {
        let own = self.id();
        processes.iter().all(|process| {
            let parent = parent(*process);
            parent.is_some() && parent == own && is_kilnd(*process)
        })
    }
}

impl Drop for Kilnd {
    fn drop(&mut self) {
        drop(self.service.take());
        unmount_under(self.directory.path());
        unmount_under(&self.root());
    }
}

fn parent(process: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))?
        .trim()
        .parse()
        .ok()
}

fn is_kilnd(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.starts_with("kiln"))
}

/// The daemon to test.
pub(crate) fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KILN_KILND") {
        return Ok(PathBuf::from(path));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    ["release", "debug"]
        .iter()
        .map(|profile| target.join(profile).join("kilnd"))
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .context("kilnd isn't built: run `cargo build -p kilnd`")
}
