//! The `oci` and `docker` outputs: an image as an OCI layout, in one tar or in the client's own store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use kiln_content::ContentStore;
use kiln_oci::{Descriptor, Index, Reference, Timestamp, go_json, media_type};
use kiln_session::{Caller, Taken};
use kiln_snapshot::tar::{Header, Kind, TarWriter};
use serde::Serialize;
use tokio_util::io::ReaderStream;

use super::config::json;
use super::options::ImageOptions;
use super::output::{parse, respond};
use super::push::fetch_missing;
use super::writer::{Writer, Written};
use crate::attrs::{Attributes, boolean};
use crate::progress::Step;
use crate::tar::{Sink, stream};
use crate::{Error, ExportInput, ExportOutput, Exporter, Services};

const CREATED: &str = "org.opencontainers.image.created";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";

/// Whose tools are to read the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Those that know the OCI layout.
    Oci,
    /// `docker load` too: with a `manifest.json`.
    Docker,
}

/// Sends archives.
pub(crate) struct ArchiveExporter {
    services: Services,
    output: usize,
    variant: Variant,
    options: ImageOptions,
    tar: bool,
}

/// One file of an archive.
enum Record {
    Bytes(Bytes),
    Blob { path: PathBuf, size: u64 },
}

#[derive(Serialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: &'static str,
}

/// An entry of `manifest.json`.
#[derive(Serialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Option<Vec<String>>,
}

impl ArchiveExporter {
    pub(crate) fn new(
        services: Services,
        output: usize,
        variant: Variant,
        mut attributes: Attributes,
    ) -> Result<Self, Error> {
        let options = ImageOptions::take(&mut attributes, false)?;
        let tar = match attributes.get("tar") {
            None => true,
            Some(value) => boolean("tar", value, true)?,
        };
        Ok(Self {
            services,
            output,
            variant,
            options,
            tar,
        })
    }

    /// All files of the archive by name, which is the order they are written in.
    fn records(
        &self,
        written: &Written,
        top: &Descriptor,
        names: &[Reference],
    ) -> Result<BTreeMap<String, Record>, Error> {
        let mut records = BTreeMap::new();
        let layers = written.layers.values().map(|layer| &layer.descriptor);
        for blob in written.documents.iter().chain(layers) {
            let record = Record::Blob {
                path: self.services.content.path(&blob.digest),
                size: blob.size,
            };
            records.insert(blob_path(blob), record);
        }
        let mut put = |name: &str, bytes: serde_json::Result<Vec<u8>>| {
            let bytes = bytes.map_err(json("the layout"))?;
            records.insert(name.to_owned(), Record::Bytes(bytes.into()));
            Ok::<_, Error>(())
        };
        put("oci-layout", go_json::to_vec(&Layout { version: "1.0.0" }))?;
        let manifests = if names.is_empty() {
            vec![top.clone()]
        } else {
            names.iter().map(|name| named(top, name)).collect()
        };
        let index = Index::new(media_type::OCI_INDEX, manifests);
        put("index.json", go_json::to_vec(&index))?;
        if self.variant == Variant::Docker
            && let Some(manifest) = &written.single
        {
            let tags = names.iter().map(Reference::familiar).collect::<Vec<_>>();
            let layers = manifest.layers.iter().map(blob_path).collect::<Vec<_>>();
            let image = DockerImage {
                config: blob_path(&manifest.config),
                tags: (!tags.is_empty()).then_some(tags),
                layers: (!layers.is_empty()).then_some(layers),
            };
            put("manifest.json", go_json::to_vec(&[image]))?;
        }
        Ok(records)
    }

    /// Writes every blob into the client's store, what others refer to first.
    async fn copy(&self, caller: &Caller, written: &Written) -> Result<(), Error> {
        let store = caller.content("export");
        let layers = written.layers.values().map(|layer| &layer.descriptor);
        for blob in layers.chain(&written.documents) {
            let path = self.services.content.path(&blob.digest);
            let file = tokio::fs::File::open(&path)
                .await
                .map_err(|source| Error::Io {
                    action: "read",
                    what: blob.digest.to_string(),
                    source,
                })?;
            let data = ReaderStream::with_capacity(file, 512 << 10);
            store
                .write(&blob.digest.to_string(), blob.size, data)
                .await?;
        }
        Ok(())
    }
}

