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
mod ignored;
mod keys;
mod layout;
mod output;
mod repository;
mod secret;
mod ssh;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use kiln_oci::{Descriptor, Platform, Reference};
use tempfile::TempDir;

use crate::client::random_id;
use crate::{Attachments, Output, Secret, SolveOptions, Solved};
use keys::KeyAgent;

pub use cache::CacheSpec;
pub use context::{ContextSource, DockerfileSource, is_remote};
pub use error::BuildError;
pub use fetch::fetch_dockerfile;
pub use ignored::Ignored;
pub use output::{Destination, OutputSpec};
pub use secret::{Attestations, attestation_of, parse_annotation, parse_attestation, parse_secret};
pub use ssh::{SshSource, parse_ssh};

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
    /// [`Output::None`] until the caller gives them a stream.
    pub attachments: Attachments,
    /// Where each result will be.
    pub kept: Vec<Kept>,
    layouts: Vec<(PathBuf, Vec<String>)>,
    caches: Vec<(PathBuf, String)>,
    temporary: Vec<TempDir>,
    agents: Vec<KeyAgent>,
}

impl BuildRequest {
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

    /// The options of the frontend that don't depend on files.
    fn put_settings(&self, prepared: &mut Prepared) -> Result<(), BuildError> {
        let options = &mut prepared.options;
        let mut put =
            |key: &str, value: String| options.frontend_attrs.insert(key.to_owned(), value);
        for (name, value) in &self.arguments {
            put(&format!("build-arg:{name}"), value.clone());
        }
        for (name, value) in &self.labels {
            put(&format!("label:{name}"), value.clone());
        }
        for (kind, value) in &self.attestations {
            if let Some(value) = value {
                put(&format!("attest:{kind}"), value.clone());
            }
        }
        if !self.attestations.contains_key("provenance") {
            put("attest:provenance", "mode=min,inline-only=true".into());
        }
        if let Some(target) = &self.target {
            put("target", target.clone());
        }
        if !self.no_cache_stages.is_empty() {
            put("no-cache", self.no_cache_stages.join(","));
        }
        if self.no_cache {
            put("no-cache", String::new());
        }
        if self.pull {
            put("image-resolve-mode", "pull".into());
        }
        if !self.platforms.is_empty() {
            let platforms: Result<Vec<String>, BuildError> = self
                .platforms
                .iter()
                .flat_map(|list| list.split(','))
                .map(|text| match text.parse::<Platform>() {
                    Ok(platform) => Ok(platform.normalized().format_all()),
                    Err(error) => Err(BuildError::invalid("platform", text, error.to_string())),
                })
                .collect();
            put("platform", platforms?.join(","));
        }
        if !self.hosts.is_empty() {
            put("add-hosts", hosts(&self.hosts)?);
        }
        if let Some(size) = self.shm_size {
            put("shm-size", size.to_string());
        }
        if !self.ulimits.is_empty() {
            put("ulimit", self.ulimits.join(","));
        }
        if let Some(parent) = &self.cgroup_parent {
            put("cgroup-parent", parent.clone());
        }
        if let Some(syntax) = self.arguments.get("BUILDKIT_SYNTAX") {
            let syntax = syntax.trim();
            let image = syntax.split(' ').next().unwrap_or_default();
            if image.is_empty() {
                let reason = "BUILDKIT_SYNTAX must name an image";
                return Err(BuildError::invalid("build argument", syntax, reason));
            }
            put("source", image.to_owned());
            put("cmdline", syntax.to_owned());
            "gateway.v0".clone_into(&mut options.frontend);
        }
        let mut put = |key: &str, value: &str| {
            options
                .frontend_attrs
                .insert(key.to_owned(), value.to_owned());
        };
        match self.network.as_deref() {
            None | Some("" | "default") => {}
            Some("none") => put("force-network-mode", "none"),
            Some("host") => {
                put("force-network-mode", "host");
                options.entitlements.push("network.host".to_owned());
            }
            Some(other) => {
                let reason = "want default, none or host";
                return Err(BuildError::invalid("network mode", other, reason));
            }
        }
        Ok(())
    }

