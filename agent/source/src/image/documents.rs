//! Where an image's manifests and configs come from: a registry, the local image store, a client's
//! layout. What is read is verified, and kept for the next build.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use kiln_content::Document;
use kiln_ids::SessionId;
use kiln_oci::{Descriptor, Digest, Reference, media_type as mt};
use kiln_registry::{Client, MAX_MANIFEST};
use kiln_session::{Caller, ContentProxy};
use serde::Deserialize;

use super::request::{ImageRequest, Layout, ResolveMode};
use super::{ImageError, Parts};
use crate::{SessionCredentials, SourceContext};

/// The documents of one image.
pub(super) struct Origin<'a> {
    parts: &'a Parts,
    reference: Reference,
    client: Client,
    layout: Option<Layout>,
    sessions: Vec<SessionId>,
}

impl<'a> Origin<'a> {
    pub(super) fn of(parts: &'a Parts, request: &ImageRequest, cx: &SourceContext) -> Self {
        let credentials = SessionCredentials::new(parts.sessions.clone(), &cx.sessions);
        Self {
            parts,
            reference: request.reference.clone(),
            client: parts.registry.client(std::sync::Arc::new(credentials)),
            layout: request.layout.clone(),
            sessions: cx.sessions.clone(),
        }
    }

    /// What the name stands for.
    pub(super) async fn resolve(&self, request: &ImageRequest) -> Result<Descriptor, ImageError> {
        if let Some(digest) = self.reference.digest() {
            let document = self.manifest(&digest).await?;
            return Ok(Descriptor::new(
                document.media_type,
                digest,
                document.bytes.len() as u64,
            ));
        }
        if request.mode == ResolveMode::PreferLocal
            && let Some(local) = self.parts.images.get(&self.reference).await?
        {
            return Ok(local.target);
        }
        match self.client.resolve(&self.reference).await {
            Ok(descriptor) => Ok(descriptor),
            Err(error) if request.mode == ResolveMode::Default => {
                match self.parts.images.get(&self.reference).await? {
                    Some(local) => Ok(local.target),
                    None => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A manifest or an index by digest.
    pub(super) async fn manifest(&self, digest: &Digest) -> Result<Document, ImageError> {
        self.document(digest, None).await
    }

    /// A config by digest, with the media type that its manifest gives it.
    pub(super) async fn config(
        &self,
        digest: &Digest,
        media_type: &str,
    ) -> Result<Document, ImageError> {
        self.document(digest, Some(media_type)).await
    }

    async fn document(
        &self,
        digest: &Digest,
        config: Option<&str>,
    ) -> Result<Document, ImageError> {
        let media_type = config.unwrap_or_default();
        if self
            .parts
            .content
            .info(digest)
            .is_some_and(|info| info.size <= MAX_MANIFEST)
        {
            let bytes = self.parts.content.read(digest).await?;
            // Content isn't bound to a repository, but whoever asks by digest for what was built or loaded here may
            // have it.
            if Digest::of(&bytes) == *digest {
                return Ok(typed(bytes, media_type));
            }
        }
        let repository = match &self.layout {
            Some(layout) => format!("oci-layout:{}", layout.store),
            None => self.reference.name(),
        };
        if let Some(document) = self.parts.documents.get(digest, &repository).await? {
            return Ok(document);
        }
        let document = match &self.layout {
            Some(layout) => {
                let bytes = self.read_layout(layout, digest).await?;
                typed(bytes, media_type)
            }
            None if config.is_some() => {
                let bytes = self.read_blob(digest, media_type).await?;
                typed(bytes, media_type)
            }
            None => {
                let read = self.client.manifest(&self.reference, Some(*digest)).await?;
                typed(read.bytes, &read.descriptor.media_type)
            }
        };
        self.parts
            .documents
            .put(digest, &repository, &document)
            .await?;
        Ok(document)
    }

    async fn read_blob(&self, digest: &Digest, media_type: &str) -> Result<Bytes, ImageError> {
        let descriptor = Descriptor::new(media_type, *digest, 0);
        let mut reader = self.client.fetch(&self.reference, &descriptor, 0).await?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = reader.chunk().await? {
            bytes.extend_from_slice(&chunk);
            check_length(digest, bytes.len())?;
        }
        verified(digest, bytes.freeze(), reader.host())
    }

    async fn read_layout(&self, layout: &Layout, digest: &Digest) -> Result<Bytes, ImageError> {
        let proxy = open_layout(self.parts, layout, &self.sessions).await?;
        let failed = |status| ImageError::Layout {
            store: layout.store.clone(),
            source: Box::new(status),
        };
        if proxy.size(&digest.to_string()).await?.is_none() {
            return Err(ImageError::NotInLayout {
                digest: *digest,
                store: layout.store.clone(),
            });
        }
        let mut pieces = proxy.read(&digest.to_string(), 0, 0).await?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.map_err(failed)?);
            check_length(digest, bytes.len())?;
        }
        verified(digest, bytes.freeze(), &layout.store)
    }
}

/// The client's store behind a layout.
pub(super) async fn open_layout(
    parts: &Parts,
    layout: &Layout,
    sessions: &[SessionId],
) -> Result<ContentProxy, ImageError> {
    let open = |caller: Caller| caller.content(&format!("oci:{}", layout.store));
    if let Some(id) = &layout.session {
        return Ok(open(parts.sessions.get(id).await?));
    }
    let caller = sessions.iter().find_map(|id| parts.sessions.attached(id));
    caller.map(open).ok_or_else(|| ImageError::NoSession {
        store: layout.store.clone(),
    })
}

fn check_length(digest: &Digest, length: usize) -> Result<(), ImageError> {
    if length as u64 > MAX_MANIFEST {
        return Err(ImageError::Refused {
            digest: *digest,
            reason: format!("a manifest or config of more than {MAX_MANIFEST} bytes"),
        });
    }
    Ok(())
}

fn verified(digest: &Digest, bytes: Bytes, host: &str) -> Result<Bytes, ImageError> {
    let actual = Digest::of(&bytes);
    if actual == *digest {
        return Ok(bytes);
    }
    Err(kiln_registry::Error::WrongDigest {
        host: host.to_owned(),
        expected: *digest,
        actual,
    }
    .into())
}

#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u32>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// What a document says itself counts for more than what was said of it: a manifest must not be taken for an index
/// because of a header.
fn typed(bytes: Bytes, said: &str) -> Document {
    let shape: Option<Shape> = serde_json::from_slice(&bytes).ok();
    let own = shape.and_then(|shape| match shape {
        Shape {
            media_type: Some(own),
            ..
        } if !own.is_empty() => Some(own),
        Shape {
            schema_version: Some(1),
            ..
        } => Some(mt::DOCKER_MANIFEST_V1_SIGNED.to_owned()),
        Shape {
            manifests: Some(_), ..
        } => Some(mt::OCI_INDEX.to_owned()),
        Shape {
            config: Some(_),
            layers: Some(_),
            ..
        } => Some(mt::OCI_MANIFEST.to_owned()),
        _ => None,
    });
    let media_type = match own {
        Some(own) if !mt::is_config(said) => own,
        _ => said.to_owned(),
    };
    Document { media_type, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_what_they_say() {
        let table = [
            (
                r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
                "",
                mt::OCI_INDEX,
            ),
            (
                r#"{"schemaVersion":2,"manifests":[]}"#,
                mt::OCI_MANIFEST,
                mt::OCI_INDEX,
            ),
            (
                r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
                "",
                mt::OCI_MANIFEST,
            ),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#,
                "text/plain",
                mt::DOCKER_MANIFEST_V1_SIGNED,
            ),
            (
                r#"{"config":{},"rootfs":{}}"#,
                mt::OCI_CONFIG,
                mt::OCI_CONFIG,
            ),
            ("not json", mt::OCI_CONFIG, mt::OCI_CONFIG),
        ];
        for (text, said, want) in table {
            assert_eq!(typed(text.into(), said).media_type, want, "{text}");
        }
    }
}
