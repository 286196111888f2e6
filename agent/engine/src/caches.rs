//! Caches of other builders: imports before a solve, exports after it.
//!
//! An import that fails is left out: a cache is no condition of a build. An export that fails fails the
//! build, unless the client says `ignore-error=true`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use kiln_cache::{CacheManager, OpResult, ProviderSource};
use kiln_content::{CompressionSpec, ContentStore};
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_exporter::InlineCache;
use kiln_ids::SessionId;
use kiln_oci::{Digest, Reference};
use kiln_progress::VertexProgress;
use kiln_proto::moby::buildkit::v1::CacheOptionsEntry;
use kiln_registry::Registry;
use kiln_remotecache::inline::{ImageLayer, records_for};
use kiln_remotecache::{Assembled, Chain, ClientPlace, Format, Place, RegistryPlace, assemble};
use kiln_session::SessionManager;
use kiln_solver::op::OpError;
use kiln_solver::{CacheSource, CachedResult, ExportMode, ExportOptions, ExportTarget, Solver};
use kiln_source::SessionCredentials;

use crate::bridge::EngineBridge;

/// What imports and exports work with.
#[derive(Clone)]
pub struct RemoteCaches {
    /// Registries.
    pub registry: Registry,
    /// Fetches lazy layers, also after a restart.
    pub providers: Arc<dyn ProviderSource>,
    /// Clients.
    pub sessions: SessionManager,
    /// Blobs.
    pub content: ContentStore,
    /// Records.
    pub cache: CacheManager,
}

impl std::fmt::Debug for RemoteCaches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteCaches").finish_non_exhaustive()
    }
}

/// One cache to export, with its options.
pub(crate) struct CacheExport {
    kind: Exported,
    mode: ExportMode,
    ignore_error: bool,
    compression: CompressionSpec,
    format: Format,
}

enum Exported {
    Registry(Reference),
    Directory(String),
    Inline,
}

fn user(text: impl Into<String>) -> SharedError {
    WithDetail::message(Kind::User, text).shared()
}

fn boolean(entry: &CacheOptionsEntry, key: &str, default: bool) -> Result<bool, SharedError> {
    match entry.attrs.get(key).map(String::as_str) {
        None => Ok(default),
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
        Some(other) => Err(user(format!("invalid value for {key}: {other:?}"))),
    }
}

