//! Writing a cache to a place, and reading one from it.
//!
//! A cache has a manifest of its own (an image manifest whose config is the cache config; or, in the
//! older form, an index that lists layers and config alike), or it is inside an image (inline).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use kiln_cache::{BlobProvider, CacheManager, LayerBlob, OpResult};
use kiln_content::ContentStore;
use kiln_ids::SessionId;
use kiln_oci::{Descriptor, Digest, ImageConfig, Index, Manifest, media_type};
use kiln_progress::{Status, VertexProgress};
use kiln_solver::CacheSource;
use kiln_solver::import::{ImportError, ImportedCache};
use serde::Deserialize;

use crate::assemble::Assembled;
use crate::config::{CacheConfig, ConfigError};
use crate::import::{CREATED_AT, DESCRIPTION, Loader, UNCOMPRESSED, plan};
use crate::inline;
use crate::place::{Place, PlaceError};

/// Layers that are written at once.
const PARALLEL: usize = 4;
/// How deep indexes may be nested.
const MAX_DEPTH: usize = 4;

/// How a cache is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Media types of OCI or of Docker.
    pub oci: bool,
    /// As an image manifest, which every registry takes, or as an index.
    pub image_manifest: bool,
}

/// Why a cache can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The place failed.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The config can't be used.
    #[error("{place}")]
    Config {
        /// Where it is.
        place: String,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// The records can't be used.
    #[error("{place}")]
    Records {
        /// Where they are.
        place: String,
        /// Why.
        #[source]
        source: ImportError,
    },
    /// A manifest that can't be read.
    #[error("{place} holds no image and no cache")]
    Manifest {
        /// Where it is.
        place: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The image manifest form has no Docker media types.
    #[error("image-manifest=true needs oci-mediatypes=true")]
    DockerImageManifest,
}

/// Writes the cache. `None` where it has no layers: there is nothing worth writing.
pub async fn export(
    place: &dyn Place,
    assembled: &Assembled,
    format: Format,
    content: &ContentStore,
    sessions: &[SessionId],
    progress: &VertexProgress,
) -> Result<Option<Descriptor>, TransferError> {
    if format.image_manifest && !format.oci {
        return Err(TransferError::DockerImageManifest);
    }
    if assembled.config.layers.is_empty() {
        drop(Step::begin(
            progress,
            "skipping cache export for empty result",
        ));
        return Ok(None);
    }
    let layers: Vec<(Digest, &LayerBlob)> = assembled
        .config
        .layers
        .iter()
        .filter_map(|layer| layer.blob.parse().ok())
        .filter_map(|digest| Some((digest, assembled.blobs.get(&digest)?)))
        .collect();
    let distinct: BTreeMap<Digest, &LayerBlob> = layers.iter().copied().collect();
    let writes = distinct.into_values().map(|layer| async move {
        let _step = Step::begin(
            progress,
            format!("writing layer {}", layer.descriptor.digest),
        );
        let is_here = content.info(&layer.descriptor.digest).is_some();
        // A layer that was imported from there need not be fetched to be written there again.
        if !is_here && place.has(&layer.descriptor).await? {
            return Ok(());
        }
        fetch(layer, content, sessions, progress).await?;
        place.write_blob(&layer.descriptor).await
    });
    // Each write is boxed: the compiler can't prove that the stream of plain ones is `Send`.
    let writes: Vec<_> = writes.map(futures::FutureExt::boxed).collect();
    futures::stream::iter(writes)
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;

    let layers = layers
        .into_iter()
        .map(|(_, layer)| cache_descriptor(layer, format.oci))
        .collect();
    let manifest_error = |source| TransferError::Manifest {
        place: place.name(),
        source,
    };
    let config_bytes = Bytes::from(assembled.config.to_vec().map_err(manifest_error)?);
    let config = Descriptor::of(media_type::BUILDKIT_CACHE_CONFIG, &config_bytes);
    {
        let _step = Step::begin(progress, format!("writing config {}", config.digest));
        place.write(&config, config_bytes).await?;
    }
    let (media_type, bytes, what) = if format.image_manifest {
        let manifest = Manifest {
            layers,
            ..Manifest::new(media_type::OCI_MANIFEST, config)
        };
        (
            media_type::OCI_MANIFEST,
            manifest.to_vec(),
            "writing cache image manifest",
        )
    } else {
        let media_type = if format.oci {
            media_type::OCI_INDEX
        } else {
            media_type::DOCKER_MANIFEST_LIST
        };
        let manifests = layers.into_iter().chain([config]).collect();
        (
            media_type,
            Index::new(media_type, manifests).to_vec(),
            "writing cache manifest",
        )
    };
    let bytes = Bytes::from(bytes.map_err(manifest_error)?);
    let _step = Step::begin(progress, format!("{what} {}", Digest::of(&bytes)));
    Ok(Some(place.write_manifest(media_type, bytes).await?))
}

/// A layer's descriptor in a cache manifest: with what an import needs to know of it.
fn cache_descriptor(layer: &LayerBlob, oci: bool) -> Descriptor {
    let descriptor = Descriptor {
        media_type: media_type::convert(&layer.descriptor.media_type, oci).to_owned(),
        ..layer.descriptor.clone()
    };
    let mut descriptor = descriptor.annotated(UNCOMPRESSED, layer.diff_id.to_string());
    if let Some(created) = layer.created {
        let created = kiln_oci::Timestamp::from(created).to_string();
        descriptor = descriptor.annotated(CREATED_AT, created);
    }
    if !layer.description.is_empty() {
        descriptor = descriptor.annotated(DESCRIPTION, layer.description.clone());
    }
    descriptor
}

async fn fetch(
    layer: &LayerBlob,
    content: &ContentStore,
    sessions: &[SessionId],
    progress: &VertexProgress,
) -> Result<(), PlaceError> {
    let digest = layer.descriptor.digest;
    if content.info(&digest).is_some() {
        return Ok(());
    }
    let Some(provider) = &layer.provider else {
        return Err(PlaceError::Missing {
            digest,
            place: "the content store".into(),
        });
    };
    let fetched = provider.fetch(&layer.descriptor, sessions, progress).await;
    fetched.map_err(|source| PlaceError::Fetch { digest, source })
}

/// Reads the cache, or the caches of an index's images. No layer is fetched.
pub async fn import(
    place: &dyn Place,
    cache: &CacheManager,
) -> Result<Vec<Arc<dyn CacheSource<OpResult>>>, TransferError> {
    let bytes = place.manifest().await?;
    let found = parse(place, &bytes)?;
    if let Some(config) = found.cache_config() {
        let json = place.read(config).await?;
        let config = CacheConfig::parse(&json).map_err(|source| TransferError::Config {
            place: place.name(),
            source,
        })?;
        return Ok(vec![source(place, cache, &config, found.layers())?]);
    }
    let mut images = Vec::new();
    let mut open = vec![(found, 0)];
    while let Some((found, depth)) = open.pop() {
        match found {
            Found::Image(manifest) => images.extend(inline_cache(place, cache, *manifest).await?),
            Found::Index(index) if depth < MAX_DEPTH => {
                let children = index.manifests.iter().filter(|child| {
                    media_type::is_manifest(&child.media_type)
                        || media_type::is_index(&child.media_type)
                });
                for child in children {
                    open.push((parse(place, &place.read(child).await?)?, depth + 1));
                }
            }
            Found::Index(_) => {}
        }
    }
    Ok(images)
}

enum Found {
    Image(Box<Manifest>),
    Index(Index),
}

impl Found {
    fn cache_config(&self) -> Option<&Descriptor> {
        let is_config = |found: &&Descriptor| found.media_type == media_type::BUILDKIT_CACHE_CONFIG;
        match self {
            Self::Image(manifest) => Some(&manifest.config).filter(is_config),
            Self::Index(index) => index.manifests.iter().find(is_config),
        }
    }

    fn layers(&self) -> &[Descriptor] {
        match self {
            Self::Image(manifest) => &manifest.layers,
            Self::Index(index) => &index.manifests,
        }
    }
}

/// A client's directory doesn't say what a manifest is: an index has `manifests`.
fn parse(place: &dyn Place, bytes: &[u8]) -> Result<Found, TransferError> {
    #[derive(Deserialize)]
    struct Shape {
        manifests: Option<serde::de::IgnoredAny>,
    }
    let read = || {
        let shape: Shape = serde_json::from_slice(bytes)?;
        Ok(if shape.manifests.is_some() {
            Found::Index(serde_json::from_slice(bytes)?)
        } else {
            Found::Image(Box::new(serde_json::from_slice(bytes)?))
        })
    };
    read().map_err(|source| TransferError::Manifest {
        place: place.name(),
        source,
    })
}

async fn inline_cache(
    place: &dyn Place,
    cache: &CacheManager,
    manifest: Manifest,
) -> Result<Option<Arc<dyn CacheSource<OpResult>>>, TransferError> {
    if !media_type::is_config(&manifest.config.media_type) || manifest.layers.is_empty() {
        return Ok(None);
    }
    let json = place.read(&manifest.config).await?;
    let manifest_error = |source| TransferError::Manifest {
        place: place.name(),
        source,
    };
    let image = ImageConfig::parse(&json).map_err(manifest_error)?;
    let Some(records) = inline::field(&json).map_err(manifest_error)? else {
        return Ok(None);
    };
    if image.rootfs.diff_ids.len() != manifest.layers.len() {
        tracing::warn!(
            place = place.name(),
            "image manifest and config name different numbers of layers"
        );
        return Ok(None);
    }
    let blobs: Vec<Digest> = manifest.layers.iter().map(|layer| layer.digest).collect();
    let config = inline::parse(&records, &blobs).map_err(|source| TransferError::Config {
        place: place.name(),
        source,
    })?;
    let mut history = image.history.iter().filter(|entry| !entry.empty_layer);
    let described =
        manifest
            .layers
            .into_iter()
            .zip(&image.rootfs.diff_ids)
            .map(|(layer, diff_id)| {
                let mut layer = layer.annotated(UNCOMPRESSED, diff_id.to_string());
                if let Some(entry) = history.next() {
                    if let Some(created) = &entry.created {
                        layer = layer.annotated(CREATED_AT, created.to_string());
                    }
                    if !entry.created_by.is_empty() {
                        layer = layer.annotated(DESCRIPTION, entry.created_by.clone());
                    }
                }
                layer
            });
    let layers: Vec<Descriptor> = described.collect();
    source(place, cache, &config, &layers).map(Some)
}

fn source(
    place: &dyn Place,
    cache: &CacheManager,
    config: &CacheConfig,
    layers: &[Descriptor],
) -> Result<Arc<dyn CacheSource<OpResult>>, TransferError> {
    let mut available = BTreeMap::new();
    let mut providers: BTreeMap<Digest, Arc<dyn BlobProvider>> = BTreeMap::new();
    for layer in layers {
        if let Some(provider) = place.provider(layer) {
            available.insert(layer.digest, layer.clone());
            providers.insert(layer.digest, provider);
        }
    }
    let plan = plan(config, &available);
    let loader = Loader::new(cache.clone(), plan.chains, providers);
    let source =
        ImportedCache::new(place.name(), plan.records, Arc::new(loader)).map_err(|source| {
            TransferError::Records {
                place: place.name(),
                source,
            }
        })?;
    Ok(Arc::new(source))
}

/// A status from its beginning to its drop.
struct Step<'a> {
    progress: &'a VertexProgress,
    status: Status,
}

impl<'a> Step<'a> {
    fn begin(progress: &'a VertexProgress, id: impl Into<String>) -> Self {
        let status = Status {
            id: id.into(),
            name: String::new(),
            current: 0,
            total: 0,
            started: Some(SystemTime::now()),
            completed: None,
        };
        progress.status(status.clone());
        Self { progress, status }
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.status.completed = Some(SystemTime::now());
        self.progress.status(self.status.clone());
    }
}
