//! Registries that send something else than they should.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_oci::{Descriptor, Digest, ImageConfig, Index, Manifest, Platform, media_type as mt};
use kiln_source::SourceProvider;

use crate::fixture::{Fixture, context, op, tar};
use crate::scripted::{Asked, Reply, Scripted};

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

/// An image of one layer as paths and bodies.
struct Image {
    documents: HashMap<String, (String, Vec<u8>)>,
    layer: Vec<u8>,
    layer_path: String,
}

fn image() -> Image {
    let layer = tar(&[("file", &vec![9; 400_000])]);
    let mut config = ImageConfig {
        platform: amd64(),
        ..ImageConfig::default()
    };
    config.rootfs.kind.push_str("layers");
    config.rootfs.diff_ids.push(Digest::of(&layer));
    let config = config.to_vec().unwrap();
    let mut manifest = Manifest::new(mt::OCI_MANIFEST, Descriptor::of(mt::OCI_CONFIG, &config));
    manifest.layers.push(Descriptor::of(mt::OCI_LAYER, &layer));
    let manifest = manifest.to_vec().unwrap();
    let layer_path = format!("/v2/app/blobs/{}", Digest::of(&layer));
    let mut documents = HashMap::new();
    documents.insert(
        format!("/v2/app/blobs/{}", Digest::of(&config)),
        (mt::OCI_CONFIG.to_owned(), config),
    );
    for name in ["1".to_owned(), Digest::of(&manifest).to_string()] {
        let document = (mt::OCI_MANIFEST.to_owned(), manifest.clone());
        documents.insert(format!("/v2/app/manifests/{name}"), document);
    }
    Image {
        documents,
        layer,
        layer_path,
    }
}

fn document(documents: &HashMap<String, (String, Vec<u8>)>, asked: &Asked) -> Reply {
    match documents.get(&asked.path) {
        Some((media_type, bytes)) => Reply::new(200)
            .header("Content-Type", media_type.as_str())
            .header("Docker-Content-Digest", Digest::of(bytes).to_string())
            .body(bytes.clone()),
        None => Reply::new(404),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_of_other_bytes_is_refused_and_leaves_nothing() {
    let image = image();
    let honest = Arc::new(AtomicBool::new(false));
    let turned = Arc::clone(&honest);
    let right = image.layer.clone();
    let digest = Digest::of(&right);
    let server = Scripted::start(move |asked, _| {
        if asked.path != image.layer_path {
            return document(&image.documents, asked);
        }
        let mut bytes = image.layer.clone();
        if !turned.load(Ordering::Relaxed) {
            bytes[1000] ^= 1;
        }
        Reply::new(200).body(bytes)
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let cx = context();
    let name = format!("docker-image://{}/app:1", server.host);
    let source = fixture.images.open(&op(name, &[]), Some(&amd64())).unwrap();
    let lazy = source.snapshot(&cx).await.unwrap().unwrap();

    let refused = lazy
        .root_path(&cx.sessions, &cx.progress)
        .await
        .unwrap_err();
    let mut text = refused.to_string();
    let mut cause = std::error::Error::source(&refused);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    assert!(text.contains(&format!("instead of {digest}")), "{text}");
    assert!(fixture.content.walk().is_empty());
    let left = std::fs::read_dir(dir.path().join("content/ingest"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
    assert!(lazy.is_lazy());

    honest.store(true, Ordering::Relaxed);
    let files = lazy.root_path(&cx.sessions, &cx.progress).await.unwrap();
    assert_eq!(
        std::fs::metadata(files.path().join("file")).unwrap().len(),
        400_000
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_breaks_off_is_resumed_while_it_is_unpacked() {
    let image = image();
    let length = image.layer.len();
    let server = Scripted::start(move |asked, _| {
        if asked.path != image.layer_path {
            return document(&image.documents, asked);
        }
        let range = asked
            .header("range")
            .trim_start_matches("bytes=")
            .trim_end_matches('-');
        match range.parse::<usize>() {
            Ok(start) => Reply::new(206)
                .header(
                    "Content-Range",
                    format!("bytes {start}-{}/{length}", length - 1),
                )
                .body(image.layer[start..].to_vec()),
            Err(_) => Reply::new(200).body(image.layer.clone()).cut_at(150_000),
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let cx = context();
    let name = format!("docker-image://{}/app:1", server.host);
    let source = fixture.images.open(&op(name, &[]), Some(&amd64())).unwrap();
    let lazy = source.snapshot(&cx).await.unwrap().unwrap();
    let files = lazy.root_path(&cx.sessions, &cx.progress).await.unwrap();
    assert_eq!(
        std::fs::metadata(files.path().join("file")).unwrap().len(),
        400_000
    );
    let fetches = server
        .log()
        .iter()
        .filter(|line| line.contains("/blobs/"))
        .count();
    assert_eq!(
        fetches,
        3,
        "config, layer, rest of the layer: {:?}",
        server.log()
    );
}

#[tokio::test]
async fn documents_that_no_honest_image_has_are_refused() {
    let mut documents = HashMap::new();
    let mut add = |name: &str, media_type: &str, bytes: &[u8]| {
        for name in [name.to_owned(), Digest::of(bytes).to_string()] {
            let document = (media_type.to_owned(), bytes.to_vec());
            documents.insert(format!("/v2/app/manifests/{name}"), document);
        }
    };
    add(
        "v1",
        mt::DOCKER_MANIFEST_V1_SIGNED,
        br#"{"schemaVersion":1,"fsLayers":[]}"#,
    );
    add(
        "junk",
        mt::OCI_MANIFEST,
        br#"{"schemaVersion":2,"config":{},"layers":7}"#,
    );
    add(
        "empty",
        mt::OCI_INDEX,
        br#"{"schemaVersion":2,"manifests":[]}"#,
    );
    // Each is an index of the one before.
    let mut inner = Descriptor::of(mt::OCI_MANIFEST, b"x");
    for depth in 0..6 {
        inner.platform = Some(amd64());
        let bytes = Index::new(mt::OCI_INDEX, vec![inner]).to_vec().unwrap();
        add(&format!("deep{depth}"), mt::OCI_INDEX, &bytes);
        inner = Descriptor::of(mt::OCI_INDEX, &bytes);
    }
    let server = Scripted::start(move |asked, _| document(&documents, asked)).await;
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    for (tag, want) in [
        ("v1", "unsupported media type"),
        ("junk", "is not a valid image manifest"),
        ("empty", "no match for platform in manifest"),
        ("deep5", "nested more than 4 deep"),
    ] {
        let name = format!("docker-image://{}/app:{tag}", server.host);
        let source = fixture.images.open(&op(name, &[]), Some(&amd64())).unwrap();
        let error = source.cache_key(0, &context()).await.unwrap_err();
        assert!(error.to_string().contains(want), "{tag}: {error}");
    }
}