    /// The context and the Dockerfile.
    fn put_context(&mut self, prepared: &mut Prepared) -> Result<(), BuildError> {
        let (options, attachments) = (&mut prepared.options, &mut prepared.attachments);
        let attrs = &mut options.frontend_attrs;
        // The directory that the Dockerfile is in, and its name there.
        let mut file: Option<(PathBuf, String)> = None;
        let mut name = "Dockerfile".to_owned();
        match std::mem::take(&mut self.context) {
            ContextSource::Empty => {
                let empty = temporary()?;
                attachments
                    .dirs
                    .insert("context".into(), empty.path().to_owned());
                prepared.temporary.push(empty);
            }
            ContextSource::Directory(path) => {
                if !path.is_dir() {
                    return Err(BuildError::NoContext { path });
                }
                attachments.shared_key = shared_key(&path);
                match &self.dockerfile {
                    DockerfileSource::Path(dockerfile) => {
                        file = Some(split(dockerfile)?);
                    }
                    _ => file = Some((path.clone(), context::default_name(&path))),
                }
                repository::describe(&path, attrs);
                attachments.dirs.insert("context".into(), path);
            }
            ContextSource::Url(url) => {
                if url.contains('?') {
                    attrs.insert(
                        "frontend.caps".into(),
                        "moby.buildkit.frontend.gitquerystring".into(),
                    );
                }
                attrs.insert("context".into(), url);
                file_in_context(&self.dockerfile, &mut name, &mut file)?;
            }
            ContextSource::Archive(stream) => {
                let id = random_id().map_err(|error| {
                    BuildError::invalid("build context", "-", error.to_string())
                })?;
                attrs.insert("context".into(), format!("http://buildkit-session/{id}"));
                attachments.uploads.insert(id, stream);
                file_in_context(&self.dockerfile, &mut name, &mut file)?;
            }
        }
        match &self.dockerfile {
            DockerfileSource::Text(text) => {
                let directory = temporary()?;
                let path = directory.path().join("Dockerfile");
                std::fs::write(&path, text).map_err(BuildError::io("write", path))?;
                file = Some((directory.path().to_owned(), "Dockerfile".to_owned()));
                attrs.insert("dockerfilekey".into(), "dockerfile".into());
                prepared.temporary.push(directory);
            }
            DockerfileSource::InContext | DockerfileSource::Path(_) => {}
        }
        if let Some((directory, found)) = file {
            let path = directory.join(&found);
            if !path.is_file() {
                return Err(BuildError::NoDockerfile { path });
            }
            name = found;
            if !attachments.dirs.contains_key("context") {
                attrs.insert("dockerfilekey".into(), "dockerfile".into());
            }
            attachments.dirs.insert("dockerfile".into(), directory);
        }
        attrs.insert("filename".into(), name);
        Ok(())
    }

    /// Contexts by name.
    fn put_contexts(&mut self, prepared: &mut Prepared) -> Result<(), BuildError> {
        let attrs = &mut prepared.options.frontend_attrs;
        let attachments = &mut prepared.attachments;
        if !self.contexts.is_empty() {
            let caps = attrs.entry("frontend.caps".into()).or_default();
            if !caps.is_empty() {
                caps.push(',');
            }
            caps.push_str("moby.buildkit.frontend.contexts+forward");
        }
        for (name, source) in std::mem::take(&mut self.contexts) {
            let key = format!("context:{name}");
            if is_remote(&source) || source.starts_with("docker-image://") {
                attrs.insert(key, source);
            } else if let Some(layout) = source.strip_prefix("oci-layout://") {
                let (path, tag, digest) = layout_reference(layout);
                let digest = match digest {
                    Some(digest) => digest.to_owned(),
                    None => layout::find(Path::new(path), tag)?
                        .ok_or_else(|| BuildError::Layout {
                            path: path.into(),
                            reason: "it has no manifest of that name".to_owned(),
                        })?
                        .digest
                        .to_string(),
                };
                let id = random_id().map_err(|error| {
                    BuildError::invalid("build context", &source, error.to_string())
                })?;
                attrs.insert(key, format!("oci-layout://{id}@{digest}"));
                attachments.stores.insert(format!("oci:{id}"), path.into());
            } else {
                let path = PathBuf::from(&source);
                if !path.is_dir() {
                    return Err(BuildError::NoContext { path });
                }
                let directory = match name.as_str() {
                    "context" | "dockerfile" => format!("_{name}"),
                    _ => name.clone(),
                };
                attrs.insert(key, format!("local:{directory}"));
                attrs.insert(format!("sharedkey:localdir:{name}"), shared_key(&path));
                attachments.dirs.insert(directory, path);
            }
        }
        Ok(())
    }

