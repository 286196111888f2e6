//! Layers as blobs, and where a lazy layer's bytes come from.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use kiln_ids::SessionId;
use kiln_oci::{Descriptor, Digest};
use kiln_progress::VertexProgress;

/// Why a provider couldn't deliver.
pub type FetchError = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// Delivers the bytes of a layer that isn't here yet.
#[async_trait]
pub trait BlobProvider: Send + Sync {
    /// Brings the blob into the content store, verified. Calls for one blob never overlap; a dropped
    /// call may leave a partial download that the next one resumes.
    async fn fetch(
        &self,
        descriptor: &Descriptor,
        sessions: &[SessionId],
        progress: &VertexProgress,
    ) -> Result<(), FetchError>;

    /// Whether nothing can be fetched any more, as where the client that had the blob has left. A layer
    /// without another provider is then lost, and what is made of it has to be made anew.
    fn is_gone(&self) -> bool {
        false
    }

    /// Where the blob can be had, as `registry/repository`; kept with the layer, so that a push can
    /// mount it and a restarted daemon can fetch it.
    fn sources(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Makes providers for lazy layers that were recorded before the daemon was restarted.
pub trait ProviderSource: Send + Sync {
    /// A provider for a blob that can be had at `sources`, or `None` if none of them is usable.
    fn provider(
        &self,
        descriptor: &Descriptor,
        sources: &[String],
    ) -> Option<Arc<dyn BlobProvider>>;
}

/// One layer of a ref as a blob.
#[derive(Clone)]
pub struct LayerBlob {
    /// The (compressed) blob. Annotations are those that travel with the layer.
    pub descriptor: Descriptor,
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Set for a blob that isn't in the content store.
    pub provider: Option<Arc<dyn BlobProvider>>,
    /// When the layer was made.
    pub created: Option<SystemTime>,
    /// What made it.
    pub description: String,
}

impl LayerBlob {
    /// A blob that is in the content store.
    pub fn local(descriptor: Descriptor, diff_id: Digest) -> Self {
        Self {
            descriptor,
            diff_id,
            provider: None,
            created: None,
            description: String::new(),
        }
    }
}

impl fmt::Debug for LayerBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerBlob")
            .field("descriptor", &self.descriptor)
            .field("diff_id", &self.diff_id)
            .field("lazy", &self.provider.is_some())
            .finish_non_exhaustive()
    }
}
