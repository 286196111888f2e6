//! The `local` and `tar` outputs.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use kiln_client::{Attachments, Output};
use kiln_content::{ContentStore, ImageTable};
use kiln_exporter::{
    Attestation, ExportInput, ExportOutput, PLATFORMS, Predicate, Refs, Services, resolve,
};
use kiln_ids::SessionId;
use kiln_progress::VertexProgress;
use kiln_registry::{Anonymous, Registry};
use kiln_snapshot::tar::{Kind, Limits, TarReader};
use kiln_store::StateRoot;
use tempfile::{TempDir, tempdir};

use crate::peer::Peer;

/// A daemon with a state of its own.
pub(crate) struct Daemon {
    pub(crate) peer: Peer,
    pub(crate) services: Services,
    _root: StateRoot,
    _dir: TempDir,
}

pub(crate) async fn daemon() -> Daemon {
    let peer = Peer::start();
    let dir = tempdir().unwrap();
    let root = StateRoot::open(dir.path()).unwrap();
    let services = Services {
        sessions: peer.sessions.clone(),
        content: ContentStore::open(&root).unwrap(),
        images: ImageTable::new(&root),
        registry: Registry::new(BTreeMap::new(), None).unwrap(),
        credentials: Arc::new(|_: &[SessionId]| Arc::new(Anonymous)),
    };
    Daemon {
        peer,
        services,
        _root: root,
        _dir: dir,
    }
}

pub(crate) fn input(metadata: &[(&str, &str)]) -> ExportInput {
    ExportInput {
        refs: Refs::Single(None),
        metadata: metadata
            .iter()
            .map(|&(key, value)| (key.to_owned(), Bytes::copy_from_slice(value.as_bytes())))
            .collect(),
        attestations: BTreeMap::new(),
        session: SessionId::new(""),
        sessions: Vec::new(),
        progress: VertexProgress::silent(),
        inline_cache: None,
        compatibility: 0,
    }
}

pub(crate) fn provenance() -> Attestation {
    Attestation {
        bundle: false,
        metadata: [("reason".to_owned(), Bytes::from_static(b"provenance"))].into(),
        path: "provenance.json".into(),
        predicate: Predicate::Bytes(Bytes::from_static(br#"{"b":1,"a":"<x>"}"#)),
        predicate_type: "https://slsa.dev/provenance/v1".into(),
        subjects: Vec::new(),
    }
}

/// Runs one exporter with one output of the client.
pub(crate) async fn export(
    daemon: &Daemon,
    kind: &str,
    attributes: &[(&str, &str)],
    mut input: ExportInput,
    output: Output,
) -> Result<ExportOutput, kiln_exporter::Error> {
    let attached = daemon
        .peer
        .attach(Attachments {
            outputs: vec![output],
            ..Attachments::default()
        })
        .await;
    input.session = attached.id.clone();
    input.sessions = vec![attached.id.clone()];
    let attributes = attributes
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    resolve(kind, 0, attributes, &daemon.services)?
        .export(input)
        .await
}

const TWO: &str = r#"{"Platforms":[
    {"ID":"linux/amd64","Platform":{"architecture":"amd64","os":"linux"}},
    {"ID":"linux/arm64","Platform":{"architecture":"arm64","os":"linux"}}]}"#;

pub(crate) fn two_platforms() -> ExportInput {
    let mut input = input(&[(PLATFORMS, TWO)]);
    let ids = ["linux/amd64", "linux/arm64"];
    input.refs = Refs::Multi(ids.map(|id| (id.to_owned(), None)).into());
    input.attestations = ids.map(|id| (id.to_owned(), vec![provenance()])).into();
    input
}

fn files(root: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            names.extend(
                files(&path)
                    .into_iter()
                    .map(|below| format!("{name}/{below}")),
            );
        } else {
            names.push(name);
        }
    }
    names.sort();
    names
}

#[tokio::test]
async fn platforms_are_split_into_directories_or_told_apart_by_name() {
    let daemon = daemon().await;
    for (attributes, want) in [
        (
            &[][..],
            ["linux_amd64/provenance.json", "linux_arm64/provenance.json"],
        ),
        (
            &[("platform-split", "false")],
            ["provenance.linux_amd64.json", "provenance.linux_arm64.json"],
        ),
        (
            &[("platform-split", "false"), ("mode", "delete")],
            ["provenance.linux_amd64.json", "provenance.linux_arm64.json"],
        ),
        (
            &[("attestation-prefix", "x-")],
            [
                "linux_amd64/x-provenance.json",
                "linux_arm64/x-provenance.json",
            ],
        ),
    ] {
        let dir = tempdir().unwrap();
        let output = Output::Directory {
            path: dir.path().to_owned(),
            delete: attributes.iter().any(|pair| pair.1 == "delete"),
        };
        fs::write(dir.path().join("old"), "").unwrap();
        let deleted = matches!(&output, Output::Directory { delete: true, .. });
        export(&daemon, "local", attributes, two_platforms(), output)
            .await
            .unwrap();
        let mut got = files(dir.path());
        got.retain(|name| deleted || name != "old");
        assert_eq!(got, want, "{attributes:?}");
    }
}

#[tokio::test]
async fn statements_are_written_as_go_does() {
    let daemon = daemon().await;
    let dir = tempdir().unwrap();
    let mut one = input(&[("source.date.epoch", "7")]);
    let id = one.platforms().unwrap()[0].id.clone();
    one.attestations.insert(id, vec![provenance()]);
    let output = Output::Directory {
        path: dir.path().to_owned(),
        delete: false,
    };
    export(&daemon, "local", &[], one, output).await.unwrap();
    let path = dir.path().join("provenance.json");
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "{\n  \"_type\": \"https://in-toto.io/Statement/v1\",\n  \"predicateType\": \
         \"https://slsa.dev/provenance/v1\",\n  \"subject\": [],\n  \"predicate\": {\n    \
         \"b\": 1,\n    \"a\": \"\\u003cx\\u003e\"\n  }\n}"
    );
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(
        modified,
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(7)
    );
}

#[tokio::test]
async fn a_tar_holds_the_same_files_in_walk_order() {
    let daemon = daemon().await;
    let dir = tempdir().unwrap();
    let path = dir.path().join("out.tar");
    let attributes = [("source-date-epoch", "9")];
    let output = Output::File(path.clone());
    export(&daemon, "tar", &attributes, two_platforms(), output)
        .await
        .unwrap();
    let mut reader = TarReader::new(fs::File::open(&path).unwrap(), Limits::default());
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let name = String::from_utf8(entry.name).unwrap();
        entries.push((name, entry.kind, entry.mode, entry.mtime.seconds));
    }
    let want = |dir: &str| {
        [
            (format!("{dir}/"), Kind::Directory, 0o755, 9),
            (format!("{dir}/provenance.json"), Kind::Regular, 0o600, 9),
        ]
    };
    assert_eq!(entries, [want("linux_amd64"), want("linux_arm64")].concat());
}

#[tokio::test]
async fn a_client_without_the_output_is_told() {
    let daemon = daemon().await;
    for kind in ["local", "tar"] {
        let error = export(&daemon, kind, &[], two_platforms(), Output::None)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("not found"), "{kind}: {error}");
    }
    let error = export(&daemon, "floppy", &[], input(&[]), Output::None)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "exporter \"floppy\" could not be found");
}
