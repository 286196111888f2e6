//! An image whose documents have been read: its layers and its keys.

use bytes::Bytes;
use kiln_content::Document;
use kiln_oci::{
    Descriptor, Digest, ImageConfig, Index, Manifest, Platform, PlatformMatcher, chain_id, go_json,
    media_type as mt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ImageError;
use super::documents::Origin;
use super::request::ImageRequest;

/// Indexes in indexes.
const MAX_DEPTH: usize = 4;
const MAX_LAYERS: usize = 1000;
/// Platforms that an error lists.
const MAX_LISTED: usize = 20;

pub(super) struct Pulled {
    /// What the name stands for: an index, or the manifest itself.
    pub(super) main: Descriptor,
    /// The config's bytes.
    pub(super) config: Bytes,
    /// Blobs with the digests of their uncompressed tars, oldest first, cut to the limit.
    pub(super) layers: Vec<(Descriptor, Digest)>,
    /// The second key, where the config is one of an image.
    pub(super) chain_key: Option<String>,
}

impl Pulled {
    pub(super) async fn read(
        origin: &Origin<'_>,
        request: &ImageRequest,
        platform: &Platform,
    ) -> Result<Self, ImageError> {
        let main = origin.resolve(request).await?;
        if let Some(expected) = request.checksum
            && expected != main.digest
        {
            return Err(ImageError::Checksum {
                name: request.reference.to_string(),
                expected,
                actual: main.digest,
            });
        }
        let (digest, manifest) = find_manifest(origin, &main, platform).await?;
        let config = origin
            .config(&manifest.config.digest, config_type(&manifest))
            .await?;
        let (layers, chain_key) = layers_of(digest, manifest, &config, request.layer_limit)?;
        Ok(Self {
            main,
            config: config.bytes,
            layers,
            chain_key,
        })
    }

    /// The first key.
    pub(super) fn manifest_key(
        &self,
        platform: &Platform,
        limit: Option<usize>,
    ) -> Result<String, ImageError> {
        manifest_key(&self.main.digest, platform, limit)
    }
}

/// The bytes that BuildKit hashes for it, field by field.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestKey<'a> {
    digest: &'a Digest,
    #[serde(rename = "OS")]
    os: &'a str,
    arch: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    variant: &'a str,
    #[serde(rename = "OSVersion", skip_serializing_if = "str::is_empty")]
    os_version: &'a str,
    #[serde(rename = "OSFeatures", skip_serializing_if = "<[_]>::is_empty")]
    os_features: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

fn manifest_key(
    digest: &Digest,
    platform: &Platform,
    limit: Option<usize>,
) -> Result<String, ImageError> {
    let key = ManifestKey {
        digest,
        os: &platform.os,
        arch: &platform.architecture,
        variant: &platform.variant,
        os_version: &platform.os_version,
        os_features: &platform.os_features,
        limit,
    };
    let bytes = go_json::to_vec(&key).map_err(|source| ImageError::Document {
        digest: *digest,
        what: "image key",
        source,
    })?;
    Ok(Digest::of(bytes).to_string())
}

/// Old manifests of both families give the config other types; what it is for is clear.
fn config_type(manifest: &Manifest) -> &str {
    if manifest.config.media_type.is_empty() {
        mt::OCI_CONFIG
    } else {
        &manifest.config.media_type
    }
}

async fn find_manifest(
    origin: &Origin<'_>,
    main: &Descriptor,
    platform: &Platform,
) -> Result<(Digest, Manifest), ImageError> {
    let matcher = PlatformMatcher::new(platform);
    let mut descriptor = main.clone();
    for _ in 0..MAX_DEPTH {
        let digest = descriptor.digest;
        let document = origin.manifest(&digest).await?;
        if mt::is_manifest(&document.media_type) {
            return Ok((digest, parse(digest, &document, "image manifest")?));
        }
        if !mt::is_index(&document.media_type) {
            return Err(ImageError::MediaType {
                digest,
                media_type: document.media_type,
            });
        }
        let index: Index = parse(digest, &document, "image index")?;
        let Some(entry) = index.select(&matcher) else {
            return Err(ImageError::NoPlatform {
                index: digest,
                platform: platform.to_string(),
                available: available(&index),
            });
        };
        descriptor = entry.clone();
    }
    Err(ImageError::Refused {
        digest: main.digest,
        reason: format!("indexes are nested more than {MAX_DEPTH} deep"),
    })
}

fn available(index: &Index) -> String {
    let platforms = index
        .manifests
        .iter()
        .filter_map(|entry| entry.platform.as_ref());
    let mut names: Vec<String> = platforms
        .filter(|platform| platform.os != "unknown")
        .map(ToString::to_string)
        .collect();
    names.truncate(MAX_LISTED);
    if names.is_empty() {
        "no images".to_owned()
    } else {
        names.join(", ")
    }
}

fn parse<T: DeserializeOwned>(
    digest: Digest,
    document: &Document,
    what: &'static str,
) -> Result<T, ImageError> {
    serde_json::from_slice(&document.bytes).map_err(|source| ImageError::Document {
        digest,
        what,
        source,
    })
}

type Layers = (Vec<(Descriptor, Digest)>, Option<String>);

fn layers_of(
    digest: Digest,
    manifest: Manifest,
    config: &Document,
    limit: Option<usize>,
) -> Result<Layers, ImageError> {
    let parsed: ImageConfig = parse(manifest.config.digest, config, "image config")?;
    let mut layers = manifest.layers;
    let mut diff_ids = parsed.rootfs.diff_ids;
    if layers.len() != diff_ids.len() {
        return Err(ImageError::LayerCount {
            digest,
            layers: layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    if layers.len() > MAX_LAYERS {
        return Err(ImageError::Refused {
            digest,
            reason: format!("more than {MAX_LAYERS} layers"),
        });
    }
    if let Some(other) = layers.iter().find(|layer| !mt::is_layer(&layer.media_type)) {
        return Err(ImageError::MediaType {
            digest: other.digest,
            media_type: other.media_type.clone(),
        });
    }
    if let Some(limit) = limit {
        if limit > layers.len() {
            return Err(ImageError::LayerLimit {
                limit,
                layers: layers.len(),
            });
        }
        layers.truncate(limit);
        diff_ids.truncate(limit);
    }
    let chain_key = (parsed.rootfs.kind == "layers")
        .then(|| chain_id(&diff_ids))
        .flatten();
    let pairs = layers.into_iter().zip(diff_ids).collect();
    Ok((pairs, chain_key.map(|chain| chain.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_has_gos_bytes() {
        let digest = Digest::of("");
        let platform = Platform::new("linux", "arm", "v7");
        let json = format!(
            r#"{{"Digest":"{digest}","OS":"linux","Arch":"arm","Variant":"v7","Limit":2}}"#
        );
        let key = manifest_key(&digest, &platform, Some(2)).unwrap();
        assert_eq!(key, Digest::of(json).to_string());
    }

    #[test]
    fn the_first_key_is_that_of_a_real_build() {
        // A record of a cache that BuildKit exported: sha256("<op digest>@<output>").
        let manifest = "sha256:b1d96093b72dd92208432bf3b33bfbb92a40c8cdcc9ddbcb72323ea1e226c36e";
        let key = manifest_key(
            &manifest.parse().unwrap(),
            &Platform::new("linux", "amd64", ""),
            None,
        );
        let op = Digest::of(format!("buildkit.source.v0:{}", key.unwrap()));
        let record = "sha256:c562115739b8457ebc6c8d22f7944fa3e6db18653200db9047e79761066377f5";
        assert_eq!(Digest::of(format!("{op}@0")).to_string(), record);
    }

    fn manifest(layers: usize, media_type: &str) -> Manifest {
        let mut manifest = Manifest::new(mt::OCI_MANIFEST, Descriptor::of(mt::OCI_CONFIG, b""));
        manifest.layers = vec![Descriptor::of(media_type, b"layer"); layers];
        manifest
    }

    fn config(kind: &str, diff_ids: usize) -> Document {
        let ids = vec![format!("\"{}\"", Digest::of("tar")); diff_ids].join(",");
        let text = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"{kind}","diff_ids":[{ids}]}}}}"#
        );
        Document {
            media_type: mt::OCI_CONFIG.to_owned(),
            bytes: text.into(),
        }
    }

    #[test]
    fn layers_and_config_must_agree() {
        let layers = |count, ids, limit| {
            layers_of(
                Digest::of("m"),
                manifest(count, mt::OCI_LAYER_GZIP),
                &config("layers", ids),
                limit,
            )
        };
        let (pairs, key) = layers(2, 2, None).unwrap();
        assert_eq!(pairs.len(), 2);
        assert_eq!(
            key,
            chain_id(&[Digest::of("tar"); 2]).map(|chain| chain.to_string())
        );
        assert_eq!(
            layers(2, 2, Some(1)).unwrap().1,
            Some(Digest::of("tar").to_string())
        );
        assert_eq!(layers(0, 0, None).unwrap(), (Vec::new(), None));
        assert!(matches!(
            layers(2, 1, None),
            Err(ImageError::LayerCount { .. })
        ));
        assert!(matches!(
            layers(2, 2, Some(3)),
            Err(ImageError::LayerLimit { .. })
        ));
        assert!(matches!(
            layers(1001, 1001, None),
            Err(ImageError::Refused { .. })
        ));
        let other = layers_of(
            Digest::of("m"),
            manifest(1, "text/plain"),
            &config("layers", 1),
            None,
        );
        assert!(matches!(other, Err(ImageError::MediaType { .. })));
        let broken = Document {
            media_type: String::new(),
            bytes: "{".into(),
        };
        let broken = layers_of(Digest::of("m"), manifest(1, mt::OCI_LAYER), &broken, None);
        assert!(matches!(broken, Err(ImageError::Document { .. })));
    }
}
