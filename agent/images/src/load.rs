//! Images out of an archive: of `docker save` (old and new), of skopeo, an OCI layout; plain, gzip or zstd.
//!
//! Every file of the archive goes into the content store as it comes, since what it is may be told only at
//! the end. What turns out to be of no use is nobody's, and goes with the next collection.

use std::collections::BTreeMap;
use std::io::Read;

use kiln_content::Compression;
use kiln_content::codec::Decompressor;
use kiln_oci::{Descriptor, Digest, Index, Manifest, Reference, media_type};
use kiln_store::Lease;
use serde::Deserialize;

use crate::document::{self, is_document, parse};
use crate::{Error, Image, Images, Result};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";
/// Files that say what the others are; no larger ones are read as such.
const DIRECTORY_FILES: [&str; 3] = ["index.json", "manifest.json", "oci-layout"];
const MAX_DOCUMENT: u64 = 8 << 20;
const PIECE: usize = 256 << 10;

/// An entry of `manifest.json`.
#[derive(Deserialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
}

/// What an archive held.
#[derive(Default)]
struct Unpacked {
    documents: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, Entry>,
    links: BTreeMap<String, String>,
}

#[derive(Clone)]
struct Entry {
    digest: Digest,
    size: u64,
    compression: Compression,
}

impl Images {
    /// Takes the images of an archive in and names them. Unnamed ones are named by their digest.
    pub async fn load(&self, archive: impl Read + Send + 'static) -> Result<Vec<Image>> {
        let lease = self.content.leases().lease();
        let content = self.content.clone();
        let work = tokio::task::spawn_blocking(move || {
            let unpacked = unpack(&content, archive, &lease)?;
            Ok::<_, Error>((unpacked, lease))
        });
        let (unpacked, lease) = work.await.map_err(|_| Error::CutOff)??;
        let mut loaded: Vec<(Option<Reference>, Descriptor)> = Vec::new();
        if let Some(json) = unpacked.documents.get("index.json") {
            let index: Index = parse(json, || "index.json".to_owned())?;
            for entry in index.manifests {
                self.check(&unpacked, &entry).await?;
                loaded.push((name_of(&entry), bare(entry)));
            }
        }
        if let Some(json) = unpacked.documents.get("manifest.json") {
            let images: Vec<DockerImage> = parse(json, || "manifest.json".to_owned())?;
            for image in images {
                // A layout that names its images says more than Docker's form does.
                let tags = image.tags.clone().unwrap_or_default();
                let names: Vec<Reference> =
                    tags.iter().filter_map(|tag| tag.parse().ok()).collect();
                let known =
                    |name: &Reference| loaded.iter().any(|(other, _)| other.as_ref() == Some(name));
                if !loaded.is_empty() && names.iter().all(known) {
                    continue;
                }
                let target = self.manifest(&unpacked, &image, &lease).await?;
                loaded.retain(|(name, _)| name.is_some());
                if names.is_empty() {
                    loaded.push((None, target.clone()));
                }
                loaded.extend(names.into_iter().map(|name| (Some(name), target.clone())));
            }
        }
        if loaded.is_empty() {
            return Err(Error::Archive {
                reason: "it has neither an index.json nor a manifest.json with images".to_owned(),
            });
        }
        let mut images: Vec<Image> = Vec::new();
        for (name, target) in loaded {
            let name = match name {
                Some(name) => name.with_default_tag(),
                None => crate::reference("loaded")?.with_digest(target.digest),
            };
            self.table.set(&name, &target).await?;
            if !images.iter().any(|image| image.digest == target.digest) {
                let all = self.table.list().await?;
                let named: Vec<_> = all
                    .into_iter()
                    .filter(|image| image.target.digest == target.digest)
                    .collect();
                let parts = document::parts(&self.content, &target).await?;
                images.push(self.describe(&named, &parts).await);
            } else if let Some(image) = images
                .iter_mut()
                .find(|image| image.digest == target.digest)
            {
                image.names.push(name.to_string());
            }
        }
        for image in &mut images {
            image.names.sort();
            image.names.dedup();
        }
        Ok(images)
    }

    /// Checks that what an index names is here, as far as the archive had it.
    async fn check(&self, unpacked: &Unpacked, entry: &Descriptor) -> Result<()> {
        let missing = |digest: Digest| Error::Archive {
            reason: format!("it lacks {digest}"),
        };
        if self.content.info(&entry.digest).is_none() {
            return Err(missing(entry.digest));
        }
        if !is_document(&entry.media_type) {
            return Err(Error::Archive {
                reason: format!("{} is not an image", entry.media_type),
            });
        }
        let parts = document::parts(&self.content, entry).await?;
        let whole = parts.images.iter().any(|part| {
            let blobs = std::iter::once(&part.manifest.config).chain(&part.manifest.layers);
            blobs
                .into_iter()
                .all(|blob| self.content.info(&blob.digest).is_some())
        });
        match parts.missing.first() {
            Some(digest) if !whole || unpacked.blobs.is_empty() => Err(missing(*digest)),
            _ => Ok(()),
        }
    }

