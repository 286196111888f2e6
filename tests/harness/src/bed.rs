//! What all scenarios share, and the stage that each gets.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use kiln_test_tools::{Buildx, Tools};
use tempfile::TempDir;

use crate::buildx::Client;
use crate::context::Context;
use crate::engine::Engine;
use crate::kilnd::{Kilnd, KilndOptions};
use crate::moby::Moby;
use crate::registry::Registry;
use crate::run::{Run, Running};
use crate::web::Web;

/// The servers that all scenarios share.
#[derive(Debug)]
pub struct Bed {
    /// Where the clients are.
    pub tools: Tools,
    /// The registry, also the mirror of Docker Hub.
    pub registry: Registry,
    /// Files over HTTP.
    pub web: Web,
    moby: Mutex<Option<Moby>>,
}

impl Bed {
    /// Starts the servers.
    pub fn start() -> Result<Self> {
        Ok(Self {
            tools: Tools::locate()?,
            registry: Registry::start()?,
            web: Web::start()?,
            moby: Mutex::new(None),
        })
    }

    /// Runs a scenario on a new `kilnd`, and checks that it leaves nothing behind.
    pub fn on_kilnd(
        &self,
        version: Buildx,
        options: KilndOptions,
        scenario: impl FnOnce(&mut Stage<'_>) -> Result<()>,
    ) -> Result<()> {
        let kilnd = Kilnd::start(&self.registry, options)?;
        let mut stage = Stage::new(self, Engine::Kilnd(Box::new(kilnd)), version)?;
        let outcome = scenario(&mut stage).and_then(|()| stage.engine.check_idle());
        let log = stage.engine.log_tail();
        outcome
            .and_then(|()| stage.engine.finish())
            .with_context(|| format!("kilnd's log ends:\n{log}"))
    }

    /// Runs a scenario on the real BuildKit, which is started once and used by one scenario at a time; `fresh`
    /// gives the scenario a new one.
    pub fn on_moby(
        &self,
        version: Buildx,
        fresh: bool,
        scenario: impl FnOnce(&mut Stage<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut moby = self.moby.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh || !moby.as_mut().is_some_and(Moby::is_running) {
            // Ends the old one first: two at once would compete for the machine.
            *moby = None;
            *moby = Some(Moby::start(&self.tools, &self.registry, &[])?);
        }
        self.with_moby(moby.as_ref().context("just started")?, version, scenario)
    }

    /// Runs a scenario on a real BuildKit with more environment, which nobody else uses.
    pub fn on_moby_with(
        &self,
        version: Buildx,
        environment: &[(String, String)],
        scenario: impl FnOnce(&mut Stage<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut shared = self.moby.lock().unwrap_or_else(PoisonError::into_inner);
        *shared = None;
        let own = Moby::start(&self.tools, &self.registry, environment)?;
        self.with_moby(&own, version, scenario)
    }

    fn with_moby(
        &self,
        moby: &Moby,
        version: Buildx,
        scenario: impl FnOnce(&mut Stage<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut stage = Stage::new(self, Engine::Moby(moby), version)?;
        let outcome = scenario(&mut stage);
        let log = stage.engine.log_tail();
        outcome.with_context(|| format!("dockerd's log ends:\n{log}"))
    }
}

/// One engine, one client and one directory for a scenario.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The shared servers.
    pub bed: &'a Bed,
    /// The daemon.
    pub engine: Engine<'a>,
    /// The client.
    pub client: Client,
    directory: TempDir,
}

impl<'a> Stage<'a> {
    fn new(bed: &'a Bed, engine: Engine<'a>, version: Buildx) -> Result<Self> {
        let client = Client::connect(
            &bed.tools,
            version,
            engine.socket(),
            engine.build_arguments(),
        )?;
        let directory = tempfile::Builder::new().prefix("stage-").tempdir()?;
        Ok(Self {
            bed,
            engine,
            client,
            directory,
        })
    }

    /// A path in the scenario's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Builds a context to the end.
    pub fn build(&self, context: &Context, arguments: &[&str]) -> Result<Run> {
        self.client.build(context, arguments)
    }

    /// Starts to build a context.
    pub fn start_build(&self, context: &Context, arguments: &[&str]) -> Result<Running> {
        self.client.start_build(context, arguments)
    }

    /// Builds a context into a directory and gives the directory.
    pub fn build_files(&self, context: &Context, arguments: &[&str]) -> Result<PathBuf> {
        let target = tempfile::Builder::new()
            .prefix("files-")
            .tempdir_in(self.directory.path())?
            .keep();
        let output = format!("type=local,dest={}", target.display());
        let mut all = vec!["-o", &output];
        all.extend(arguments);
        self.build(context, &all)?.succeeds()?;
        Ok(target)
    }

    /// Builds a context into an OCI archive and gives its path.
    pub fn build_oci(&self, context: &Context, arguments: &[&str]) -> Result<PathBuf> {
        let target = self.path("image.tar");
        let output = format!("type=oci,dest={}", target.display());
        let mut all = vec!["-o", &output];
        all.extend(arguments);
        self.build(context, &all)?.succeeds()?;
        Ok(target)
    }

    /// So many seconds, as an argument of `sleep` that no other process has.
    pub fn seconds(&self, whole: u32) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number =
            u64::from(std::process::id()) * 1000 + u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        format!("{whole}.0{number:09}")
    }

    /// The `kilnd` of this scenario.
    pub fn kilnd(&mut self) -> Result<&mut Kilnd> {
        match &mut self.engine {
            Engine::Kilnd(kilnd) => Ok(kilnd),
            Engine::Moby(_) => anyhow::bail!("this scenario is for kilnd only"),
        }
    }

    /// The scenario's own directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}
