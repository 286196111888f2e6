//! Removes blobs that nobody needs any more: what a push left, or a build that was cut off.
//!
//! Images of the local store need what their manifests name. Only while no build runs can it be told
//! that a blob is nobody's: a build puts blobs first and names them later.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::try_join_all;
use kiln_cache::CacheManager;
use kiln_content::{ContentStore, ImageTable};
use kiln_oci::{Descriptor, Digest, ImageConfig, Index, Manifest, media_type};
use parking_lot::RwLock;

use crate::Error;

/// Larger documents than this aren't manifests.
const MAX_MANIFEST: u64 = 8 << 20;

/// Blobs are deleted in groups of this size.
const GROUP: usize = 64;

/// The blobs of the local image store, as of the last look.
#[derive(Clone)]
pub(crate) struct ImageBlobs {
    content: ContentStore,
    images: ImageTable,
    needed: Arc<RwLock<HashSet<Digest>>>,
    layers: Arc<RwLock<Vec<Vec<Digest>>>>,
}

impl ImageBlobs {
    /// Also tells the cache, which asks before it deletes a blob.
    pub(crate) fn new(content: ContentStore, images: ImageTable, cache: &CacheManager) -> Self {
        let needed: Arc<RwLock<HashSet<Digest>>> = Arc::default();
        let held = Arc::clone(&needed);
        cache.on_delete_blob(Arc::new(move |digest| held.read().contains(digest)));
        Self {
            content,
            images,
            needed,
            layers: Arc::default(),
        }
    }

    /// The diff ids of each image's layers.
    pub(crate) fn layers(&self) -> Vec<Vec<Digest>> {
        self.layers.read().clone()
    }

    /// Looks again.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        let (mut needed, mut layers) = (HashSet::new(), Vec::new());
        let images = self.images.list().await?;
        let mut rest: Vec<Descriptor> = images.into_iter().map(|image| image.target).collect();
        while let Some(descriptor) = rest.pop() {
            if !needed.insert(descriptor.digest)
                || descriptor.size > MAX_MANIFEST
                || self.content.info(&descriptor.digest).is_none()
            {
                continue;
            }
            let is_index = media_type::is_index(&descriptor.media_type);
            if !is_index && !media_type::is_manifest(&descriptor.media_type) {
                continue;
            }
            let bytes = self.content.read(&descriptor.digest).await?;
            if is_index {
                // What can't be read names nothing that could be needed.
                if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
                    rest.extend(index.manifests);
                }
            } else if let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) {
                layers.extend(self.diff_ids(&manifest.config).await);
                rest.push(manifest.config);
                rest.extend(manifest.layers);
            }
        }
        *self.needed.write() = needed;
        *self.layers.write() = layers;
        Ok(())
    }

    /// The layers that an image's config names.
    async fn diff_ids(&self, config: &Descriptor) -> Option<Vec<Digest>> {
        let is_here = self.content.info(&config.digest).is_some();
        if !is_here || config.size > MAX_MANIFEST {
            return None;
        }
        let config = self.content.read(&config.digest).await.ok()?;
        let config = ImageConfig::parse(&config).ok()?;
        Some(config.rootfs.diff_ids)
    }

    /// Removes blobs that nobody needs; says how many bytes they had. Stops when it isn't quiet any more.
    pub(crate) async fn sweep(
        &self,
        cache: &CacheManager,
        is_quiet: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<u64, Error> {
        let mut freed = 0;
        for group in self.content.walk().chunks(GROUP) {
            if !is_quiet() {
                break;
            }
            // Together, so that the database takes them in one transaction.
            let unneeded = group.iter().filter(|blob| !cache.needs_blob(&blob.digest));
            let deletions = unneeded.map(async |blob| {
                let gone = self.content.delete(&blob.digest).await?;
                Ok::<_, Error>(if gone { blob.size } else { 0 })
            });
            freed += try_join_all(deletions).await?.into_iter().sum::<u64>();
        }
        Ok(freed)
    }
}
