//! An image pushed to a real registry and read back; what is missing; mirrors.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kiln_config::RegistryConfig;
use kiln_oci::{Descriptor, Digest, Index, Manifest, Reference, media_type as mt};
use kiln_registry::{Anonymous, BlobSource, Client, Error, Pushed, Registry};

use crate::server::Server;

fn client() -> Client {
    Registry::new(BTreeMap::new(), None)
        .unwrap()
        .client(Arc::new(Anonymous))
}

fn name(server: &Server, rest: &str) -> Reference {
    format!("{}/{rest}", server.host).parse().unwrap()
}

async fn read(
    client: &Client,
    reference: &Reference,
    descriptor: &Descriptor,
    offset: u64,
) -> Vec<u8> {
    let mut reader = client.fetch(reference, descriptor, offset).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

/// Pushes an image of one layer; returns its manifest's descriptor.
async fn push_image(client: &Client, reference: &Reference, layer: &[u8]) -> Descriptor {
    let config = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let mut manifest = Manifest::new(mt::OCI_MANIFEST, Descriptor::of(mt::OCI_CONFIG, config));
    manifest.layers.push(Descriptor::of(mt::OCI_LAYER, layer));
    for (descriptor, bytes) in [
        (&manifest.config, &config[..]),
        (&manifest.layers[0], layer),
    ] {
        let source = BlobSource::Bytes(Bytes::copy_from_slice(bytes));
        client
            .push_blob(reference, descriptor, &source, &[], None)
            .await
            .unwrap();
    }
    let bytes = manifest.to_vec().unwrap();
    client
        .push_manifest(reference, mt::OCI_MANIFEST, bytes.into())
        .await
        .unwrap()
}

#[tokio::test]
async fn an_image_goes_up_and_comes_down() {
    let server = Server::start();
    let (client, reference) = (client(), name(&server, "team/app:v1"));
    let layer: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let blob = Descriptor::of(mt::OCI_LAYER, &layer);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &layer).unwrap();

    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let count: kiln_registry::Sent = Arc::new(move |bytes| {
        counter.fetch_add(bytes, Ordering::Relaxed);
    });
    let source = BlobSource::File(file.path().to_owned());
    let pushed = client
        .push_blob(&reference, &blob, &source, &[], Some(count))
        .await
        .unwrap();
    assert_eq!(
        (pushed, sent.load(Ordering::Relaxed)),
        (Pushed::Uploaded, blob.size)
    );
    let again = client
        .push_blob(&reference, &blob, &source, &[], None)
        .await
        .unwrap();
    assert_eq!(again, Pushed::Existed);

    let pushed = push_image(&client, &reference, &layer).await;
    assert_eq!(client.resolve(&reference).await.unwrap(), pushed);
    let manifest = client.manifest(&reference, None).await.unwrap();
    assert_eq!(manifest.descriptor, pushed);
    let pinned = reference.clone().with_digest(pushed.digest);
    assert_eq!(client.resolve(&pinned).await.unwrap(), pushed);
    assert!(read(&client, &reference, &blob, 0).await == layer);
    assert!(read(&client, &reference, &blob, 4_999_000).await == layer[4_999_000..]);

    // Another repository mounts the layer and sends nothing.
    let other = name(&server, "team/other");
    let gone = BlobSource::File("/nonexistent".into());
    let mounted = client
        .push_blob(&other, &blob, &gone, &["team/app".to_owned()], None)
        .await
        .unwrap();
    assert_eq!(mounted, Pushed::Mounted);
    // A mount from where it isn't becomes an upload.
    let third = name(&server, "team/third");
    let uploaded = client
        .push_blob(&third, &blob, &source, &["team/none".to_owned()], None)
        .await
        .unwrap();
    assert_eq!(uploaded, Pushed::Uploaded);

    let index = Index::new(mt::OCI_INDEX, vec![pushed]);
    let tagged = name(&server, "team/app:multi");
    let bytes = index.to_vec().unwrap();
    let pushed = client
        .push_manifest(&tagged, mt::OCI_INDEX, bytes.into())
        .await
        .unwrap();
    assert_eq!(client.resolve(&tagged).await.unwrap(), pushed);

    let judge = Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{reference}"))
        .output()
        .unwrap();
    assert!(
        judge.status.success(),
        "{}",
        String::from_utf8_lossy(&judge.stderr)
    );
    assert_eq!(
        Digest::of(&judge.stdout),
        client.resolve(&reference).await.unwrap().digest
    );
}

