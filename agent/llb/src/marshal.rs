//! Writes ops as bytes, always the same bytes for the same op, and the ones that BuildKit's own clients write.
//!
//! Vertices are named by the hash of these bytes and caches are shared by those names, so the
//! encoding is part of the interface. It follows Go's deterministic protobuf: fields by number,
//! members of a oneof *after* all plain fields, map entries sorted by key and written whole (an empty
//! key or value is not left out). `prost` writes oneofs in place and drops empty map values, hence
//! the hand-written messages below; every message without maps and oneofs goes through `prost`.

use bytes::BufMut;
use kiln_proto::pb;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, message, string};

/// The bytes of an op.
pub fn op_bytes(op: &pb::Op) -> Vec<u8> {
    let mut buf = Vec::with_capacity(256);
    message::encode_repeated(1, &op.inputs, &mut buf);
    if let Some(platform) = &op.platform {
        message::encode(10, platform, &mut buf);
    }
    if let Some(constraints) = &op.constraints {
        message::encode(11, constraints, &mut buf);
    }
    match &op.op {
        Some(pb::op::Op::Source(source)) => nested(3, &source_bytes(source), &mut buf),
        Some(pb::op::Op::Build(build)) => nested(5, &build_bytes(build), &mut buf),
        Some(other) => other.encode(&mut buf),
        None => {}
    }
    buf
}

/// The bytes of a definition.
pub fn definition_bytes(definition: &pb::Definition) -> Vec<u8> {
    let mut buf = Vec::new();
    for op in &definition.def {
        nested(1, op, &mut buf);
    }
    for (digest, metadata) in &definition.metadata {
        entry(2, digest, &metadata_bytes(metadata), &mut buf);
    }
    if let Some(source) = &definition.source {
        nested(3, &source_map_bytes(source), &mut buf);
    }
    buf
}

fn source_bytes(source: &pb::SourceOp) -> Vec<u8> {
    let mut buf = Vec::new();
    if !source.identifier.is_empty() {
        string::encode(1, &source.identifier, &mut buf);
    }
    for (key, value) in &source.attrs {
        entry(2, key, value.as_bytes(), &mut buf);
    }
    buf
}

fn build_bytes(build: &pb::BuildOp) -> Vec<u8> {
    let mut buf = Vec::new();
    if build.builder != 0 {
        prost::encoding::int64::encode(1, &build.builder, &mut buf);
    }
    for (key, input) in &build.inputs {
        entry(2, key, &input.encode_to_vec(), &mut buf);
    }
    if let Some(definition) = &build.def {
        nested(3, &definition_bytes(definition), &mut buf);
    }
    for (key, value) in &build.attrs {
        entry(4, key, value.as_bytes(), &mut buf);
    }
    buf
}

fn metadata_bytes(metadata: &pb::OpMetadata) -> Vec<u8> {
    let mut buf = Vec::new();
    if metadata.ignore_cache {
        prost::encoding::bool::encode(1, &true, &mut buf);
    }
    for (key, value) in &metadata.description {
        entry(2, key, value.as_bytes(), &mut buf);
    }
    if let Some(export) = &metadata.export_cache {
        message::encode(4, export, &mut buf);
    }
    for (cap, wanted) in &metadata.caps {
        let mut inner = Vec::new();
        string::encode(1, cap, &mut inner);
        prost::encoding::bool::encode(2, wanted, &mut inner);
        nested(5, &inner, &mut buf);
    }
    if let Some(group) = &metadata.progress_group {
        message::encode(6, group, &mut buf);
    }
    buf
}

