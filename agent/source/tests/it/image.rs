//! Images: keys, laziness, platforms, restarts, and what goes wrong.

use kiln_frontend::ResolveImage;
use kiln_oci::{
    Descriptor, Digest, ImageConfig, Index, Platform, Reference, chain_id, media_type as mt,
};
use kiln_proto::pb;
use kiln_source::SourceProvider;

use crate::fixture::{Fixture, client, context, op, push_image, tar};
use crate::server::Server;

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn layers() -> Vec<Vec<u8>> {
    vec![
        tar(&[("etc/name", b"one"), ("old", b"old")]),
        tar(&[("etc/name", b"two"), (".wh.old", b"")]),
        tar(&[("big", &vec![7; 3 << 20])]),
    ]
}

fn name(server: &Server, rest: &str) -> Reference {
    format!("{}/{rest}", server.host).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_lazy_until_it_is_read() {
    let server = Server::start();
    let reference = name(&server, "app:1");
    let (pushed, diff_ids) = push_image(&reference, &amd64(), &layers(), None).await;
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let cx = context();

    let source = fixture
        .images
        .open(
            &op(format!("docker-image://{reference}"), &[]),
            Some(&amd64()),
        )
        .unwrap();
    let first = source.cache_key(0, &cx).await.unwrap();
    let json = format!(
        r#"{{"Digest":"{}","OS":"linux","Arch":"amd64"}}"#,
        pushed.digest
    );
    assert_eq!(
        (first.key, first.last),
        (Digest::of(json).to_string(), false)
    );
    assert_eq!(first.pin, Some(pushed.digest.to_string()));
    let second = source.cache_key(1, &cx).await.unwrap();
    assert_eq!(
        (Some(second.key), second.last),
        (chain_id(&diff_ids).map(|chain| chain.to_string()), true)
    );

    let lazy = source.snapshot(&cx).await.unwrap().unwrap();
    assert!(lazy.is_lazy());
    assert_eq!(lazy.chain_id(), chain_id(&diff_ids));
    assert!(
        fixture.content.walk().is_empty(),
        "nothing was fetched for the keys"
    );

    let files = lazy.root_path(&cx.sessions, &cx.progress).await.unwrap();
    assert_eq!(
        std::fs::read(files.path().join("etc/name")).unwrap(),
        b"two"
    );
    assert_eq!(
        std::fs::metadata(files.path().join("big")).unwrap().len(),
        3 << 20
    );
    assert!(!files.path().join("old").exists());
    assert_eq!(fixture.content.walk().len(), 3);

    // The server may go away now: what is pinned is known.
    drop(server);
    let pinned = format!("docker-image://{}", reference.with_digest(pushed.digest));
    let again = fixture
        .images
        .open(&op(pinned, &[]), Some(&amd64()))
        .unwrap();
    let same = again.snapshot(&cx).await.unwrap().unwrap();
    assert_eq!((same.id(), same.is_lazy()), (lazy.id(), false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lazy_layers_survive_a_restart() {
    let server = Server::start();
    let reference = name(&server, "app:1");
    push_image(&reference, &amd64(), &layers(), None).await;
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let cx = context();
    let source = fixture
        .images
        .open(&op(format!("docker-image://{reference}"), &[]), None)
        .unwrap();
    let id = source.snapshot(&cx).await.unwrap().unwrap().id().clone();
    fixture.root.clone().close().await.unwrap();
    drop((source, fixture));

    let fixture = Fixture::open(dir.path()).await;
    let found = fixture.cache.get(&id).await.unwrap().unwrap();
    assert!(found.is_lazy());
    let files = found.root_path(&cx.sessions, &cx.progress).await.unwrap();
    assert_eq!(
        std::fs::read(files.path().join("etc/name")).unwrap(),
        b"two"
    );
}

#[tokio::test]
async fn the_platform_is_chosen_from_an_index() {
    let server = Server::start();
    let arm: Platform = "linux/arm/v7".parse().unwrap();
    let layer = |text: &[u8]| vec![tar(&[("arch", text)])];
    let (one, _) = push_image(&name(&server, "app:a"), &amd64(), &layer(b"amd64"), None).await;
    let (two, arm_ids) = push_image(&name(&server, "app:b"), &arm, &layer(b"arm"), None).await;
    let index = Index::new(mt::OCI_INDEX, vec![one, two]);
    let reference = name(&server, "app:1");
    let bytes = index.to_vec().unwrap();
    let pushed = client()
        .push_manifest(&reference, mt::OCI_INDEX, bytes.into())
        .await
        .unwrap();

    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let image = op(format!("docker-image://{reference}"), &[]);
    let arm64: Platform = "linux/arm64".parse().unwrap();
    let source = fixture.images.open(&image, Some(&arm64)).unwrap();
    assert_eq!(
        source.cache_key(0, &context()).await.unwrap().pin,
        Some(pushed.digest.to_string())
    );
    assert_eq!(
        source.cache_key(1, &context()).await.unwrap().key,
        arm_ids[0].to_string()
    );

    let options = ResolveImage {
        platform: Some(pb::Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            ..pb::Platform::default()
        }),
        want_config: true,
        ..ResolveImage::default()
    };
    let meta = fixture
        .images
        .look_up(image.clone(), &options, &context())
        .await
        .unwrap();
    assert_eq!(meta.digest, Some(pushed.digest));
    assert_eq!(
        ImageConfig::parse(&meta.config.unwrap()).unwrap().platform,
        amd64()
    );

    let s390x: Platform = "linux/s390x".parse().unwrap();
    let missing = fixture
        .images
        .open(&image, Some(&s390x))
        .unwrap()
        .cache_key(0, &context())
        .await
        .unwrap_err();
    let text = missing.to_string();
    assert!(
        text.contains("no match for platform in manifest")
            && text.contains("linux/amd64, linux/arm/v7"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_is_not_what_the_config_says_is_refused() {
    let server = Server::start();
    let reference = name(&server, "app:1");
    let lie = vec![Digest::of("another tar")];
    push_image(&reference, &amd64(), &layers()[..1], Some(lie)).await;
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let cx = context();
    let source = fixture
        .images
        .open(&op(format!("docker-image://{reference}"), &[]), None)
        .unwrap();
    let lazy = source.snapshot(&cx).await.unwrap().unwrap();
    let error = lazy
        .root_path(&cx.sessions, &cx.progress)
        .await
        .unwrap_err();
    assert!(
        matches!(error, kiln_cache::Error::DiffIdMismatch { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_asked_for_is_checked() {
    let server = Server::start();
    let reference = name(&server, "app:1");
    let (pushed, diff_ids) = push_image(&reference, &amd64(), &layers(), None).await;
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let cx = context();
    let open = |name: &str, attrs: &[(&str, &str)]| {
        fixture
            .images
            .open(&op(format!("docker-image://{name}"), attrs), Some(&amd64()))
    };
    let full = reference.to_string();
    let limited = open(&full, &[("image.layerlimit", "1")]).unwrap();
    assert_eq!(
        limited.cache_key(1, &cx).await.unwrap().key,
        diff_ids[0].to_string()
    );
    assert_eq!(
        limited.snapshot(&cx).await.unwrap().unwrap().layers().len(),
        1
    );

    let right = pushed.digest.to_string();
    open(&full, &[("image.checksum", &right)])
        .unwrap()
        .cache_key(0, &cx)
        .await
        .unwrap();
    let wrong = Digest::of("x").to_string();
    let unknown = name(&server, "none:1").to_string();
    for (name, attrs, want) in [
        (
            &full,
            [("image.checksum", wrong.as_str())],
            "does not match expected checksum",
        ),
        (
            &full,
            [("image.layerlimit", "9")],
            "layer limit 9 is greater",
        ),
        (&unknown, [("image.resolvemode", "local")], "not found"),
    ] {
        let error = open(name, &attrs)
            .unwrap()
            .cache_key(0, &cx)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[tokio::test]
async fn the_local_store_is_asked_as_the_mode_says() {
    let server = Server::start();
    let reference = name(&server, "app:1");
    let (pushed, _) = push_image(&reference, &amd64(), &layers()[..1], None).await;
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let cx = context();
    // The store has another image of that name.
    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest =
        kiln_oci::Manifest::new(mt::OCI_MANIFEST, Descriptor::of(mt::OCI_CONFIG, config));
    let manifest = manifest.to_vec().unwrap();
    let local = Descriptor::of(mt::OCI_MANIFEST, &manifest);
    fixture
        .content
        .put(config[..].to_vec().into())
        .await
        .unwrap();
    fixture.content.put(manifest.into()).await.unwrap();
    kiln_content::ImageTable::new(&fixture.root)
        .set(&reference, &local)
        .await
        .unwrap();
    let pin = async |mode: &str| {
        let op = op(
            format!("docker-image://{reference}"),
            &[("image.resolvemode", mode)],
        );
        let source = fixture.images.open(&op, None).unwrap();
        source.cache_key(0, &cx).await.map(|key| key.pin.unwrap())
    };
    assert_eq!(pin("default").await.unwrap(), pushed.digest.to_string());
    assert_eq!(pin("local").await.unwrap(), local.digest.to_string());
    assert_eq!(pin("pull").await.unwrap(), pushed.digest.to_string());
    drop(server);
    assert_eq!(pin("default").await.unwrap(), local.digest.to_string());
    assert!(pin("pull").await.is_err());
}
