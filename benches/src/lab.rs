//! The two daemons, the registry between them, and the client that drives both.

use std::cell::{Cell, OnceCell};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_client::Address;
use kiln_harness::{Context, Disk, Kilnd, KilndOptions, Moby, Registry, Tools};
use tempfile::TempDir;

use crate::null::NullDaemon;
use crate::thin::{Fate, Thin};

/// Everything that a row needs.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) tools: Tools,
    pub(crate) registry: Registry,
    pub(crate) kilnd: Side,
    pub(crate) moby: Side,
    pub(crate) null: Side,
    pub(crate) start_of_kilnd: Duration,
    _null_daemon: NullDaemon,
    kilnd_daemon: Kilnd,
    moby_daemon: Moby,
    slow: OnceCell<Slow>,
    directory: TempDir,
    counter: Cell<u32>,
}

/// Two more daemons, whose state is on a slow disk.
#[derive(Debug)]
struct Slow {
    kilnd: Side,
    moby: Side,
    _kilnd_daemon: Kilnd,
    _moby_daemon: Moby,
    _disk: Disk,
}

/// Of the slow disk, in MiB.
const SLOW_DISK: u64 = 4096;

/// One daemon with a client.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) client: Thin,
}

impl Lab {
    pub(crate) fn start() -> Result<Self> {
        let tools = Tools::locate()?;
        let registry = Registry::start()?;
        let started = std::time::Instant::now();
        let kilnd_daemon = Kilnd::start(&registry, KilndOptions::default())?;
        let start_of_kilnd = started.elapsed();
        let moby_daemon = Moby::start(&tools, &registry, &[])?;
        let kilnd = Side::of_kilnd(&kilnd_daemon)?;
        let moby = Side::of_moby(&moby_daemon)?;
        let directory = tempfile::Builder::new().prefix("bench-").tempdir()?;
        let socket = directory.path().join("null.sock");
        let null_daemon = NullDaemon::start(&socket)?;
        let null = Side {
            name: "nothing",
            client: Thin::new(Address::Unix(socket))?,
        };
        Ok(Self {
            tools,
            registry,
            kilnd,
            moby,
            null,
            _null_daemon: null_daemon,
            start_of_kilnd,
            kilnd_daemon,
            moby_daemon,
            slow: OnceCell::new(),
            directory,
            counter: Cell::new(0),
        })
    }

    /// The same daemon as `side`, but with its state on a disk that takes so many writes a second.
    pub(crate) fn on_slow_disk(&self, side: &Side, writes: u32) -> Result<&Side> {
        if self.slow.get().is_none() {
            let _ = self
                .slow
                .set(Slow::start(&self.tools, &self.registry, writes)?);
        }
        let slow = self.slow.get().context("just started")?;
        Ok(if side.name == self.kilnd.name {
            &slow.kilnd
        } else {
            &slow.moby
        })
    }

    /// A path that nothing else uses.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A word that no run has used before, so that nothing is cached by accident.
    pub(crate) fn nonce(&self) -> String {
        let number = self.counter.get() + 1;
        self.counter.set(number);
        format!("n{number}")
    }

    /// Process ids of the daemons: kilnd's, and those of the real one.
    pub(crate) fn process_ids(&self) -> (Option<u32>, Option<u32>) {
        (self.kilnd_daemon.id(), self.moby_daemon.id())
    }
}

impl Slow {
    fn start(tools: &Tools, registry: &Registry, writes: u32) -> Result<Self> {
        let disk = Disk::new(SLOW_DISK)?;
        let options = KilndOptions {
            root: Some(disk.path().join("kilnd")),
            ..KilndOptions::default()
        };
        let kilnd_daemon = Kilnd::start(registry, options)?;
        let moby_daemon = Moby::start_on(tools, registry, &[], Some(&disk.path().join("moby")))?;
        disk.limit_writes(writes)?;
        Ok(Self {
            kilnd: Side::of_kilnd(&kilnd_daemon)?,
            moby: Side::of_moby(&moby_daemon)?,
            _kilnd_daemon: kilnd_daemon,
            _moby_daemon: moby_daemon,
            _disk: disk,
        })
    }
}

impl Side {
    fn of_kilnd(daemon: &Kilnd) -> Result<Self> {
        Ok(Self {
            name: "kilnd",
            client: Thin::new(Address::Unix(daemon.socket().to_path_buf()))?,
        })
    }

    fn of_moby(daemon: &Moby) -> Result<Self> {
        // Straight to Docker's socket: the harness's relay would cost what is measured here.
        let address = Address::Docker(daemon.docker_socket().to_path_buf());
        Ok(Self {
            name: "BuildKit",
            client: Thin::new(address)?,
        })
    }

    /// Builds and gives the time that it took.
    pub(crate) fn build(&self, context: &Context, fate: Fate) -> Result<Duration> {
        self.client.build(context.path(), fate)
    }
}
