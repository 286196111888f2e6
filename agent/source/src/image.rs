//! `docker-image://`: an image of a registry, or of the local image store.
//!
//! ```text
//! name ─resolve─▶ index or manifest ─choose platform─▶ manifest ─▶ config ─▶ keys, lazy layers
//!        │ HEAD, or nothing at all for a pinned digest whose documents are known
//! ```
//!
//! Two keys: by what the name stands for and the platform, known first; then by the chain of the
//! layers, which another image with the same layers shares. No layer is fetched here: the ref that comes
//! out is lazy, and each layer's provider fetches it when somebody reads the files.

mod documents;
mod error;
mod layers;
mod pulled;
mod request;

use std::sync::Arc;

use async_trait::async_trait;
use kiln_cache::{BlobProvider, CacheManager, LayerBlob, ProviderSource, RecordOptions, Ref};
use kiln_content::{ContentStore, Documents, ImageTable};
use kiln_errdefs::SharedError;
use kiln_frontend::{ResolveImage, SourceMeta};
use kiln_oci::{Descriptor, Platform, Reference};
use kiln_proto::pb;
use kiln_registry::Registry;
use kiln_session::SessionManager;
use tokio::sync::Mutex;

pub use error::ImageError;
pub use request::ResolveMode;

use crate::{Source, SourceContext, SourceKey, SourceProvider};
use documents::Origin;
use layers::RemoteLayers;
use pulled::Pulled;
use request::ImageRequest;

/// What image sources work with. Cheap to clone.
#[derive(Clone)]
pub struct ImageSources(Arc<Parts>);

struct Parts {
    registry: Registry,
    sessions: SessionManager,
    content: ContentStore,
    images: ImageTable,
    documents: Documents,
    cache: CacheManager,
    /// For an op that names none.
    platform: Platform,
}

impl ImageSources {
    /// Images of `registry`, with the credentials of `sessions`. Layers become records of `cache`, and their blobs
    /// are brought into `content`.
    pub fn new(
        registry: Registry,
        sessions: SessionManager,
        content: ContentStore,
        images: ImageTable,
        documents: Documents,
        cache: CacheManager,
    ) -> Self {
        Self(Arc::new(Parts {
            registry,
            sessions,
            content,
            images,
            documents,
            cache,
            platform: Platform::host(),
        }))
    }
}

impl std::fmt::Debug for ImageSources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ImageSources")
    }
}

#[async_trait]
impl SourceProvider for ImageSources {
    fn schemes(&self) -> &'static [&'static str] {
        &["docker-image", "oci-layout"]
    }

    fn open(
        &self,
        op: &pb::SourceOp,
        platform: Option<&Platform>,
    ) -> Result<Arc<dyn Source>, SharedError> {
        let request = ImageRequest::parse(op)?;
        Ok(Arc::new(Image {
            parts: Arc::clone(&self.0),
            platform: platform.unwrap_or(&self.0.platform).clone(),
            request,
            pulled: Mutex::new(None),
        }))
    }

    async fn look_up(
        &self,
        op: pb::SourceOp,
        options: &ResolveImage,
        cx: &SourceContext,
    ) -> Result<SourceMeta, SharedError> {
        let mut request = ImageRequest::parse(&op)?;
        if !options.mode.is_empty() {
            request.mode = options.mode.parse()?;
        }
        let platform = options
            .platform
            .as_ref()
            .map_or_else(|| self.0.platform.clone(), platform_of);
        let mut meta = SourceMeta {
            source: op,
            ..SourceMeta::default()
        };
        let origin = Origin::of(&self.0, &request, cx);
        if options.want_config {
            let pulled = Pulled::read(&origin, &request, &platform).await?;
            meta.digest = Some(pulled.main.digest);
            meta.config = Some(pulled.config);
        } else {
            meta.digest = Some(origin.resolve(&request).await?.digest);
        }
        Ok(meta)
    }
}

/// Layers that were recorded before the daemon was restarted are fetched from where they came.
impl ProviderSource for ImageSources {
    fn provider(
        &self,
        _descriptor: &Descriptor,
        sources: &[String],
    ) -> Option<Arc<dyn BlobProvider>> {
        let reference: Reference = sources.iter().find_map(|source| source.parse().ok())?;
        Some(Arc::new(RemoteLayers::of_registry(
            &self.0, &reference, None,
        )))
    }
}

fn platform_of(platform: &pb::Platform) -> Platform {
    Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

/// One image of one vertex.
struct Image {
    parts: Arc<Parts>,
    request: ImageRequest,
    platform: Platform,
    pulled: Mutex<Option<Arc<Pulled>>>,
}

impl Image {
    async fn pulled(&self, cx: &SourceContext) -> Result<Arc<Pulled>, ImageError> {
        let mut pulled = self.pulled.lock().await;
        if let Some(pulled) = &*pulled {
            return Ok(Arc::clone(pulled));
        }
        let progress = layers::Report::begin(
            &cx.progress,
            format!("resolve {}", self.request.reference),
            String::new(),
            0,
        );
        let origin = Origin::of(&self.parts, &self.request, cx);
        let read = Arc::new(Pulled::read(&origin, &self.request, &self.platform).await?);
        progress.end();
        Ok(Arc::clone(pulled.insert(read)))
    }
}

#[async_trait]
impl Source for Image {
    async fn cache_key(&self, index: usize, cx: &SourceContext) -> Result<SourceKey, SharedError> {
        let pulled = self.pulled(cx).await?;
        let key = match pulled.chain_key.as_ref().filter(|_| index > 0) {
            Some(chain) => chain.clone(),
            None => pulled.manifest_key(&self.platform, self.request.layer_limit)?,
        };
        Ok(SourceKey {
            key,
            pin: Some(pulled.main.digest.to_string()),
            last: index > 0,
        })
    }

    async fn snapshot(&self, cx: &SourceContext) -> Result<Option<Ref>, SharedError> {
        let pulled = self.pulled(cx).await?;
        if pulled.layers.is_empty() {
            return Ok(None);
        }
        let provider: Arc<dyn BlobProvider> = Arc::new(RemoteLayers::of_request(
            &self.parts,
            &self.request,
            cx.progress.clone(),
        ));
        let name = &self.request.reference;
        let blobs = pulled.layers.iter().map(|(descriptor, diff_id)| {
            let is_here = self.parts.content.info(&descriptor.digest).is_some();
            LayerBlob {
                descriptor: descriptor.clone(),
                diff_id: *diff_id,
                provider: (!is_here || self.request.layout.is_none())
                    .then(|| Arc::clone(&provider)),
                created: None,
                description: format!("pulled from {name}"),
            }
        });
        let options = RecordOptions {
            description: format!("pulled from {name}"),
            kind: self.request.record_kind,
            ..RecordOptions::default()
        };
        let made = self
            .parts
            .cache
            .layers_from_blobs(None, blobs.collect(), options)
            .await;
        Ok(Some(made.map_err(ImageError::from)?))
    }
}