    /// A manifest for what Docker's form says.
    async fn manifest(
        &self,
        unpacked: &Unpacked,
        image: &DockerImage,
        lease: &Lease,
    ) -> Result<Descriptor> {
        let config = unpacked.find(&image.config)?;
        let config = Descriptor::new(media_type::OCI_CONFIG, config.digest, config.size);
        let mut manifest = Manifest::new(media_type::OCI_MANIFEST, config);
        for layer in image.layers.iter().flatten() {
            let layer = unpacked.find(layer)?;
            let kind = match layer.compression {
                Compression::Gzip => media_type::OCI_LAYER_GZIP,
                Compression::Zstd => media_type::OCI_LAYER_ZSTD,
                Compression::Uncompressed => media_type::OCI_LAYER,
            };
            manifest
                .layers
                .push(Descriptor::new(kind, layer.digest, layer.size));
        }
        let bytes = manifest.to_vec().map_err(|source| Error::Document {
            what: "a manifest".to_owned(),
            source,
        })?;
        let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
        lease.hold(descriptor.digest.to_string());
        self.content.put(bytes.into()).await?;
        Ok(descriptor)
    }
}

fn name_of(entry: &Descriptor) -> Option<Reference> {
    let full = entry.annotations.get(IMAGE_NAME);
    let name = full.or_else(|| entry.annotations.get(REF_NAME))?;
    // A bare tag is no name of an image.
    if full.is_none() && !name.contains(['/', ':']) {
        return None;
    }
    name.parse().ok()
}

/// Without what only the archive said.
fn bare(entry: Descriptor) -> Descriptor {
    Descriptor::new(entry.media_type, entry.digest, entry.size)
}

/// A path below the archive's root: `.` and `..` resolved.
fn below_root(path: &str) -> String {
    kiln_gotext::path::rooted(path).split_off(1)
}

impl Unpacked {
    fn find(&self, path: &str) -> Result<&Entry> {
        let path = below_root(path);
        let target = self.links.get(&path).unwrap_or(&path);
        self.blobs.get(target).ok_or_else(|| Error::Archive {
            reason: format!("it lacks {path}"),
        })
    }
}

fn unpack(
    content: &kiln_content::ContentStore,
    archive: impl Read,
    lease: &Lease,
) -> Result<Unpacked> {
    let failed = |error: std::io::Error| Error::Archive {
        reason: error.to_string(),
    };
    let input = Decompressor::new(archive).map_err(failed)?;
    let mut archive = tar::Archive::new(input);
    let mut unpacked = Unpacked::default();
    let mut any = false;
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        any = true;
        let path = below_root(&String::from_utf8_lossy(&entry.path_bytes()));
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            if let Some(target) = entry.link_name_bytes() {
                let target = String::from_utf8_lossy(&target).into_owned();
                let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                let from_root = kind.is_hard_link() || target.starts_with('/');
                let target = match from_root {
                    true => below_root(&target),
                    false => below_root(&format!("{directory}/{target}")),
                };
                unpacked.links.insert(path, target);
            }
            continue;
        }
        if !kind.is_file() {
            continue;
        }
        if DIRECTORY_FILES.contains(&path.as_str()) && entry.size() <= MAX_DOCUMENT {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(failed)?;
            unpacked.documents.insert(path, bytes);
            continue;
        }
        let mut writer = content.blocking_writer()?;
        let mut start = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            let read = entry.read(&mut piece).map_err(failed)?;
            if read == 0 {
                break;
            }
            if start.len() < 4 {
                start.extend(&piece[..read.min(4)]);
            }
            writer.append(&piece[..read])?;
        }
        // The name of a layout's blob is what it must hash to.
        let expected = path
            .strip_prefix("blobs/sha256/")
            .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
        let blob = writer.commit(expected, None)?;
        lease.hold(blob.digest.to_string());
        unpacked.blobs.insert(
            path,
            Entry {
                digest: blob.digest,
                size: blob.size,
                compression: Compression::detect(&start),
            },
        );
    }
    if !any {
        return Err(Error::Archive {
            reason: "it is empty, or isn't a tar".to_owned(),
        });
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (path, want) in [
            ("./a/b", "a/b"),
            ("../../a", "a"),
            ("a/../b", "b"),
            ("/a//b/", "a/b"),
        ] {
            assert_eq!(below_root(path), want);
        }
    }
}
