//! Images as one archive: an OCI layout, with the `manifest.json` that `docker load` reads.
//!
//! | format | index.json | manifest.json |
//! |---|---|---|
//! | docker | what each name points to, as far as it is here | one entry per name, for one platform |
//! | oci | the same | – |

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Write};

use kiln_oci::{Descriptor, Digest, Index, Reference, go_json, media_type};
use kiln_snapshot::tar::{Header, Kind, TarWriter};
use serde::Serialize;

use crate::document::{self, Part, Parts, subject};
use crate::{Error, Images, Result, platform};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";

/// Whose tools are to read the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// `docker load`, and those that know OCI layouts.
    #[default]
    Docker,
    /// Those that know OCI layouts.
    Oci,
}

/// What to save.
#[derive(Debug, Clone, Default)]
pub struct SaveOptions {
    /// The images.
    pub names: Vec<String>,
    /// The form.
    pub format: ArchiveFormat,
    /// Platforms; empty: all that are here.
    pub platforms: Vec<String>,
}

/// An entry of `manifest.json`.
#[derive(Serialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Vec<String>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// An archive that is ready to be written. It holds what it needs of the store.
#[derive(Debug)]
pub struct Archive {
    images: Images,
    files: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<Digest, u64>,
    lease: kiln_store::Lease,
}

impl Images {
    /// Looks up what is to be saved; [`Archive::write`] writes it.
    pub async fn save(&self, options: &SaveOptions) -> Result<Archive> {
        let mut archive = Archive {
            images: self.clone(),
            files: BTreeMap::new(),
            blobs: BTreeMap::new(),
            lease: self.content.leases().lease(),
        };
        let (mut entries, mut docker) = (Vec::new(), Vec::<DockerImage>::new());
        for text in &options.names {
            let image = self.find(text).await?;
            let parts = document::parts(&self.content, &image.target).await?;
            let chosen = self.choose(text, &parts, options).await?;
            let top = top(&image.target, &parts, &chosen, &mut archive)?;
            for part in &chosen {
                archive.take(&part.descriptor);
                archive.take(&part.manifest.config);
                part.manifest
                    .layers
                    .iter()
                    .for_each(|layer| archive.take(layer));
            }
            let by_name = text
                .parse::<Reference>()
                .is_ok_and(|name| name.canonical().to_string() == image.name);
            let name = by_name
                .then(|| image.name.parse::<Reference>().ok())
                .flatten();
            entries.push(match &name {
                Some(name) => named(top, name),
                None => top,
            });
            // One platform, since Docker's form knows none.
            if let Some(part) = self.select(&only(&chosen), None).await {
                let config = blob_path(&part.manifest.config.digest);
                let tag = name.map(|name| name.familiar());
                match docker.iter_mut().find(|known| known.config == config) {
                    Some(known) => known.tags.extend(tag),
                    None => docker.push(DockerImage {
                        config,
                        tags: tag.into_iter().collect(),
                        layers: part
                            .manifest
                            .layers
                            .iter()
                            .map(|layer| blob_path(&layer.digest))
                            .collect(),
                    }),
                }
            }
        }
        let index = Index::new(media_type::OCI_INDEX, entries);
        archive.put("index.json", &index)?;
        let layout = BTreeMap::from([("imageLayoutVersion", "1.0.0")]);
        archive.put("oci-layout", &layout)?;
        if options.format == ArchiveFormat::Docker {
            archive.put("manifest.json", &docker)?;
        }
        Ok(archive)
    }

