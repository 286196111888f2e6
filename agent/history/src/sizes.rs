//! How large the images of a build are, and those of the build before it.
//!
//! ```text
//!  a record's result ──► index ──► manifest ──► config and layers, with their sizes
//! ```
//! A size is what a registry's copy of the image takes: its configs and layers, compressed as they are, each blob once.
//! Neither has to be here, since the manifests say their sizes.
//!
//! Builds are compared that are of one project (which has the target in it), where the output is of the same kind, for
//! the same platforms, and into repositories of the same names: anything else would be another image.
//!
//! Invariant: where a manifest is gone, there is no size; nothing is guessed.

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::{Digest, Index, Manifest, Reference, media_type};
use kiln_proto::moby::buildkit::v1 as control;

use crate::{Finished, History};

/// An index says of a manifest that it is a statement about another one, which isn't part of the image.
const KIND: &str = "vnd.docker.reference.type";

/// An image that a build made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultSize {
    /// The result, as the record names it.
    pub digest: Digest,
    /// Bytes.
    pub bytes: u64,
    /// The build before that made one as well, and that one's bytes.
    pub previous: Option<(String, u64)>,
}

/// An image by its manifests.
#[derive(Debug, PartialEq, Eq)]
struct Size {
    bytes: u64,
    platforms: BTreeSet<String>,
}

/// What an output is, so that only equals are compared.
#[derive(Debug, PartialEq, Eq)]
struct Output {
    kind: String,
    repositories: BTreeSet<String>,
}

impl History {
    /// The images of a finished build; without those whose manifests are gone.
    pub async fn sizes(&self, finished: &Finished) -> Vec<ResultSize> {
        let earlier = self.earlier(finished);
        let mut sizes: Vec<ResultSize> = Vec::new();
        for (number, descriptor) in images(&finished.record) {
            let Ok(digest) = descriptor.digest.parse() else {
                continue;
            };
            if sizes.iter().any(|one| one.digest == digest) {
                continue;
            }
            let Some(size) = self.size(descriptor).await else {
                continue;
            };
            let wanted = output(&finished.record, number);
            let previous = match wanted.and_then(|wanted| last_of(&wanted, &earlier)) {
                Some((reference, descriptor)) => {
                    self.size(descriptor).await.map(|other| (reference, other))
                }
                None => None,
            };
            sizes.push(ResultSize {
                digest,
                bytes: size.bytes,
                previous: previous
                    .filter(|(_, other)| other.platforms == size.platforms)
                    .map(|(reference, other)| (reference.to_owned(), other.bytes)),
            });
        }
        sizes
    }

    /// `None` where a manifest is gone or can't be read.
    async fn size(&self, top: &control::Descriptor) -> Option<Size> {
        let content = &self.content;
        let bytes = content.read(&top.digest.parse().ok()?).await.ok()?;
        let mut manifests = Vec::new();
        let mut platforms = BTreeSet::new();
        if media_type::is_index(&top.media_type) {
            let index: Index = serde_json::from_slice(&bytes).ok()?;
            for entry in index.manifests {
                if entry.annotations.contains_key(KIND) {
                    continue;
                }
                platforms.extend(entry.platform.as_ref().map(ToString::to_string));
                manifests.push(content.read(&entry.digest).await.ok()?);
            }
        } else {
            manifests.push(bytes);
        }
        let mut blobs = BTreeMap::new();
        for manifest in manifests {
            let manifest: Manifest = serde_json::from_slice(&manifest).ok()?;
            let named = std::iter::once(manifest.config).chain(manifest.layers);
            blobs.extend(named.map(|blob| (blob.digest, blob.size)));
        }
        Some(Size {
            // Those of a base's layers are what its registry says.
            bytes: blobs.into_values().fold(0, u64::saturating_add),
            platforms,
        })
    }
}

/// The newest build that has such an output, and its result.
fn last_of<'a>(
    wanted: &Output,
    earlier: &'a [Finished],
) -> Option<(&'a str, &'a control::Descriptor)> {
    earlier.iter().find_map(|one| {
        let (_, descriptor) = images(&one.record)
            .find(|(number, _)| output(&one.record, *number).as_ref() == Some(wanted))?;
        Some((one.record.r#ref.as_str(), descriptor))
    })
}

/// The results that are images, by the number of their exporter.
fn images(
    record: &control::BuildHistoryRecord,
) -> impl Iterator<Item = (i64, &control::Descriptor)> {
    let all: BTreeMap<i64, &control::Descriptor> = record
        .result
        .iter()
        .flat_map(|result| &result.results)
        .map(|(number, descriptor)| (*number, descriptor))
        .collect();
    all.into_iter().filter(|(_, descriptor)| {
        let kind = &descriptor.media_type;
        media_type::is_index(kind) || media_type::is_manifest(kind)
    })
}

fn output(record: &control::BuildHistoryRecord, number: i64) -> Option<Output> {
    let exporter = record.exporters.get(usize::try_from(number).ok()?)?;
    let names = exporter.attrs.get("name").map_or("", String::as_str);
    Some(Output {
        kind: exporter.r#type.clone(),
        repositories: names
            .split(',')
            .filter_map(|name| Some(name.trim().parse::<Reference>().ok()?.name()))
            .collect(),
    })
}

#[cfg(test)]
mod tests;
