//! The thin client: a connection, a session and a solve, as `buildctl` makes them, without a process to start.
//!
//! Invariant: every build connects anew, as clients of the command line do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kiln_client::{Address, Attachments, Client, Output, SolveOptions};
use kiln_proto::moby::buildkit::v1::StatusResponse;
use tokio::runtime::Runtime;

/// A client of one daemon.
#[derive(Debug)]
pub(crate) struct Thin {
    runtime: Runtime,
    address: Address,
}

/// What becomes of the result.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// It stays in the cache.
    Cached,
    /// An exporter that writes a file, with its attributes.
    File(&'static str, BTreeMap<String, String>, PathBuf),
    /// An exporter that sends nothing to the client.
    Elsewhere(&'static str, BTreeMap<String, String>),
    /// It stays in the cache, and the cache goes somewhere: a type and its attributes.
    CacheTo(&'static str, BTreeMap<String, String>),
    /// It comes from such a cache and stays in the daemon's.
    CacheFrom(&'static str, BTreeMap<String, String>),
}

impl Thin {
    pub(crate) fn new(address: Address) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self { runtime, address })
    }

    /// Builds a context and gives the time from before the connection to the answer.
    pub(crate) fn build(&self, context: &Path, result: Fate) -> Result<Duration> {
        let mut options = SolveOptions {
            frontend: "dockerfile.v0".to_owned(),
            ..SolveOptions::default()
        };
        // Both daemons get the same: the real one has no bridge here, so steps use the host's network.
        options
            .frontend_attrs
            .insert("force-network-mode".to_owned(), "host".to_owned());
        options.entitlements.push("network.host".to_owned());
        let mut attachments = Attachments {
            shared_key: context.display().to_string(),
            dirs: ["context", "dockerfile"]
                .map(|name| (name.to_owned(), context.to_path_buf()))
                .into(),
            ..Attachments::default()
        };
        let all_cached = matches!(result, Fate::CacheFrom(..));
        match result {
            Fate::Cached => {}
            Fate::File(kind, attributes, path) => {
                options.exporters.push((kind.to_owned(), attributes));
                attachments.outputs.push(Output::File(path));
            }
            Fate::Elsewhere(kind, attributes) => {
                options.exporters.push((kind.to_owned(), attributes));
                attachments.outputs.push(Output::None);
            }
            Fate::CacheTo(kind, attributes) => {
                if let Some(directory) = attributes.get("dest") {
                    let store = format!("local:{directory}");
                    attachments.stores.insert(store, directory.into());
                }
                options.cache_exports.push((kind.to_owned(), attributes));
            }
            Fate::CacheFrom(kind, attributes) => {
                // The frontend asks for it, too: what it resolves is looked up there.
                if let Some(reference) = attributes.get("ref") {
                    let key = "cache-from".to_owned();
                    options.frontend_attrs.insert(key, reference.clone());
                }
                options.cache_imports.push((kind.to_owned(), attributes));
            }
        }
        let mut ran = Vec::new();
        let start = Instant::now();
        self.runtime.block_on(async {
            let client = Client::connect(&self.address).await?;
            let note = |status: StatusResponse| {
                let done = status.vertexes.into_iter();
                let missed = done.filter(|step| step.completed.is_some() && !step.cached);
                ran.extend(missed.map(|step| step.name));
            };
            client.solve(options, attachments, note).await
        })?;
        let time = start.elapsed();
        if all_cached && let Some(step) = ran.iter().find(|name| name.contains("] RUN ")) {
            bail!("{step:?} ran, where the cache has it");
        }
        Ok(time)
    }

    /// Connects, makes some calls and gives what they give and the time that all of it took.
    pub(crate) fn call<T>(
        &self,
        calls: impl AsyncFnOnce(&Client) -> Result<T, kiln_client::Error>,
    ) -> Result<(T, Duration)> {
        let start = Instant::now();
        let answer = self.runtime.block_on(async {
            let client = Client::connect(&self.address).await?;
            calls(&client).await
        })?;
        Ok((answer, start.elapsed()))
    }
}
