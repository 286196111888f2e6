//! Indexes, manifests and configs of an image, as far as they are here.

use std::collections::BTreeMap;

use kiln_content::{ContentStore, NamedImage};
use kiln_oci::{
    Descriptor, Digest, ImageConfig, Index, Manifest, Platform, PlatformMatcher, media_type,
};
use serde::de::DeserializeOwned;

use crate::{Error, Images, Result};

/// The annotations by which an index says that a manifest is about another one.
const KIND: &str = "vnd.docker.reference.type";
const SUBJECT: &str = "vnd.docker.reference.digest";
const ATTESTATION: &str = "attestation-manifest";

/// A manifest of an image, with what the index says of it.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) descriptor: Descriptor,
    pub(crate) manifest: Manifest,
}

/// Everything that is known of an image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    /// Images for platforms.
    pub(crate) images: Vec<Part>,
    /// Statements about them.
    pub(crate) attestations: Vec<Part>,
    /// All blobs that are named, here or not: documents first.
    pub(crate) blobs: BTreeMap<Digest, Descriptor>,
    /// Documents in the order in which a registry wants them: the top last.
    pub(crate) documents: Vec<Descriptor>,
    /// What is named and not here.
    pub(crate) missing: Vec<Digest>,
}

pub(crate) fn is_document(kind: &str) -> bool {
    media_type::is_index(kind) || media_type::is_manifest(kind)
}

pub(crate) fn is_attestation(entry: &Descriptor) -> bool {
    entry
        .annotations
        .get(KIND)
        .is_some_and(|kind| kind == ATTESTATION)
}

/// The manifest that an attestation is about.
pub(crate) fn subject(entry: &Descriptor) -> Option<Digest> {
    entry.annotations.get(SUBJECT)?.parse().ok()
}

pub(crate) async fn read<T: DeserializeOwned>(
    content: &ContentStore,
    digest: &Digest,
) -> Result<T> {
    let bytes = content.read(digest).await?;
    parse(&bytes, || digest.to_string())
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], what: impl Fn() -> String) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Document {
        what: what(),
        source,
    })
}

/// Walks an image from its top.
pub(crate) async fn parts(content: &ContentStore, top: &Descriptor) -> Result<Parts> {
    let mut parts = Parts::default();
    let mut rest = vec![top.clone()];
    while let Some(descriptor) = rest.pop() {
        if parts
            .blobs
            .insert(descriptor.digest, descriptor.clone())
            .is_some()
        {
            continue;
        }
        if content.info(&descriptor.digest).is_none() {
            parts.missing.push(descriptor.digest);
            continue;
        }
        if media_type::is_index(&descriptor.media_type) {
            let index: Index = read(content, &descriptor.digest).await?;
            rest.extend(index.manifests.into_iter().rev());
            parts.documents.insert(0, descriptor);
        } else if media_type::is_manifest(&descriptor.media_type) {
            let manifest: Manifest = read(content, &descriptor.digest).await?;
            for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                if content.info(&blob.digest).is_none() && !parts.missing.contains(&blob.digest) {
                    parts.missing.push(blob.digest);
                }
                parts.blobs.insert(blob.digest, blob.clone());
            }
            parts.documents.insert(0, descriptor.clone());
            let part = Part {
                descriptor,
                manifest,
            };
            if is_attestation(&part.descriptor) {
                parts.attestations.push(part);
            } else {
                parts.images.push(part);
            }
        }
    }
    Ok(parts)
}

impl Parts {
    /// Bytes of what is here.
    pub(crate) fn bytes(&self) -> u64 {
        let here = self
            .blobs
            .values()
            .filter(|blob| !self.missing.contains(&blob.digest));
        here.map(|blob| blob.size).sum()
    }
}

impl Images {
    pub(crate) async fn config(&self, part: &Part) -> Result<ImageConfig> {
        read(&self.content, &part.manifest.config.digest).await
    }

    /// What a part runs on: as the index says, else as its config does.
    pub(crate) async fn platform_of(&self, part: &Part) -> Option<Platform> {
        match &part.descriptor.platform {
            Some(platform) => Some(platform.clone()),
            None => Some(self.config(part).await.ok()?.platform),
        }
    }

    /// The part for a platform; for the daemon's own any part will do if there is none better.
    pub(crate) async fn select<'a>(
        &self,
        parts: &'a Parts,
        wanted: Option<&Platform>,
    ) -> Option<&'a Part> {
        let matcher = PlatformMatcher::new(wanted.unwrap_or(&self.platform));
        let mut best: Option<((usize, usize), &Part)> = None;
        for part in &parts.images {
            let Some(platform) = self.platform_of(part).await else {
                continue;
            };
            if let Some(rank) = matcher.rank(&platform)
                && best.is_none_or(|(other, _)| rank < other)
            {
                best = Some((rank, part));
            }
        }
        match (best, wanted) {
            (Some((_, part)), _) => Some(part),
            (None, None) => parts.images.first(),
            (None, Some(_)) => None,
        }
    }

    /// The config's digest, which Docker calls the image's id.
    pub(crate) async fn config_of(&self, image: &NamedImage) -> Option<Digest> {
        let parts = parts(&self.content, &image.target).await.ok()?;
        let part = self.select(&parts, None).await?;
        Some(part.manifest.config.digest)
    }
}