    /// The images for the platforms, with what is stated about them.
    async fn choose(&self, name: &str, parts: &Parts, options: &SaveOptions) -> Result<Vec<Part>> {
        let mut chosen: Vec<Part> = Vec::new();
        for text in &options.platforms {
            let wanted = platform(text)?;
            let part = self.select(parts, Some(&wanted)).await;
            let part = part.ok_or_else(|| Error::NoPlatform {
                name: name.to_owned(),
                platform: wanted.to_string(),
            })?;
            chosen.push(part.clone());
        }
        if options.platforms.is_empty() {
            chosen.extend(
                parts
                    .images
                    .iter()
                    .filter(|part| is_whole(part, parts))
                    .cloned(),
            );
        }
        if let Some(part) = chosen.iter().find(|part| !is_whole(part, parts)) {
            return Err(Error::Incomplete {
                name: name.to_owned(),
                digest: part.descriptor.digest,
            });
        }
        if chosen.is_empty() {
            return Err(Error::NoPlatform {
                name: name.to_owned(),
                platform: "any platform".to_owned(),
            });
        }
        let about: Vec<Digest> = chosen.iter().map(|part| part.descriptor.digest).collect();
        let statements = parts.attestations.iter().filter(|part| {
            is_whole(part, parts)
                && subject(&part.descriptor).is_some_and(|digest| about.contains(&digest))
        });
        chosen.extend(statements.cloned());
        Ok(chosen)
    }
}

/// What stands for the image: its own top if all of it is saved, else one for what is.
fn top(
    target: &Descriptor,
    parts: &Parts,
    chosen: &[Part],
    archive: &mut Archive,
) -> Result<Descriptor> {
    let all = parts.images.len() + parts.attestations.len();
    if parts.missing.is_empty() && chosen.len() == all {
        for document in &parts.documents {
            archive.take(document);
        }
        return Ok(target.clone());
    }
    if let [only] = chosen {
        let mut top = only.descriptor.clone();
        top.platform = None;
        return Ok(top);
    }
    let entries = chosen.iter().map(|part| part.descriptor.clone()).collect();
    let index = Index::new(media_type::OCI_INDEX, entries);
    let bytes = index.to_vec().map_err(document_error("an index"))?;
    let top = Descriptor::of(media_type::OCI_INDEX, &bytes);
    archive.files.insert(blob_path(&top.digest), bytes);
    Ok(top)
}

/// The images among parts.
fn only(chosen: &[Part]) -> Parts {
    Parts {
        images: chosen
            .iter()
            .filter(|part| !document::is_attestation(&part.descriptor))
            .cloned()
            .collect(),
        ..Parts::default()
    }
}

fn is_whole(part: &Part, parts: &Parts) -> bool {
    let blobs = std::iter::once(&part.manifest.config).chain(&part.manifest.layers);
    blobs
        .into_iter()
        .all(|blob| !parts.missing.contains(&blob.digest))
}

fn document_error(what: &str) -> impl FnOnce(serde_json::Error) -> Error {
    let what = what.to_owned();
    move |source| Error::Document { what, source }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn named(top: Descriptor, name: &Reference) -> Descriptor {
    let full = name.to_string();
    let short = name.tag().map_or_else(|| full.clone(), str::to_owned);
    top.annotated(IMAGE_NAME, full).annotated(REF_NAME, short)
}

impl Archive {
    fn take(&mut self, blob: &Descriptor) {
        self.lease.hold(blob.digest.to_string());
        self.blobs.insert(blob.digest, blob.size);
    }

    fn put<T: Serialize>(&mut self, name: &str, value: &T) -> Result<()> {
        let bytes = go_json::to_vec(value).map_err(document_error(name))?;
        self.files.insert(name.to_owned(), bytes);
        Ok(())
    }

    /// Writes it on this thread.
    pub fn write(self, out: impl Write) -> Result<()> {
        let failed = |source| Error::Io {
            action: "write the archive",
            source,
        };
        let mut writer = TarWriter::new(out);
        for directory in ["blobs/", "blobs/sha256/"] {
            let mut header = Header::new(directory, Kind::Directory);
            header.mode = 0o755;
            writer.header(&header).map_err(failed)?;
        }
        for (digest, size) in &self.blobs {
            let mut header = Header::new(blob_path(digest), Kind::Regular);
            header.mode = 0o444;
            header.size = *size;
            let mut file: File = self.images.content.open_blob(digest)?;
            writer.entry(&header, &mut file).map_err(failed)?;
        }
        for (name, bytes) in &self.files {
            let mut header = Header::new(name.as_str(), Kind::Regular);
            header.mode = 0o644;
            header.size = bytes.len() as u64;
            writer
                .entry(&header, &mut Cursor::new(bytes))
                .map_err(failed)?;
        }
        writer.finish().map(drop).map_err(failed)
    }
}
