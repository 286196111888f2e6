//! The two daemons, the registry between them, and the client that drives both.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use kiln_client::Address;
use kiln_harness::{Context, Kilnd, KilndOptions, Moby, Registry, Tools};
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
    directory: TempDir,
    counter: Cell<u32>,
}

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
        let kilnd = Side {
            name: "kilnd",
            client: Thin::new(Address::Unix(kilnd_daemon.socket().to_path_buf()))?,
        };
        // Straight to Docker's socket: the harness's relay would cost what is measured here.
        let address = Address::Docker(moby_daemon.docker_socket().to_path_buf());
        let moby = Side {
            name: "BuildKit",
            client: Thin::new(address)?,
        };
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
            directory,
            counter: Cell::new(0),
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

impl Side {
    /// Builds and gives the time that it took.
    pub(crate) fn build(&self, context: &Context, fate: Fate) -> Result<Duration> {
        self.client.build(context.path(), fate)
    }
}
