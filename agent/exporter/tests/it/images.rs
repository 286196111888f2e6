//! The image outputs: documents in the content store, archives, names.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;

use base64::Engine as _;
use kiln_client::Output;
use kiln_oci::{Descriptor, Digest, ImageConfig, Index, Manifest, media_type};
use kiln_snapshot::tar::{Limits, TarReader};
use tempfile::tempdir;

use crate::outputs::{Daemon, daemon, export, input, provenance, two_platforms};

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["x"]},
    "history":[{"created_by":"ENV a=b","empty_layer":true}]}"#;

async fn blob<T: serde::de::DeserializeOwned>(daemon: &Daemon, digest: &Digest) -> T {
    let bytes = daemon.services.content.read(digest).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn a_single_image_is_a_manifest_and_gets_its_names() {
    let daemon = daemon().await;
    let attributes = [
        ("name", "app,registry.example.com/app:v1"),
        ("name-canonical", "true"),
        ("annotation.org.key", "value"),
    ];
    let result = input(&[
        ("containerimage.config", CONFIG),
        ("source.date.epoch", "3"),
    ]);
    let output = export(&daemon, "image", &attributes, result, Output::None)
        .await
        .unwrap();
    let descriptor = output.descriptor.unwrap();
    assert_eq!(descriptor.media_type, media_type::OCI_MANIFEST);
    let manifest: Manifest = blob(&daemon, &descriptor.digest).await;
    assert_eq!(manifest.annotations["org.key"], "value");
    assert!(manifest.layers.is_empty());
    let config: ImageConfig = blob(&daemon, &manifest.config.digest).await;
    assert_eq!(config.config.cmd, ["x"]);
    assert_eq!(config.history[0].created.unwrap().unix_seconds(), 3);

    let response = output.response;
    assert_eq!(
        response["containerimage.digest"],
        descriptor.digest.to_string()
    );
    assert_eq!(
        response["containerimage.config.digest"],
        manifest.config.digest.to_string()
    );
    assert_eq!(response["image.name"], "app,registry.example.com/app:v1");
    let encoded = &response["containerimage.descriptor"];
    let json = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .unwrap();
    let told: Descriptor = serde_json::from_slice(&json).unwrap();
    assert_eq!(told, descriptor);
    assert_eq!(told.platform.unwrap().architecture, "amd64");

    let names: Vec<String> = daemon
        .services
        .images
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|image| image.name)
        .collect();
    let digest = descriptor.digest;
    assert_eq!(
        names,
        [
            "docker.io/library/app:latest".to_owned(),
            format!("docker.io/library/app@{digest}"),
            "registry.example.com/app:v1".to_owned(),
            format!("registry.example.com/app@{digest}"),
        ]
    );
}