    /// Exporters, and where their bytes go.
    fn put_outputs(
        &mut self,
        builder: BuilderKind,
        prepared: &mut Prepared,
    ) -> Result<(), BuildError> {
        let names = self
            .tags
            .iter()
            .map(|tag| match tag.parse::<Reference>() {
                Ok(reference) => Ok(reference.with_default_tag().to_string()),
                Err(error) => Err(BuildError::invalid("tag", tag, error.to_string())),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut outputs = std::mem::take(&mut self.outputs);
        if outputs.is_empty() && (!names.is_empty() || builder == BuilderKind::Docker) {
            outputs.push(OutputSpec::new("image", []));
        }
        let mut stdout_taken = false;
        for mut output in outputs {
            if output.kind == "cacheonly" {
                continue;
            }
            if output.takes_names() && !names.is_empty() {
                output.attributes.insert("name".into(), names.join(","));
            }
            let named = output.attributes.get("name").map(|names| {
                let names = names.split(',').filter(|name| !name.is_empty());
                names.map(str::to_owned).collect::<Vec<_>>()
            });
            let named = named.unwrap_or_default();
            if output.pushes() && named.is_empty() {
                return Err(BuildError::Needs {
                    what: "a push",
                    needed: "a name: -t REGISTRY/NAME:TAG",
                });
            }
            if output.takes_names() {
                output.attributes.extend(self.annotations.iter().cloned());
            }
            let mut destination = output.destination()?;
            if builder == BuilderKind::Docker
                && (output.kind == "image" || destination == Destination::Docker)
            {
                "moby".clone_into(&mut output.kind);
                destination = Destination::Daemon;
            }
            let (target, kept) = match destination {
                Destination::Daemon if output.pushes() => (Output::None, Kept::Registry(named)),
                Destination::Daemon => (Output::None, Kept::Store(named)),
                Destination::Directory { path, delete } => (
                    Output::Directory {
                        path: path.clone(),
                        delete,
                    },
                    Kept::Path(path),
                ),
                Destination::File(path) => (Output::File(path.clone()), Kept::Path(path)),
                Destination::Layout(path) => {
                    std::fs::create_dir_all(&path).map_err(BuildError::io("create", &path))?;
                    let stores = &mut prepared.attachments.stores;
                    if stores.insert("export".into(), path.clone()).is_some() {
                        return Err(BuildError::Conflict {
                            first: "an OCI layout",
                            second: "another one",
                            reason: "a build writes one layout at most",
                        });
                    }
                    prepared.layouts.push((path.clone(), named));
                    (Output::None, Kept::Path(path))
                }
                Destination::Stdout => {
                    if std::mem::replace(&mut stdout_taken, true) {
                        return Err(BuildError::Conflict {
                            first: "an output to standard output",
                            second: "another one",
                            reason: "there is only one standard output",
                        });
                    }
                    (Output::None, Kept::Stdout)
                }
                Destination::Docker => (Output::None, Kept::Docker(named)),
            };
            prepared.attachments.outputs.push(target);
            prepared.kept.push(kept);
            prepared
                .options
                .exporters
                .push((output.kind, output.attributes));
        }
        if prepared.kept.is_empty() {
            prepared.kept.push(Kept::CacheOnly);
        }
        Ok(())
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

fn temporary() -> Result<TempDir, BuildError> {
    let prefix = "kiln-build-";
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .map_err(BuildError::io("create", std::env::temp_dir()))
}

/// A Dockerfile's directory and name.
fn split(path: &Path) -> Result<(PathBuf, String), BuildError> {
    let missing = || BuildError::NoDockerfile {
        path: path.to_owned(),
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(missing)?.to_owned();
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if name == "Dockerfile" {
        let found = context::default_name(&directory);
        return Ok((directory, found));
    }
    Ok((directory, name))
}

/// A relative path is in the context; an absolute one is on this side.
fn file_in_context(
    source: &DockerfileSource,
    name: &mut String,
    file: &mut Option<(PathBuf, String)>,
) -> Result<(), BuildError> {
    if let DockerfileSource::Path(path) = source {
        if path.is_absolute() {
            *file = Some(split(path)?);
        } else {
            *name = path.display().to_string();
        }
    }
    Ok(())
}

/// The name of the directory: builds of it elsewhere send only what differs.
fn shared_key(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(
        || "/".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// `PATH[:TAG][@DIGEST]`.
fn layout_reference(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !tag.is_empty() => (path, Some(tag), digest),
        _ => (rest, None, digest),
    }
}

/// `name:address` or `name=address`, as the frontend takes them.
fn hosts(all: &[String]) -> Result<String, BuildError> {
    const WHAT: &str = "host";
    let mut lines = Vec::new();
    for text in all {
        let pair = text.split_once('=').or_else(|| text.split_once(':'));
        let Some((name, address)) = pair.filter(|(name, _)| !name.is_empty()) else {
            return Err(BuildError::invalid(WHAT, text, "want NAME:ADDRESS"));
        };
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        if bare == "host-gateway" {
            let reason = "this builder has no host gateway";
            return Err(BuildError::invalid(WHAT, text, reason));
        }
        let Ok(address) = bare.parse::<std::net::IpAddr>() else {
            return Err(BuildError::invalid(
                WHAT,
                text,
                "the address isn't an IP address",
            ));
        };
        lines.push(format!("{name}={address}"));
    }
    Ok(lines.join(","))
}

#[cfg(test)]
mod tests;
