//! The inline form: the records alone, inside the config of the image that was built.
//!
//! The field is `moby.buildkit.cache.v0`, base64 of the JSON array of records. There are no layers of
//! the cache's own: index *n* means layer *n* of the image. Results whose layers aren't the first
//! layers of the image, in order, list theirs as a chain.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kiln_oci::{Digest, Timestamp};
use serde::Deserialize;

use crate::assemble::Assembled;
use crate::config::{
    CacheConfig, CacheLayer, CacheRecord, CacheResult, ChainedResult, ConfigError,
};

/// The field of the image config.
pub const FIELD: &str = "moby.buildkit.cache.v0";

/// A layer of the image that was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLayer {
    /// The blob in the manifest.
    pub blob: Digest,
    /// The uncompressed tar.
    pub diff_id: Digest,
}

/// The JSON of the records for an image with these layers, or `None` where no result of the cache is
/// made of them.
pub fn records_for(
    assembled: &Assembled,
    layers: &[ImageLayer],
) -> serde_json::Result<Option<Vec<u8>>> {
    let config = &assembled.config;
    // The image may hold the layer in another compression than the cache names.
    let is_layer = |cached: usize, layer: &ImageLayer| {
        config.layers[cached]
            .blob
            .parse()
            .is_ok_and(|digest: Digest| {
                let known = assembled.blobs.get(&digest);
                digest == layer.blob || known.is_some_and(|blob| blob.diff_id == layer.diff_id)
            })
    };
    let mut any = false;
    let records: Vec<CacheRecord> = config
        .records
        .iter()
        .map(|record| {
            let mut inline = CacheRecord {
                digest: record.digest.clone(),
                inputs: record.inputs.clone(),
                ..CacheRecord::default()
            };
            for result in &record.results {
                let chain = config.chain(result.layer);
                let in_order = chain.len() <= layers.len()
                    && chain
                        .iter()
                        .zip(layers)
                        .all(|(cached, layer)| is_layer(*cached, layer));
                if in_order {
                    inline.results.push(CacheResult {
                        layer: chain.len() - 1,
                        ..*result
                    });
                    continue;
                }
                let places = chain
                    .iter()
                    .map(|cached| layers.iter().rposition(|layer| is_layer(*cached, layer)));
                if let Some(layers) = places.collect() {
                    inline.chains.push(ChainedResult {
                        layers,
                        created_at: Timestamp::ZERO,
                    });
                }
            }
            any |= !inline.results.is_empty() || !inline.chains.is_empty();
            inline
        })
        .collect();
    any.then(|| kiln_oci::go_json::to_vec(&records)).transpose()
}

/// The records of an image config, if it has any.
pub fn field(config: &[u8]) -> serde_json::Result<Option<Vec<u8>>> {
    #[derive(Deserialize)]
    struct Image {
        #[serde(rename = "moby.buildkit.cache.v0")]
        cache: Option<String>,
    }
    let image: Image = serde_json::from_slice(config)?;
    // Text that isn't base64 is no cache of ours.
    Ok(image.cache.and_then(|text| BASE64.decode(text).ok()))
}

/// Reads the records of an image config, given the image's layers.
pub fn parse(json: &[u8], layers: &[Digest]) -> Result<CacheConfig, ConfigError> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Records(#[serde(deserialize_with = "kiln_oci::go_json::null_default")] Vec<CacheRecord>);

    let Records(records) = serde_json::from_slice(json)?;
    let layers = layers.iter().enumerate().map(|(index, blob)| CacheLayer {
        blob: blob.to_string(),
        parent: index as i64 - 1,
        annotations: None,
    });
    let config = CacheConfig {
        layers: layers.collect(),
        records,
    };
    config.check()?;
    Ok(config)
}
