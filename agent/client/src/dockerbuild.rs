//! A build's record as a file: `.dockerbuild`, as `docker buildx history export` writes it and Docker Desktop reads it.
//!
//! ```text
//! gzip(tar): oci-layout, index.json ──► manifest ──► config: the record, in the JSON that Go makes of its protobuf
//!            blobs/sha256/…                    └──► layers: trace, log, attestations, results, the whole error
//! ```
//! A daemon's blobs come through its content API, so that any BuildKit's records can be written.
//!
//! Invariants: names before values: what looks like a secret in the trace or in cache options is masked; a result's own
//! layers aren't taken along, only its manifest.

mod wire;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use kiln_oci::Digest;
use kiln_proto::content as api;
use kiln_proto::content::content_client::ContentClient;
use kiln_proto::moby::buildkit::v1 as control;
use kiln_provenance::scrub;
use prost::Message as _;
use serde_json::{Value, json};

use crate::archive::Archive;
use crate::{Client, Error};

pub use wire::LocalState;

/// What the config of such a manifest is.
const RECORD_MEDIA_TYPE: &str = "application/vnd.buildkit.historyrecord.v0";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A record with a long log has some ten million bytes.
const MOST: usize = 256 << 20;
/// Keeps what a descriptor is, where it is said to be JSON so that nobody follows it.
const REAL_MEDIA_TYPE: &str = "vnd.export-build.descriptor.mediatype";

/// A record that somebody wrote to a file.
#[derive(Debug)]
pub struct Dockerbuild {
    /// As the daemon knew it.
    pub record: control::BuildHistoryRecord,
    /// What only the client knew.
    pub local: Option<LocalState>,
    blobs: BTreeMap<String, Bytes>,
}