fn required<'a>(entry: &'a CacheOptionsEntry, key: &str) -> Result<&'a str, SharedError> {
    entry
        .attrs
        .get(key)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| user(format!("{} cache needs {key}", entry.r#type)))
}

fn reference(entry: &CacheOptionsEntry) -> Result<Reference, SharedError> {
    let text = required(entry, "ref")?;
    text.parse::<Reference>()
        .map(Reference::with_default_tag)
        .map_err(|error| user(format!("failed to parse {text:?}: {error}")))
}

/// Reads the options of exports; a wrong one fails the build before it costs anything.
pub(crate) fn prepare(entries: &[CacheOptionsEntry]) -> Result<Vec<CacheExport>, SharedError> {
    let mut seen = std::collections::BTreeSet::new();
    let mut exports = Vec::with_capacity(entries.len());
    for entry in entries {
        let kind = match entry.r#type.as_str() {
            "registry" => Exported::Registry(reference(entry)?),
            "local" => Exported::Directory(required(entry, "dest")?.to_owned()),
            "inline" => Exported::Inline,
            other => {
                return Err(WithDetail::message(
                    Kind::Unimplemented,
                    format!("unknown cache exporter: {other:?}"),
                )
                .shared());
            }
        };
        let attributes: BTreeMap<_, _> = entry.attrs.iter().collect();
        if !seen.insert((entry.r#type.clone(), format!("{attributes:?}"))) {
            if matches!(kind, Exported::Inline) {
                continue;
            }
            return Err(user(format!("duplicate cache exports [{}]", entry.r#type)));
        }
        let mode = match (&kind, entry.attrs.get("mode").map(String::as_str)) {
            (Exported::Inline, _) => ExportMode::Existing,
            (_, Some("max")) => ExportMode::Max,
            _ => ExportMode::Min,
        };
        let oci = boolean(entry, "oci-mediatypes", true)?;
        exports.push(CacheExport {
            kind,
            mode,
            ignore_error: boolean(entry, "ignore-error", false)?,
            compression: CompressionSpec::parse(|key| entry.attrs.get(key).map(String::as_str))
                .map_err(|error| WithDetail::kind(Arc::new(error), Kind::User).shared())?,
            format: Format {
                oci,
                image_manifest: boolean(entry, "image-manifest", oci)?,
            },
        });
    }
    Ok(exports)
}

impl RemoteCaches {
    /// The caches that an entry names: several where it names an index of images.
    pub(crate) async fn import(
        &self,
        entry: &CacheOptionsEntry,
        session: &SessionId,
    ) -> Result<Vec<Arc<dyn CacheSource<OpResult>>>, SharedError> {
        let place: Box<dyn Place> = match entry.r#type.as_str() {
            "registry" => Box::new(self.registry_place(reference(entry)?, session)),
            "local" => {
                let digest = match entry.attrs.get("digest") {
                    Some(text) => Some(
                        text.parse::<Digest>()
                            .map_err(|error| user(format!("digest {text:?}: {error}")))?,
                    ),
                    None => return Err(user("local cache needs digest")),
                };
                Box::new(self.directory(required(entry, "src")?, digest, session))
            }
            other => {
                return Err(WithDetail::message(
                    Kind::Unimplemented,
                    format!("unknown cache importer: {other}"),
                )
                .shared());
            }
        };
        kiln_remotecache::import(place.as_ref(), &self.cache)
            .await
            .map_err(|error| Arc::new(error) as SharedError)
    }

    fn registry_place(&self, reference: Reference, session: &SessionId) -> RegistryPlace {
        let credentials =
            SessionCredentials::new(self.sessions.clone(), std::slice::from_ref(session));
        RegistryPlace {
            client: self.registry.client(Arc::new(credentials)),
            reference,
            providers: Arc::clone(&self.providers),
            content: self.content.clone(),
        }
    }

    fn directory(
        &self,
        directory: &str,
        digest: Option<Digest>,
        session: &SessionId,
    ) -> ClientPlace {
        ClientPlace::new(
            self.sessions.clone(),
            session.clone(),
            directory,
            digest,
            self.content.clone(),
        )
    }
}

/// What a result becomes in an exported cache: the chain of its layers.
struct Layers {
    compression: CompressionSpec,
    sessions: Vec<SessionId>,
    progress: VertexProgress,
}

#[async_trait]
impl ExportTarget<OpResult> for Layers {
    type Remote = Chain;

    async fn remotes(&self, result: OpResult, create: bool) -> Result<Vec<Chain>, OpError> {
        let Some(result) = result else {
            return Ok(Vec::new());
        };
        let blobs = result
            .blobs(&self.compression, create, &self.sessions, &self.progress)
            .await
            .map_err(|error| Arc::new(error) as OpError)?;
        Ok(if blobs.is_empty() {
            Vec::new()
        } else {
            vec![Chain(blobs)]
        })
    }
}

async fn collect(
    solver: &Solver<OpResult>,
    results: &[CachedResult<OpResult>],
    mode: ExportMode,
    layers: &Layers,
) -> Result<Assembled, SharedError> {
    let records = solver
        .export(
            results,
            layers,
            ExportOptions {
                mode,
                roots: false,
                ignore_backlinks: false,
            },
        )
        .await?;
    Ok(assemble(&records))
}

/// Exports the caches of a build; returns what the client is told.
pub(crate) async fn export(
    bridge: &EngineBridge,
    caches: &RemoteCaches,
    solver: &Solver<OpResult>,
    exports: &[CacheExport],
    results: &[CachedResult<OpResult>],
) -> Result<BTreeMap<String, String>, SharedError> {
    let remote = exports
        .iter()
        .filter(|export| !matches!(export.kind, Exported::Inline))
        .enumerate();
    let all = remote.map(|(index, one)| async move {
        let outcome = export_one(bridge, caches, solver, index, one, results).await;
        match outcome {
            Err(error) if one.ignore_error => {
                tracing::warn!(%error, "a cache was not exported; the build was to go on");
                Ok(None)
            }
            outcome => outcome,
        }
    });
    let mut response = BTreeMap::new();
    for manifest in try_join_all(all).await?.into_iter().flatten() {
        response.insert("cache.manifest".to_owned(), manifest);
    }
    Ok(response)
}

async fn export_one(
    bridge: &EngineBridge,
    caches: &RemoteCaches,
    solver: &Solver<OpResult>,
    index: usize,
    export: &CacheExport,
    results: &[CachedResult<OpResult>],
) -> Result<Option<String>, SharedError> {
    let session = bridge.session_id();
    let (place, name): (Box<dyn Place>, &str) = match &export.kind {
        Exported::Registry(reference) => (
            Box::new(caches.registry_place(reference.clone(), &session)),
            "exporting cache to registry",
        ),
        Exported::Directory(directory) => (
            Box::new(caches.directory(directory, None, &session)),
            "exporting cache to client directory",
        ),
        Exported::Inline => return Ok(None),
    };
    bridge
        .in_step(&format!("{session}-cache-{index}"), name, async |step| {
            let layers = Layers {
                compression: export.compression,
                sessions: vec![session.clone()],
                progress: step.progress(),
            };
            let assembled = collect(solver, results, export.mode, &layers).await?;
            let manifest = kiln_remotecache::export(
                place.as_ref(),
                &assembled,
                export.format,
                &caches.content,
                &layers.sessions,
                &layers.progress,
            )
            .await
            .map_err(|error| Arc::new(error) as SharedError)?;
            Ok(manifest.and_then(|manifest| serde_json::to_string(&manifest).ok()))
        })
        .await
}

/// The cache inside of the image, if one was asked for.
pub(crate) fn inline(
    exports: &[CacheExport],
    solver: &Solver<OpResult>,
    session: &SessionId,
    results: BTreeMap<String, CachedResult<OpResult>>,
) -> Option<Arc<dyn InlineCache>> {
    exports
        .iter()
        .any(|export| matches!(export.kind, Exported::Inline))
        .then(|| {
            Arc::new(Inline {
                solver: solver.clone(),
                session: session.clone(),
                results,
            }) as _
        })
}

struct Inline {
    solver: Solver<OpResult>,
    session: SessionId,
    results: BTreeMap<String, CachedResult<OpResult>>,
}

#[async_trait]
impl InlineCache for Inline {
    async fn entries(&self) -> Result<BTreeMap<String, Bytes>, SharedError> {
        let layers = Layers {
            compression: CompressionSpec::default(),
            sessions: vec![self.session.clone()],
            progress: VertexProgress::silent(),
        };
        let mut entries = BTreeMap::new();
        for (platform, result) in &self.results {
            let chain = layers
                .remotes(result.result().clone(), true)
                .await?
                .into_iter()
                .next();
            let Some(Chain(blobs)) = chain else {
                continue;
            };
            let image: Vec<ImageLayer> = blobs
                .iter()
                .map(|blob| ImageLayer {
                    blob: blob.descriptor.digest,
                    diff_id: blob.diff_id,
                })
                .collect();
            let assembled = collect(
                &self.solver,
                std::slice::from_ref(result),
                ExportMode::Existing,
                &layers,
            )
            .await?;
            let records =
                records_for(&assembled, &image).map_err(|error| Arc::new(error) as SharedError)?;
            if let Some(records) = records {
                entries.insert(platform.clone(), records.into());
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_before_the_build() {
        let entry = |kind: &str, attributes: &[(&str, &str)]| CacheOptionsEntry {
            r#type: kind.to_owned(),
            attrs: attributes
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        };
        for (entries, words) in [
            (vec![entry("registry", &[])], "needs ref"),
            (vec![entry("local", &[])], "needs dest"),
            (vec![entry("gha", &[])], "unknown cache exporter"),
            (
                vec![entry("local", &[("dest", "d"), ("image-manifest", "x")])],
                "image-manifest",
            ),
            (
                vec![
                    entry("local", &[("dest", "d")]),
                    entry("local", &[("dest", "d")]),
                ],
                "duplicate",
            ),
        ] {
            let error = prepare(&entries).err().expect(words).to_string();
            assert!(error.contains(words), "{error}");
        }
        let twice = [entry("inline", &[]), entry("inline", &[])];
        assert_eq!(prepare(&twice).expect("inline").len(), 1);
    }
}
