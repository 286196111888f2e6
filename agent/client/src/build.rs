//! A build as people ask for it, made into what a daemon is sent.
//!
//! ```text
//!  flags, a form ──► BuildRequest ──prepare──► Prepared ──Client::solve──► Solved ──finish──► files in place
//! ```
//!
//! Nothing here talks to people or looks at a terminal: `kiln build` and the app share it. Values have
//! buildx's forms; each form has its parser in a module of its own.
//!
//! Invariants: [`BuildRequest::prepare`] touches no network; a [`Prepared`] owns the temporary
//! directories and ssh agents that the session serves, so it must live until the build has ended.

mod cache;
mod context;
mod error;
mod fetch;
mod fields;
mod files;
mod ignored;
mod keys;
mod layout;
mod output;
mod repository;
mod results;
mod secret;
mod settings;
mod ssh;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use kiln_oci::{Descriptor, Reference};
use tempfile::TempDir;

use crate::{Attachments, Secret, SolveOptions, Solved};
use keys::KeyAgent;

pub use cache::CacheSpec;
pub use context::{ContextSource, DockerfileSource, is_remote};
pub use error::BuildError;
pub use fetch::fetch_dockerfile;
pub use ignored::Ignored;
pub use output::{Destination, OutputSpec};
pub use secret::{Attestations, attestation_of, parse_annotation, parse_attestation, parse_secret};
pub use ssh::{SshSource, parse_ssh};

/// Instead of an address: the host, as steps reach it.
const HOST_GATEWAY: &str = "host-gateway";

/// What to build and what to do with it.
#[derive(Debug, Default)]
pub struct BuildRequest {
    /// The files.
    pub context: ContextSource,
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// The stage to build; the last one if not given.
    pub target: Option<String>,
    /// Values of `ARG`s.
    pub arguments: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// More contexts by name: directories, images, layouts, URLs.
    pub contexts: BTreeMap<String, String>,
    /// Platforms to build for; the daemon's own if none is given.
    pub platforms: Vec<String>,
    /// Names of the image.
    pub tags: Vec<String>,
    /// Where the result goes. None: into the daemon's image store if there are tags, else nowhere.
    pub outputs: Vec<OutputSpec>,
    /// Caches to import.
    pub cache_from: Vec<CacheSpec>,
    /// Caches to export.
    pub cache_to: Vec<CacheSpec>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// Who has ssh keys, by id.
    pub ssh: BTreeMap<String, SshSource>,
    /// Attestations to make, or not to.
    pub attestations: Attestations,
    /// Annotations, as options of exporters.
    pub annotations: Vec<(String, String)>,
    /// Run every step anew.
    pub no_cache: bool,
    /// Stages whose steps run anew.
    pub no_cache_stages: Vec<String>,
    /// Look for newer images even if one is there.
    pub pull: bool,
    /// `default`, `none` or `host`.
    pub network: Option<String>,
    /// Names of hosts: `name:address`.
    pub hosts: Vec<String>,
    /// What `host-gateway` stands for among them: [`Client::host_gateway`](crate::Client::host_gateway).
    pub host_gateway: Option<IpAddr>,
    /// Entitlements: `network.host`, `security.insecure`, `device`.
    pub allow: Vec<String>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// Such as `nofile=1024:2048`.
    pub ulimits: Vec<String>,
    /// The cgroup that steps run in.
    pub cgroup_parent: Option<String>,
}

/// How a daemon is reached, which decides what its image exporter is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuilderKind {
    /// BuildKit's own API.
    BuildKit,
    /// Behind Docker's API: images go to Docker's store.
    Docker,
}

/// Where the result will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In the cache only.
    CacheOnly,
    /// In the daemon's image store, under these names.
    Store(Vec<String>),
    /// In a registry, under these names.
    Registry(Vec<String>),
    /// In a directory or file on this side.
    Path(PathBuf),
    /// On standard output.
    Stdout,
    /// In Docker's image store on this machine.
    Docker(Vec<String>),
}

/// A request that is ready to be sent.
#[derive(Debug)]
pub struct Prepared {
    /// For [`Client::solve`](crate::Client::solve).
    pub options: SolveOptions,
    /// For [`Client::solve`](crate::Client::solve). Outputs to standard output and to Docker are
    /// [`Output::None`](crate::Output::None) until the caller gives them a stream.
    pub attachments: Attachments,
    /// Where each result will be.
    pub kept: Vec<Kept>,
    layouts: Vec<(PathBuf, Vec<String>)>,
    caches: Vec<(PathBuf, String)>,
    temporary: Vec<TempDir>,
    agents: Vec<KeyAgent>,
}