/// Why a file is no record of a build.
#[derive(Debug, thiserror::Error)]
pub enum DockerbuildError {
    /// Not compressed as such a file is.
    #[error("it isn't a gzip file")]
    Gzip,
    /// It would fill the memory.
    #[error("it holds more than {MOST} bytes")]
    TooBig,
    /// The archive is broken.
    #[error("its archive is broken")]
    Tar(#[from] std::io::Error),
    /// A part isn't what it should be.
    #[error("{part} in it isn't JSON of the kind that it should be")]
    Json {
        /// Which one.
        part: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A part is missing.
    #[error("it has no {part}")]
    Missing {
        /// Which one.
        part: &'static str,
    },
    /// Bytes that aren't those of their name.
    #[error("its blob {digest} is damaged")]
    Damaged {
        /// The name.
        digest: String,
    },
}

/// Blobs by digest, and what the manifest says of them.
#[derive(Default)]
struct Parts {
    blobs: BTreeMap<String, Bytes>,
    layers: Vec<Value>,
    seen: BTreeSet<String>,
}

impl Client {
    /// The record of a build that has ended, as a `.dockerbuild`. `local` is what only the client knew of it.
    pub async fn export_record(
        &self,
        reference: &str,
        local: Option<LocalState>,
    ) -> Result<Vec<u8>, Error> {
        // What a daemon still holds back, such as the trace, is stored first.
        self.update_history(control::UpdateBuildHistoryRequest {
            r#ref: reference.into(),
            finalize: true,
            ..Default::default()
        })
        .await?;
        let mut record = self.record(reference).await?;
        if record.completed_at.is_none() {
            return Err(Error::StillRunning {
                reference: reference.into(),
            });
        }
        let workers = self.workers().await?;
        let platform = workers.first().and_then(|worker| worker.platforms.first());
        let platform = platform.map(wire::platform).unwrap_or_default();
        clean_options(&mut record);
        let mut parts = Parts::default();
        if let Some(trace) = &mut record.trace {
            let clean = clean_trace(&self.blob(&trace.digest).await?);
            *trace = parts.add(&trace.media_type, clean);
            parts.layer(trace, None);
        }
        for descriptor in record.logs.iter().chain(&record.external_error) {
            self.take(&mut parts, descriptor, None).await?;
        }
        for result in record.result.iter().chain(record.results.values()) {
            for attestation in &result.attestations {
                self.take(&mut parts, attestation, None).await?;
            }
            for descriptor in result.results.values() {
                self.take(&mut parts, descriptor, Some("application/json"))
                    .await?;
            }
        }
        let config = wire::record(&record, &platform, local.as_ref());
        archive(parts, &config)
            .map_err(|source| Error::io("write", "a .dockerbuild".as_ref(), source))
    }

    /// One record.
    async fn record(&self, reference: &str) -> Result<control::BuildHistoryRecord, Error> {
        let request = control::BuildHistoryRequest {
            r#ref: reference.into(),
            early_exit: true,
            ..Default::default()
        };
        let mut events = self.history(request).await?;
        let mut found = None;
        while let Some(event) = events.next().await {
            found = event?.record.or(found);
        }
        found.ok_or_else(|| Error::NoRecord {
            reference: reference.into(),
        })
    }

    /// The bytes of a blob of the daemon.
    async fn blob(&self, digest: &str) -> Result<Bytes, Error> {
        let mut content = ContentClient::new(self.channel())
            .max_decoding_message_size(kiln_filesync::grpc::MAX_MESSAGE);
        let request = api::ReadContentRequest {
            digest: digest.into(),
            ..Default::default()
        };
        let mut pieces = content.read(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?.data);
        }
        Ok(bytes.into())
    }

    async fn take(
        &self,
        parts: &mut Parts,
        descriptor: &control::Descriptor,
        said: Option<&str>,
    ) -> Result<(), Error> {
        if parts.seen.insert(descriptor.digest.clone()) {
            let bytes = self.blob(&descriptor.digest).await?;
            parts.blobs.insert(descriptor.digest.clone(), bytes);
            parts.layer(descriptor, said);
        }
        Ok(())
    }
}

impl Dockerbuild {
    /// Reads a file; of several records, the first.
    pub fn read(file: &[u8]) -> Result<Self, DockerbuildError> {
        let tar = unpacked(file)?;
        let mut index = None;
        let mut blobs = BTreeMap::new();
        for entry in tar::Archive::new(tar.as_slice()).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.display().to_string();
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut data)?;
            if path == "index.json" {
                index = Some(data);
            } else if let Some(hex) = path.strip_prefix("blobs/sha256/") {
                let digest = format!("sha256:{hex}");
                if Digest::of(&data).to_string() != digest {
                    return Err(DockerbuildError::Damaged { digest });
                }
                blobs.insert(digest, Bytes::from(data));
            }
        }
        let index = index.ok_or(DockerbuildError::Missing { part: "index" })?;
        let mut manifest = first(&index, &blobs)?;
        if manifest.get("config").is_none() {
            // Several records have an index of their own.
            manifest = first(manifest.to_string().as_bytes(), &blobs)?;
        }
        let config = &manifest["config"];
        if config["mediaType"] != RECORD_MEDIA_TYPE {
            return Err(DockerbuildError::Missing { part: "record" });
        }
        let json = blob_of(config, &blobs)?;
        let (record, local) = wire::read(json).map_err(|source| DockerbuildError::Json {
            part: "the record",
            source,
        })?;
        if record.r#ref.is_empty() {
            return Err(DockerbuildError::Missing { part: "reference" });
        }
        Ok(Self {
            record,
            local,
            blobs,
        })
    }

    /// A blob that the record names.
    pub fn blob(&self, digest: &str) -> Option<&Bytes> {
        self.blobs.get(digest)
    }

    /// The build's progress, as it was. A message that can't be read is the end of it.
    pub fn log(&self) -> Vec<control::StatusResponse> {
        let logs = self.record.logs.as_ref();
        let log = logs.and_then(|logs| self.blob(&logs.digest));
        let mut log = log.cloned().unwrap_or_default();
        let mut all = Vec::new();
        // Each message comes after its length.
        while let Some((length, _)) = log.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            log.advance(4);
            if log.len() < length {
                break;
            }
            match control::StatusResponse::decode(log.split_to(length)) {
                Ok(message) => all.push(message),
                Err(_) => break,
            }
        }
        all
    }
}