#[tokio::test]
async fn what_is_missing_is_told_with_the_host() {
    let server = Server::start();
    let (client, reference) = (client(), name(&server, "no/such:tag"));
    for error in [
        client.resolve(&reference).await.unwrap_err(),
        client.manifest(&reference, None).await.unwrap_err(),
        client
            .fetch(&reference, &Descriptor::of(mt::OCI_LAYER, b"x"), 0)
            .await
            .unwrap_err(),
    ] {
        assert!(error.is_not_found(), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("no/such") && text.contains(&server.host) && text.contains("not found"),
            "{text}"
        );
    }
    let manifest = Manifest::new(mt::OCI_MANIFEST, Descriptor::of(mt::OCI_CONFIG, b"nowhere"));
    let bytes = manifest.to_vec().unwrap().into();
    let refused = client
        .push_manifest(&reference, mt::OCI_MANIFEST, bytes)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("manifest_blob_unknown"),
        "{refused}"
    );
    let source = BlobSource::File("/nonexistent".into());
    let blob = Descriptor::of(mt::OCI_LAYER, b"x");
    let refused = client
        .push_blob(&reference, &blob, &source, &[], None)
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::File { .. }), "{refused}");
    let wrong = BlobSource::Bytes(Bytes::from_static(b"y"));
    let refused = client
        .push_blob(&reference, &blob, &wrong, &[], None)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("digest"), "{refused}");
}

#[tokio::test]
async fn a_host_that_is_down_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let reference: Reference = format!("{host}/app").parse().unwrap();
    let error = client().resolve(&reference).await.unwrap_err();
    let url = format!("failed to do request: Head \"http://{host}/v2/app/manifests/latest\"");
    assert_eq!(error.to_string(), url);
}

#[tokio::test]
async fn mirrors_serve_other_registries() {
    let server = Server::start();
    let pushed = push_image(&client(), &name(&server, "library/alpine:3"), b"layer").await;
    let down = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = RegistryConfig {
        mirrors: vec![down.to_string(), server.host.clone()],
        ..RegistryConfig::default()
    };
    let registry = Registry::new(BTreeMap::from([("docker.io".to_owned(), config)]), None).unwrap();
    let client = registry.client(Arc::new(Anonymous));
    let reference: Reference = "alpine:3".parse().unwrap();
    assert_eq!(client.resolve(&reference).await.unwrap(), pushed);
    let layer = Descriptor::of(mt::OCI_LAYER, b"layer");
    assert_eq!(read(&client, &reference, &layer, 0).await, b"layer");
}

#[tokio::test]
async fn a_registry_with_passwords_denies_the_anonymous() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("htpasswd");
    std::fs::write(
        &file,
        "u:$2y$05$LQdQbYYcNr0Oq3nLJHX6j.wqC7yVYqkyY4X6r2G9UdBtAfMJyYVWW\n",
    )
    .unwrap();
    let auth = format!(
        "auth: {{htpasswd: {{realm: here, path: {}}}}}",
        file.display()
    );
    let server = Server::start_with(&auth);
    let reference = name(&server, "app");
    let denied = client().resolve(&reference).await.unwrap_err();
    assert!(denied.is_denied(), "{denied}");
    assert!(denied.to_string().contains(&server.host), "{denied}");
}

/// Images and caches of one build go to one repository at once and share their layers. A registry that keeps blobs in
/// plain files has moments at which it doesn't know a blob that is entered again, and refuses manifests with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_pushes_to_one_repository_share_their_blobs() {
    const PUSHES: usize = 8;
    const ROUNDS: usize = 10;
    let server = Server::start();
    let registry = Registry::new(BTreeMap::new(), None).unwrap();
    for round in 0..ROUNDS {
        let layers: Vec<Bytes> = (0..6)
            .map(|layer| Bytes::from(format!("round {round}, layer {layer}")))
            .collect();
        let descriptors: Vec<Descriptor> = layers
            .iter()
            .map(|layer| Descriptor::of(mt::OCI_LAYER, layer))
            .collect();
        let mut pushes = tokio::task::JoinSet::new();
        for push in 0..PUSHES {
            // Each build has a client of its own.
            let client = registry.client(Arc::new(Anonymous));
            let reference = name(&server, "shared").without_tag_and_digest();
            let (layers, descriptors) = (layers.clone(), descriptors.clone());
            pushes.spawn(async move {
                let config = Bytes::from(format!("{{\"push\":{push}}}"));
                let blobs = descriptors.iter().zip(&layers);
                let mut uploaded = 0;
                let mut manifest =
                    Manifest::new(mt::OCI_MANIFEST, Descriptor::of(mt::OCI_CONFIG, &config));
                manifest.layers.clone_from(&descriptors);
                // All at once, so that who comes first names its manifest while others still upload.
                let blobs =
                    blobs
                        .chain([(&manifest.config, &config)])
                        .map(|(descriptor, bytes)| {
                            let source = BlobSource::Bytes(bytes.clone());
                            let (client, reference) = (&client, &reference);
                            async move {
                                client
                                    .push_blob(reference, descriptor, &source, &[], None)
                                    .await
                            }
                        });
                for pushed in futures::future::join_all(blobs).await {
                    uploaded += usize::from(pushed? == Pushed::Uploaded);
                }
                client
                    .push_manifest(
                        &reference,
                        mt::OCI_MANIFEST,
                        manifest.to_vec().unwrap().into(),
                    )
                    .await?;
                Ok::<_, Error>(uploaded)
            });
        }
        let mut uploaded = 0;
        while let Some(pushed) = pushes.join_next().await {
            uploaded += pushed
                .unwrap()
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        // The configs are other ones only in the first round.
        let configs = if round == 0 { PUSHES } else { 0 };
        assert_eq!(uploaded, layers.len() + configs, "round {round}");
    }
}