impl BuildRequest {
    /// Whether it names the host by [`host_gateway`](Self::host_gateway).
    pub fn wants_host_gateway(&self) -> bool {
        self.hosts.iter().any(|text| text.ends_with(HOST_GATEWAY))
    }

    /// Makes a request of it for a daemon of that kind.
    pub fn prepare(mut self, builder: BuilderKind) -> Result<Prepared, BuildError> {
        let mut prepared = Prepared {
            options: SolveOptions {
                frontend: "dockerfile.v0".to_owned(),
                entitlements: std::mem::take(&mut self.allow),
                ..SolveOptions::default()
            },
            attachments: Attachments::default(),
            kept: Vec::new(),
            layouts: Vec::new(),
            caches: Vec::new(),
            temporary: Vec::new(),
            agents: Vec::new(),
        };
        // A client's own permission, which no daemon knows.
        prepared.options.entitlements.retain(|entitlement| {
            !entitlement.starts_with("buildx.") && !entitlement.starts_with("fs")
        });
        self.put_settings(&mut prepared)?;
        self.put_context(&mut prepared)?;
        self.put_contexts(&mut prepared)?;
        self.put_outputs(builder, &mut prepared)?;
        if self
            .arguments
            .get("BUILDKIT_INLINE_CACHE")
            .is_some_and(|value| value == "1")
        {
            self.cache_to.extend(CacheSpec::parse("type=inline")?);
        }
        let stores = &mut prepared.attachments.stores;
        prepared.options.cache_imports =
            cache::imports(std::mem::take(&mut self.cache_from), stores)?;
        prepared.options.cache_exports = cache::exports(
            std::mem::take(&mut self.cache_to),
            stores,
            &mut prepared.caches,
        )?;
        if !prepared.options.cache_imports.is_empty() {
            let imports: Vec<_> = prepared.options.cache_imports.iter().collect();
            let json = serde_json::json!(
                imports
                    .iter()
                    .map(
                        |(kind, attributes)| serde_json::json!({"Type": kind, "Attrs": attributes})
                    )
                    .collect::<Vec<_>>()
            );
            let attrs = &mut prepared.options.frontend_attrs;
            attrs.insert("cache-imports".into(), json.to_string());
        }
        prepared.attachments.secrets = self.secrets;
        for (id, source) in self.ssh {
            let socket = match source {
                SshSource::Agent(socket) => socket,
                SshSource::Keys(keys) => {
                    let agent = KeyAgent::start(&keys)?;
                    let socket = agent.socket().to_owned();
                    prepared.agents.push(agent);
                    socket
                }
            };
            prepared.attachments.ssh.insert(id, socket);
        }
        Ok(prepared)
    }
}

impl Prepared {
    /// Puts in place what only the end of the build tells: indexes of layouts.
    pub fn finish(&self, solved: &Solved) -> Result<(), BuildError> {
        let descriptor = |text: &[u8], path: &Path| {
            serde_json::from_slice::<Descriptor>(text).map_err(|error| BuildError::Layout {
                path: path.to_owned(),
                reason: format!("the daemon's descriptor: {error}"),
            })
        };
        if let Some(manifest) = solved.response.get("cache.manifest") {
            for (path, tag) in &self.caches {
                let manifest = descriptor(manifest.as_bytes(), path)?;
                layout::put(path, &manifest, std::slice::from_ref(tag))?;
            }
        }
        if let Some(image) = solved.response.get("containerimage.descriptor") {
            let json = base64::engine::general_purpose::STANDARD
                .decode(image)
                .unwrap_or_default();
            for (path, names) in &self.layouts {
                let tags: Vec<String> = names
                    .iter()
                    .filter_map(|name| name.parse::<Reference>().ok())
                    .filter_map(|name| name.tag().map(str::to_owned))
                    .collect();
                layout::put(path, &descriptor(&json, path)?, &tags)?;
            }
        }
        Ok(())
    }

    /// Directories that hold what only this build needs.
    pub fn temporary(&self) -> impl Iterator<Item = &Path> {
        self.temporary.iter().map(TempDir::path)
    }
}

#[cfg(test)]
mod tests;
