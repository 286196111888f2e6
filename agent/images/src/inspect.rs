//! All about one image.

use std::collections::BTreeSet;

use bytes::Bytes;
use kiln_oci::{Digest, HistoryEntry};

use crate::document::{self, subject};
use crate::{Error, Image, Images, Related, Result, platform};

/// The predicate type that a layer of an attestation manifest has.
const PREDICATE: &str = "in-toto.io/predicate-type";

/// An image, its documents as they are stored, and what they say.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// As in the list.
    pub image: Image,
    /// The index or manifest that the names point to.
    pub manifest: Bytes,
    /// The config of the platform.
    pub config: Bytes,
    /// The layers of the platform, oldest first.
    pub layers: Vec<LayerInfo>,
    /// How it was made; with the bytes of the layer.
    pub history: Vec<(HistoryEntry, u64)>,
    /// Statements about it.
    pub attestations: Vec<Attestation>,
    /// The index or manifest and the manifests in it, by any of which others may name the image.
    pub digests: BTreeSet<Digest>,
    /// Images with the same first layers, those with most of them first.
    pub related: Vec<Related>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Of the compressed bytes.
    pub digest: Digest,
    /// Of the tar.
    pub diff_id: Option<Digest>,
    /// Its kind.
    pub media_type: String,
    /// Compressed bytes.
    pub bytes: u64,
}

/// A statement about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// The statement.
    pub digest: Digest,
    /// What it states.
    pub predicate_type: String,
    /// The platform of the image that it is about.
    pub platform: String,
}

impl Images {
    /// Looks at the image of a name or id; for a platform, else for the daemon's.
    pub async fn inspect(&self, name: &str, wanted: &str) -> Result<Inspected> {
        let named = self.find(name).await?;
        let all = self.table.list().await?;
        let (names, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|image| image.target.digest == named.target.digest);
        let parts = document::parts(&self.content, &named.target).await?;
        let image = self.describe(&names, &parts).await;
        let wanted = match wanted {
            "" => None,
            text => Some(platform(text)?),
        };
        let part = self.select(&parts, wanted.as_ref()).await;
        let part = part.ok_or_else(|| Error::NoPlatform {
            name: name.to_owned(),
            platform: wanted.as_ref().unwrap_or(&self.platform).to_string(),
        })?;
        let config_bytes = self.content.read(&part.manifest.config.digest).await?;
        let config = self.config(part).await?;
        let diff_ids = &config.rootfs.diff_ids;
        let layers: Vec<LayerInfo> = part
            .manifest
            .layers
            .iter()
            .enumerate()
            .map(|(at, layer)| LayerInfo {
                digest: layer.digest,
                diff_id: diff_ids.get(at).copied(),
                media_type: layer.media_type.clone(),
                bytes: layer.size,
            })
            .collect();
        let mut sizes = layers.iter().map(|layer| layer.bytes);
        let history = config
            .history
            .into_iter()
            .map(|entry| {
                let bytes = if entry.empty_layer {
                    0
                } else {
                    sizes.next().unwrap_or(0)
                };
                (entry, bytes)
            })
            .collect();
        let related = self.related(part, diff_ids, others).await;
        let mut attestations = Vec::new();
        for statement in &parts.attestations {
            let about = subject(&statement.descriptor);
            let mut of = String::new();
            for part in &parts.images {
                if Some(part.descriptor.digest) == about
                    && let Some(platform) = self.platform_of(part).await
                {
                    of = platform.to_string();
                }
            }
            attestations.extend(statement.manifest.layers.iter().map(|layer| {
                Attestation {
                    digest: layer.digest,
                    predicate_type: layer
                        .annotations
                        .get(PREDICATE)
                        .cloned()
                        .unwrap_or_default(),
                    platform: of.clone(),
                }
            }));
        }
        let manifests = parts.images.iter().map(|part| part.descriptor.digest);
        Ok(Inspected {
            digests: manifests.chain([named.target.digest]).collect(),
            related,
            image,
            manifest: self.content.read(&named.target.digest).await?,
            config: config_bytes,
            layers,
            history,
            attestations,
        })
    }
}
