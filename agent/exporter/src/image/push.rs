//! Brings an image to a registry: blobs side by side, then manifests, then the name.

use std::sync::Arc;

use futures::stream::TryStreamExt as _;
use kiln_cache::LayerBlob;
use kiln_content::ContentStore;
use kiln_oci::{Descriptor, Reference, media_type};
use kiln_registry::{BlobSource, Client};

use super::writer::Written;
use crate::progress::{self, Step};
use crate::{Error, ExportInput};

/// Blobs that are under way at a time.
const PARALLEL: usize = 5;

/// A push, ready to run.
pub(super) struct Push {
    pub(super) client: Client,
    pub(super) content: ContentStore,
    pub(super) written: Arc<Written>,
    pub(super) input: ExportInput,
}

impl Push {
    pub(super) async fn run(&self, reference: &Reference) -> Result<(), Error> {
        self.push(reference).await.map_err(|error| match error {
            Error::Registry(source) => Error::Push {
                name: reference.to_string(),
                source,
            },
            error => error,
        })
    }

    async fn push(&self, reference: &Reference) -> Result<(), Error> {
        let is_manifest = |kind: &str| media_type::is_manifest(kind) || media_type::is_index(kind);
        let written = &self.written;
        let plain = written
            .documents
            .iter()
            .filter(|document| !is_manifest(&document.media_type))
            .map(|document| (document.clone(), None));
        let layers = written
            .layers
            .values()
            .filter(|layer| !media_type::is_nondistributable(&layer.descriptor.media_type))
            .map(|layer| (layer.descriptor.clone(), Some(layer.clone())));
        {
            let _step = Step::begin(&self.input.progress, "pushing layers");
            let blobs: Vec<_> = layers.chain(plain).collect();
            futures::stream::iter(blobs.into_iter().map(Ok))
                .try_for_each_concurrent(PARALLEL, |(descriptor, layer)| {
                    self.blob(reference, descriptor, layer)
                })
                .await?;
        }
        let top = written.descriptor.digest;
        let _step = Step::begin(
            &self.input.progress,
            format!("pushing manifest for {reference}@{top}"),
        );
        let untagged = reference.without_tag_and_digest();
        for document in &written.documents {
            if document.digest != top && is_manifest(&document.media_type) {
                self.manifest(&untagged, document).await?;
            }
        }
        self.manifest(reference, &written.descriptor).await
    }

    async fn manifest(&self, reference: &Reference, document: &Descriptor) -> Result<(), Error> {
        let bytes = self.content.read(&document.digest).await?;
        self.client
            .push_manifest(reference, &document.media_type, bytes)
            .await?;
        Ok(())
    }

    async fn blob(
        &self,
        reference: &Reference,
        descriptor: Descriptor,
        layer: Option<LayerBlob>,
    ) -> Result<(), Error> {
        let layer = layer.as_ref();
        let source = BlobSource::File(self.content.path(&descriptor.digest));
        let sources = layer
            .and_then(|layer| layer.provider.as_ref())
            .map(|provider| provider.sources())
            .unwrap_or_default();
        let prefix = format!("{}/", reference.domain());
        let mount_from: Vec<String> = sources
            .iter()
            .filter_map(|source| source.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect();
        let sent = layer.map(|_| {
            let label = format!("pushing {}", descriptor.digest);
            progress::upload(&self.input.progress, &label, descriptor.size)
        });
        let push = || {
            self.client
                .push_blob(reference, &descriptor, &source, &mount_from, sent.clone())
        };
        let Err(error) = push().await else {
            return Ok(());
        };
        // The registry had nothing to mount: now the bytes are needed after all.
        let Some(layer) = layer.filter(|layer| layer.provider.is_some()) else {
            return Err(error.into());
        };
        if self.content.info(&descriptor.digest).is_some() {
            return Err(error.into());
        }
        fetch(layer, &self.input).await?;
        push().await?;
        Ok(())
    }
}

async fn fetch(layer: &LayerBlob, input: &ExportInput) -> Result<(), Error> {
    let Some(provider) = &layer.provider else {
        return Ok(());
    };
    provider
        .fetch(&layer.descriptor, &input.sessions, &input.progress)
        .await
        .map_err(|source| Error::Fetch {
            digest: layer.descriptor.digest,
            source,
        })
}

/// Fetches the layers that aren't in the content store.
pub(super) async fn fetch_missing(
    content: &ContentStore,
    written: &Written,
    input: &ExportInput,
) -> Result<(), Error> {
    let missing: Vec<LayerBlob> = written
        .layers
        .values()
        .filter(|layer| content.info(&layer.descriptor.digest).is_none())
        .cloned()
        .collect();
    futures::stream::iter(missing.into_iter().map(Ok))
        .try_for_each_concurrent(PARALLEL, |layer| async move { fetch(&layer, input).await })
        .await
}