fn blob_path(blob: &Descriptor) -> String {
    format!("blobs/sha256/{}", blob.digest.hex())
}

/// The descriptor under one name.
fn named(top: &Descriptor, name: &Reference) -> Descriptor {
    let full = name.to_string();
    let short = match name.tag() {
        Some(tag) if name.digest().is_none() => tag.to_owned(),
        _ => full.clone(),
    };
    top.clone()
        .annotated(IMAGE_NAME, full)
        .annotated(REF_NAME, short)
}

fn write(records: BTreeMap<String, Record>, out: &mut Sink) -> Result<(), Error> {
    let mut writer = TarWriter::new(out);
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Io {
            action: "write to the archive",
            what,
            source,
        }
    };
    for dir in ["blobs/", "blobs/sha256/"] {
        let mut header = Header::new(dir, Kind::Directory);
        header.mode = 0o755;
        writer.header(&header).map_err(failed(dir))?;
    }
    for (name, record) in records {
        let mut header = Header::new(name.as_str(), Kind::Regular);
        let is_fixed = name.starts_with("blobs/") || name == "oci-layout";
        header.mode = if is_fixed { 0o444 } else { 0o644 };
        let result = match record {
            Record::Bytes(bytes) => {
                header.size = bytes.len() as u64;
                writer.entry(&header, &mut Cursor::new(bytes))
            }
            Record::Blob { path, size } => {
                header.size = size;
                File::open(&path).and_then(|mut file| writer.entry(&header, &mut file))
            }
        };
        result.map_err(failed(&name))?;
    }
    writer.finish().map(drop).map_err(failed("its end"))
}

/// The time that a layout says it was made at.
fn created(epoch: Option<Timestamp>) -> String {
    let time = epoch.unwrap_or_else(Timestamp::now);
    Timestamp::from_unix(time.unix_seconds())
        .unwrap_or(time)
        .to_string()
}

#[async_trait]
impl Exporter for ArchiveExporter {
    fn name(&self) -> String {
        match self.variant {
            Variant::Oci => "exporting to oci image format".to_owned(),
            Variant::Docker => "exporting to docker image format".to_owned(),
        }
    }

    async fn export(&self, input: ExportInput) -> Result<ExportOutput, Error> {
        if self.variant == Variant::Docker && input.is_multi() {
            return Err(Error::Conflict(
                "docker exporter does not currently support exporting manifest lists".into(),
            ));
        }
        let resolved = self.options.resolve(&input, self.variant == Variant::Oci)?;
        let content: &ContentStore = &self.services.content;
        let mut written = Writer::new(content, &self.options, &resolved, &input)
            .write()
            .await?;
        let epoch = self.options.epoch.resolve(&input, None)?;
        written
            .descriptor
            .annotations
            .entry(CREATED.to_owned())
            .or_insert_with(|| created(epoch));
        let mut output = respond(&written)?;
        let mut names = Vec::new();
        for name in resolved.name.split(',').filter(|name| !name.is_empty()) {
            names.push(parse(name)?);
        }
        if !names.is_empty() {
            let all: Vec<String> = names.iter().map(Reference::to_string).collect();
            output.response.insert("image.name".into(), all.join(","));
        }
        let caller = self.services.sessions.get(&input.session).await?;
        fetch_missing(content, &written, &input).await?;
        if !self.tar {
            self.copy(&caller, &written).await?;
            return Ok(output);
        }
        let records = self.records(&written, &written.descriptor, &names)?;
        let writer = caller.send_file(self.output, &output.response)?;
        let _step = Step::begin(&input.progress, "sending tarball");
        match stream(writer, move |sink| write(records, sink)).await? {
            Taken::Whole | Taken::AlreadyThere => Ok(output),
        }
    }
}