#[tokio::test]
async fn the_same_result_gives_the_same_bytes() {
    let mut digests = Vec::new();
    for _ in 0..2 {
        let daemon = daemon().await;
        let mut result = two_platforms();
        result
            .metadata
            .insert("source.date.epoch".into(), "3".into());
        let output = export(&daemon, "image", &[("name", "x")], result, Output::None)
            .await
            .unwrap();
        digests.push(output.descriptor.unwrap().digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn attestations_follow_their_images_in_an_index() {
    let daemon = daemon().await;
    for (attributes, artifact) in [
        (&[("name", "app:1")][..], true),
        (&[("name", "app:1"), ("oci-artifact", "false")], false),
    ] {
        let output = export(&daemon, "image", attributes, two_platforms(), Output::None)
            .await
            .unwrap();
        let index: Index = blob(&daemon, &output.descriptor.unwrap().digest).await;
        let platforms: Vec<String> = index
            .manifests
            .iter()
            .map(|entry| entry.platform.as_ref().unwrap().to_string())
            .collect();
        assert_eq!(
            platforms,
            [
                "linux/amd64",
                "linux/arm64",
                "unknown/unknown",
                "unknown/unknown"
            ]
        );
        let about = &index.manifests[2];
        assert_eq!(
            about.annotations["vnd.docker.reference.type"],
            "attestation-manifest"
        );
        assert_eq!(
            about.annotations["vnd.docker.reference.digest"],
            index.manifests[0].digest.to_string()
        );
        let manifest: Manifest = blob(&daemon, &about.digest).await;
        assert_eq!(manifest.subject.is_some(), artifact);
        assert_eq!(
            manifest.config.media_type == media_type::OCI_EMPTY,
            artifact
        );
        assert_eq!(manifest.layers[0].media_type, media_type::IN_TOTO);
        let statement: serde_json::Value = blob(&daemon, &manifest.layers[0].digest).await;
        assert_eq!(
            statement["subject"][0]["name"],
            "pkg:docker/app@1?platform=linux%2Famd64"
        );
        assert_eq!(
            statement["subject"][0]["digest"]["sha256"],
            index.manifests[0].digest.hex()
        );
    }
}

#[tokio::test]
async fn inline_attestations_only_go_into_images() {
    let daemon = daemon().await;
    let attested = || {
        let mut one = input(&[("containerimage.config", CONFIG)]);
        let mut attestation = provenance();
        attestation
            .metadata
            .insert("inline-only".into(), "true".into());
        one.attestations
            .insert("linux/amd64".into(), vec![attestation]);
        one
    };
    let output = export(&daemon, "image", &[], attested(), Output::None)
        .await
        .unwrap();
    let descriptor = output.descriptor.unwrap();
    assert_eq!(descriptor.media_type, media_type::OCI_INDEX);
    let dir = tempdir().unwrap();
    let file = Output::File(dir.path().join("x"));
    let output = export(&daemon, "docker", &[], attested(), file)
        .await
        .unwrap();
    let descriptor = output.descriptor.unwrap();
    assert_eq!(descriptor.media_type, media_type::OCI_MANIFEST);
}

fn read_archive(path: &std::path::Path) -> BTreeMap<String, Vec<u8>> {
    let mut reader = TarReader::new(fs::File::open(path).unwrap(), Limits::default());
    let mut files = BTreeMap::new();
    let mut order = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let name = String::from_utf8(entry.name).unwrap();
        let mut data = Vec::new();
        reader.read_to_end(&mut data).unwrap();
        order.push(name.clone());
        files.insert(name, data);
    }
    let mut sorted = order.clone();
    sorted.sort();
    assert_eq!(order, sorted, "an archive is in the order of its names");
    files
}

#[tokio::test]
async fn archives_are_layouts_that_docker_can_load() {
    let daemon = daemon().await;
    let dir = tempdir().unwrap();
    for (kind, docker) in [("docker", true), ("oci", false)] {
        let path = dir.path().join(kind);
        let result = input(&[
            ("containerimage.config", CONFIG),
            ("source.date.epoch", "3"),
        ]);
        let attributes = [("name", "app,other:v2")];
        let output = export(
            &daemon,
            kind,
            &attributes,
            result,
            Output::File(path.clone()),
        )
        .await
        .unwrap();
        let names = "docker.io/library/app:latest,docker.io/library/other:v2";
        assert_eq!(output.response["image.name"], names);
        let files = read_archive(&path);
        assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
        let index: Index = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index.manifests.len(), 2);
        let first = &index.manifests[0];
        assert_eq!(first.digest, output.descriptor.unwrap().digest);
        assert_eq!(
            first.annotations,
            [
                ("io.containerd.image.name", "docker.io/library/app:latest"),
                ("org.opencontainers.image.created", "1970-01-01T00:00:03Z"),
                ("org.opencontainers.image.ref.name", "latest"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
        );
        for name in files
            .keys()
            .filter(|name| name.starts_with("blobs/sha256/"))
        {
            if let Some(hex) = name
                .strip_prefix("blobs/sha256/")
                .filter(|hex| !hex.is_empty())
            {
                assert_eq!(Digest::of(&files[name]).hex(), hex);
            }
        }
        let manifest = &files[&format!("blobs/sha256/{}", first.digest.hex())];
        let manifest: Manifest = serde_json::from_slice(manifest).unwrap();
        assert_eq!(files.contains_key("manifest.json"), docker);
        if docker {
            let want = format!(
                r#"[{{"Config":"blobs/sha256/{}","RepoTags":["app:latest","other:v2"],"Layers":null}}]"#,
                manifest.config.digest.hex()
            );
            assert_eq!(String::from_utf8_lossy(&files["manifest.json"]), want);
        }
    }
    let error = export(&daemon, "docker", &[], two_platforms(), Output::None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("manifest lists"), "{error}");
}

#[tokio::test]
async fn what_contradicts_itself_is_refused() {
    let daemon = daemon().await;
    for (attributes, want) in [
        (
            &[("annotation-index.a", "b")][..],
            "index annotations not supported",
        ),
        (
            &[("annotation[linux/s390x].a", "b")],
            "no platform linux/s390x",
        ),
        (&[("name", "UPPER")], "failed to parse UPPER"),
        (
            &[("compression", "zstd"), ("oci-mediatypes", "false")],
            "conflicts",
        ),
        (&[("push", "maybe")], "non-bool"),
        (
            &[
                ("name", "a:b"),
                ("push", "true"),
                ("push-by-digest", "true"),
            ],
            "by digest",
        ),
    ] {
        let result = input(&[("containerimage.config", CONFIG)]);
        let error = export(&daemon, "image", attributes, result, Output::None)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(want), "{attributes:?}: {error}");
    }
}