fn unpacked(file: &[u8]) -> Result<Vec<u8>, DockerbuildError> {
    // The last four bytes say how long the content is.
    let Some((_, length)) = file
        .split_last_chunk::<4>()
        .filter(|_| file.starts_with(b"\x1f\x8b"))
    else {
        return Err(DockerbuildError::Gzip);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MOST {
        return Err(DockerbuildError::TooBig);
    }
    let mut tar = vec![0; length];
    let size = libdeflater::Decompressor::new()
        .gzip_decompress(file, &mut tar)
        .map_err(|_| DockerbuildError::Gzip)?;
    tar.truncate(size);
    Ok(tar)
}

/// What the first entry of an index describes.
fn first(index: &[u8], blobs: &BTreeMap<String, Bytes>) -> Result<Value, DockerbuildError> {
    let json = |part, data: &[u8]| {
        serde_json::from_slice::<Value>(data)
            .map_err(|source| DockerbuildError::Json { part, source })
    };
    let index = json("the index", index)?;
    json("the manifest", blob_of(&index["manifests"][0], blobs)?)
}

fn blob_of<'a>(
    descriptor: &Value,
    blobs: &'a BTreeMap<String, Bytes>,
) -> Result<&'a Bytes, DockerbuildError> {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    blobs.get(digest).ok_or(DockerbuildError::Missing {
        part: "blob that it names",
    })
}

impl Parts {
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> control::Descriptor {
        let digest = Digest::of(&bytes).to_string();
        let size = bytes.len() as i64;
        self.blobs.insert(digest.clone(), bytes.into());
        control::Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            ..Default::default()
        }
    }

    fn layer(&mut self, descriptor: &control::Descriptor, said: Option<&str>) {
        let mut annotations: BTreeMap<&str, &str> = descriptor
            .annotations
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        if said.is_some() {
            annotations.insert(REAL_MEDIA_TYPE, &descriptor.media_type);
        }
        let media_type = said.unwrap_or(&descriptor.media_type);
        let mut layer =
            json!({"mediaType": media_type, "digest": descriptor.digest, "size": descriptor.size});
        if !annotations.is_empty() {
            layer["annotations"] = json!(annotations);
        }
        self.layers.push(layer);
    }
}

fn archive(mut parts: Parts, record: &Value) -> std::io::Result<Vec<u8>> {
    let described = |parts: &mut Parts, media_type: &str, value: &Value| {
        let text = serde_json::to_vec_pretty(value).map_err(std::io::Error::other)?;
        let descriptor = parts.add(media_type, text);
        Ok::<_, std::io::Error>(
            json!({"mediaType": media_type, "digest": descriptor.digest, "size": descriptor.size}),
        )
    };
    let config = described(&mut parts, RECORD_MEDIA_TYPE, record)?;
    let layers = std::mem::take(&mut parts.layers);
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let manifest = described(&mut parts, MANIFEST, &manifest)?;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
    let mut archive = Archive::default();
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;
    for (digest, bytes) in &parts.blobs {
        archive.file(&format!("blobs/{}", digest.replace(':', "/")), bytes)?;
    }
    archive.file("index.json", index.to_string().as_bytes())?;
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.finish()
}

/// Of caches, only where they are: their other options may be keys to a service.
fn clean_options(record: &mut control::BuildHistoryRecord) {
    let Some(imports) = record.frontend_attrs.get_mut("cache-imports") else {
        return;
    };
    let mut list: Vec<Value> = serde_json::from_str(imports).unwrap_or_default();
    for import in &mut list {
        if let Some(attributes) = import.get_mut("Attrs").and_then(Value::as_object_mut) {
            attributes.retain(|key, _| key == "scope" || key == "ref");
        }
    }
    *imports = match list.is_empty() {
        true => String::new(),
        false => Value::Array(list).to_string(),
    };
}

