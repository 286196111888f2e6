//! Descriptors and the two documents made of them: image manifest and image index.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go_json::null_default;
use crate::{Digest, Platform, PlatformMatcher, go_json, media_type};

/// Names content by its digest, size and kind. Fields in the order of the specification's Go type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// Its sha256.
    pub digest: Digest,
    /// Its length in bytes.
    #[serde(default)]
    pub size: u64,
    /// Where else it may be had from.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    /// Notes.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// The content itself in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What an image in an index runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The kind of an artifact.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub artifact_type: String,
}

impl Descriptor {
    /// A descriptor with the three required fields.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: String::new(),
        }
    }

    /// The descriptor of these bytes.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// The same with one more annotation.
    pub fn annotated(mut self, name: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(name.to_owned(), value.into());
        self
    }
}

/// An image manifest: one config and the layers, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// OCI's or Docker's; older OCI manifests leave it out.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub media_type: String,
    /// The kind, where it isn't an image.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub artifact_type: String,
    /// The image config.
    pub config: Descriptor,
    /// The layers, oldest first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    /// Notes.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// A manifest of the given family without layers.
    pub fn new(media_type: impl Into<String>, config: Descriptor) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type.into(),
            artifact_type: String::new(),
            config,
            layers: Vec::new(),
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The indented bytes that BuildKit writes for a manifest.
    pub fn to_vec(&self) -> serde_json::Result<Vec<u8>> {
        go_json::to_vec_indented(self)
    }
}

/// An image index: manifests for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// OCI's or Docker's.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub media_type: String,
    /// The kind, where it isn't of images.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub artifact_type: String,
    /// The manifests.
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    /// Notes.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An index of the given family.
    pub fn new(media_type: impl Into<String>, manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type.into(),
            artifact_type: String::new(),
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The indented bytes that BuildKit writes for an index.
    pub fn to_vec(&self) -> serde_json::Result<Vec<u8>> {
        go_json::to_vec_indented(self)
    }

    /// The best entry for `platform`: the first of the best rank. Entries without a platform come last and count only if they are
    /// manifests or indexes; attestations (platform `unknown/unknown`) never match.
    pub fn select(&self, platform: &PlatformMatcher) -> Option<&Descriptor> {
        let ranked = self
            .manifests
            .iter()
            .filter_map(|entry| Some((platform.rank(entry.platform.as_ref()?)?, entry)))
            .min_by_key(|(rank, _)| *rank);
        ranked.map(|(_, entry)| entry).or_else(|| {
            self.manifests.iter().find(|entry| {
                entry.platform.is_none()
                    && (media_type::is_manifest(&entry.media_type)
                        || media_type::is_index(&entry.media_type))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_have_gos_bytes() {
        let mut manifest = Manifest::new(
            media_type::OCI_MANIFEST,
            Descriptor::of(media_type::OCI_CONFIG, b"{}"),
        );
        manifest
            .layers
            .push(Descriptor::of(media_type::OCI_LAYER_GZIP, b"x").annotated("k", "a&b"));
        let text = String::from_utf8(manifest.to_vec().unwrap()).unwrap();
        assert!(text.starts_with(
            "{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\",\n  \"config\": {\n    \"mediaType\":"
        ), "{text}");
        assert!(
            text.contains("\"annotations\": {\n        \"k\": \"a\\u0026b\"\n      }"),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    }

    #[test]
    fn nulls_are_taken_for_nothing() {
        let text = r#"{"schemaVersion":2,"mediaType":null,"manifests":null,"annotations":null}"#;
        let index: Index = serde_json::from_str(text).unwrap();
        assert_eq!(index, Index::new("", Vec::new()));
    }

    #[test]
    fn an_index_gives_the_best_platform() {
        let entry = |platform: Option<&str>, seed: &str| {
            let mut descriptor = Descriptor::of(media_type::OCI_MANIFEST, seed.as_bytes());
            descriptor.platform = platform.map(|text| text.parse().unwrap());
            descriptor
        };
        let index = Index::new(
            media_type::OCI_INDEX,
            vec![
                entry(Some("linux/arm/v6"), "0"),
                entry(Some("linux/amd64"), "1"),
                entry(Some("linux/arm/v7"), "2"),
                entry(Some("unknown/unknown"), "3"),
                entry(Some("linux/amd64"), "4"),
            ],
        );
        for (platform, want) in [
            ("linux/amd64", Some(1)),
            ("linux/arm/v7", Some(2)),
            ("linux/arm64", Some(2)),
            ("linux/arm/v6", Some(0)),
            ("linux/s390x", None),
            ("windows/amd64", None),
        ] {
            let matcher = PlatformMatcher::new(&platform.parse().unwrap());
            let want = want.map(|at: usize| &index.manifests[at]);
            assert_eq!(index.select(&matcher), want, "{platform}");
        }
        let bare = Index::new(media_type::OCI_INDEX, vec![entry(None, "9")]);
        let matcher = PlatformMatcher::new(&"linux/amd64".parse().unwrap());
        assert_eq!(bare.select(&matcher), Some(&bare.manifests[0]));
    }
}