fn source_map_bytes(source: &pb::Source) -> Vec<u8> {
    let mut buf = Vec::new();
    for (digest, locations) in &source.locations {
        entry(1, digest, &locations.encode_to_vec(), &mut buf);
    }
    for info in &source.infos {
        let mut inner = Vec::new();
        if !info.filename.is_empty() {
            string::encode(1, &info.filename, &mut inner);
        }
        if !info.data.is_empty() {
            nested(2, &info.data, &mut inner);
        }
        if let Some(definition) = &info.definition {
            nested(3, &definition_bytes(definition), &mut inner);
        }
        if !info.language.is_empty() {
            string::encode(4, &info.language, &mut inner);
        }
        nested(2, &inner, &mut buf);
    }
    buf
}

/// A length-delimited field, present even when it is empty.
fn nested(tag: u32, bytes: &[u8], buf: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, buf);
    encode_varint(bytes.len() as u64, buf);
    buf.put_slice(bytes);
}

fn entry(tag: u32, key: &str, value: &[u8], buf: &mut Vec<u8>) {
    let mut inner = Vec::with_capacity(key.len() + value.len() + 12);
    nested(1, key.as_bytes(), &mut inner);
    nested(2, value, &mut inner);
    nested(tag, &inner, buf);
}

#[cfg(test)]
mod tests {
    use kiln_oci::Digest;

    use super::*;

    fn source(identifier: &str, attrs: &[(&str, &str)], platform: bool) -> pb::Op {
        pb::Op {
            inputs: Vec::new(),
            platform: platform.then(|| pb::Platform {
                architecture: "amd64".into(),
                os: "linux".into(),
                ..Default::default()
            }),
            constraints: Some(pb::WorkerConstraints::default()),
            op: Some(pb::op::Op::Source(pb::SourceOp {
                identifier: identifier.into(),
                attrs: attrs
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
            })),
        }
    }

    /// Recorded from a BuildKit daemon.
    #[test]
    fn digest_of_an_image_source() {
        let op = source(
            "docker-image://127.0.0.1:5000/busybox:latest@sha256:b1d96093b72dd92208432bf3b33bfbb92a40c8cdcc9ddbcb72323ea1e226c36e",
            &[],
            true,
        );
        assert_eq!(
            Digest::of(op_bytes(&op)).to_string(),
            "sha256:4c48b3f54ebe496b83c5c5bd2acab9320a6a59e5338f0f8f5ea10018e16006ce"
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let op = source("git://x", &[("empty", ""), ("b", "2"), ("", "z")], false);
        assert_eq!(pb::Op::decode(op_bytes(&op).as_slice()).unwrap(), op);
        let definition = pb::Definition {
            def: vec![op_bytes(&op), Vec::new()],
            metadata: [(
                "d".to_owned(),
                pb::OpMetadata {
                    ignore_cache: true,
                    description: [("k".to_owned(), String::new())].into(),
                    export_cache: Some(pb::ExportCache { value: false }),
                    caps: [("c".to_owned(), false), ("e".to_owned(), true)].into(),
                    progress_group: Some(pb::ProgressGroup::default()),
                },
            )]
            .into(),
            source: Some(pb::Source {
                locations: [("d".to_owned(), pb::Locations::default())].into(),
                infos: vec![pb::SourceInfo {
                    filename: "f".into(),
                    data: b"x".to_vec(),
                    definition: Some(pb::Definition::default()),
                    language: String::new(),
                }],
            }),
        };
        let bytes = definition_bytes(&definition);
        assert_eq!(
            pb::Definition::decode(bytes.as_slice()).unwrap(),
            definition
        );
        let build = pb::Op {
            op: Some(pb::op::Op::Build(pb::BuildOp {
                builder: -1,
                inputs: [("a".to_owned(), pb::BuildInput { input: 0 })].into(),
                def: Some(definition),
                attrs: [("k".to_owned(), String::new())].into(),
            })),
            ..Default::default()
        };
        assert_eq!(pb::Op::decode(op_bytes(&build).as_slice()).unwrap(), build);
    }

    #[test]
    fn empty_map_values_are_written() {
        let with = op_bytes(&source("x", &[("k", "")], false));
        assert!(with.ends_with(&[0x0a, 1, b'k', 0x12, 0]));
    }
}