/// A trace is one span after another; each text in it is cleaned.
fn clean_trace(trace: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(trace.len());
    for span in serde_json::Deserializer::from_slice(trace).into_iter::<Value>() {
        // What is no span is no text that anybody could read either.
        let Ok(mut span) = span else { break };
        clean(&mut span);
        if let Ok(text) = serde_json::to_vec_pretty(&span) {
            out.extend_from_slice(&text);
            out.push(b'\n');
        }
    }
    out
}

fn clean(value: &mut Value) {
    match value {
        Value::String(text) => *text = scrub(text, &[]),
        Value::Array(list) => list.iter_mut().for_each(clean),
        Value::Object(fields) => fields.values_mut().for_each(clean),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_a_layout_of_one_manifest() {
        let mut parts = Parts::default();
        let result = parts.add("application/vnd.oci.image.manifest.v1+json", b"{}".to_vec());
        parts.layer(&result, Some("application/json"));
        let file = archive(parts, &json!({"Ref": "r1"})).unwrap();
        let read = Dockerbuild::read(&file).unwrap();
        assert_eq!(read.record.r#ref, "r1");
        assert_eq!(read.blob(&result.digest).unwrap().as_ref(), b"{}");
        let manifest = read
            .blobs
            .values()
            .find_map(|blob| {
                let json: Value = serde_json::from_slice(blob).ok()?;
                json.get("layers").cloned()
            })
            .unwrap();
        assert_eq!(manifest[0]["mediaType"], "application/json");
        assert_eq!(manifest[0]["annotations"][REAL_MEDIA_TYPE], MANIFEST);
    }

    #[test]
    fn a_file_that_is_no_record_says_why() {
        let file = |path: &str, data: &[u8]| {
            let mut archive = Archive::default();
            archive.file(path, data).unwrap();
            archive.finish().unwrap()
        };
        let mut bomb = file("x", b"");
        let end = bomb.len() - 4;
        bomb[end..].copy_from_slice(&u32::MAX.to_le_bytes());
        let digest = format!("blobs/sha256/{}", "0".repeat(64));
        for (file, says) in [
            (b"".to_vec(), "isn't a gzip file"),
            (b"PK\x03\x04 not at all".to_vec(), "gzip"),
            (bomb, "more than"),
            (file("x", b""), "has no index"),
            (file("index.json", b"{"), "the index"),
            (file("index.json", b"{}"), "no blob"),
            (file(&digest, b"x"), "is damaged"),
        ] {
            let error = Dockerbuild::read(&file).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn progress_is_read_up_to_where_it_is_whole() {
        let message = control::StatusResponse {
            vertexes: vec![control::Vertex {
                name: "RUN x".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut log = Vec::new();
        for _ in 0..2 {
            log.extend(u32::try_from(message.encoded_len()).unwrap().to_le_bytes());
            log.extend(message.encode_to_vec());
        }
        log.truncate(log.len() - 1);
        let mut parts = Parts::default();
        let logs = parts.add("application/vnd.buildkit.status.v0", log);
        let record = json!({"Ref": "r1", "logs": {"digest": logs.digest}});
        let read = Dockerbuild::read(&archive(parts, &record).unwrap()).unwrap();
        assert_eq!(read.log(), [message]);
    }

    #[test]
    fn keys_to_services_stay_here() {
        let trace = b"{\"Name\":\"a\",\"Attributes\":[{\"Value\":{\"Value\":\"type=gha,token=abcd1234\"}}]}\n{\"Name\":\"b\"}";
        let clean = String::from_utf8(clean_trace(trace)).unwrap();
        assert!(clean.contains("token=xxxxx") && !clean.contains("abcd1234"));
        assert!(clean.contains("\"b\""));
        let mut record = control::BuildHistoryRecord::default();
        record.frontend_attrs.insert(
            "cache-imports".into(),
            r#"[{"Type":"s3","Attrs":{"ref":"x","secret_access_key":"k"}}]"#.into(),
        );
        clean_options(&mut record);
        assert_eq!(
            record.frontend_attrs["cache-imports"],
            r#"[{"Type":"s3","Attrs":{"ref":"x"}}]"#
        );
    }
}
