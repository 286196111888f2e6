//! Layers that are somewhere else.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_cache::contenthash::{ChecksumOpts, checksum};
use kiln_cache::{BlobProvider, Error, LayerBlob, ProviderSource, RecordOptions};
use kiln_oci::{Descriptor, Digest};

use crate::fixture::{Fixture, Memory, list, names, silent};

/// Blobs of a few layers, and what they are worth.
async fn image(layers: usize) -> (Vec<LayerBlob>, Vec<Vec<u8>>) {
    let f = Fixture::new().await;
    let mut top = None;
    for i in 0..layers {
        let layer = f
            .layer(top.as_ref(), |root| {
                fs::write(root.join(format!("f{i}")), i.to_string()).unwrap();
                fs::write(root.join("last"), i.to_string()).unwrap();
                if i > 1 {
                    fs::remove_file(root.join(format!("f{}", i - 1))).unwrap();
                }
            })
            .await;
        top = Some(layer);
    }
    let blobs = f.blobs(&top.unwrap()).await;
    let mut bytes = Vec::new();
    for blob in &blobs {
        bytes.push(
            f.content
                .read(&blob.descriptor.digest)
                .await
                .unwrap()
                .to_vec(),
        );
    }
    (blobs, bytes)
}

fn lazy(
    f: &Fixture,
    mut blobs: Vec<LayerBlob>,
    bytes: Vec<Vec<u8>>,
) -> (Vec<LayerBlob>, Arc<Memory>) {
    let memory = Arc::new(Memory {
        content: f.content.clone(),
        blobs: bytes,
        fetched: AtomicUsize::new(0),
    });
    for blob in &mut blobs {
        blob.provider = Some(Arc::clone(&memory) as Arc<dyn BlobProvider>);
    }
    (blobs, memory)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_fetched_before_bytes_are_needed() {
    let (blobs, bytes) = image(4).await;
    let f = Fixture::new().await;
    let (blobs, memory) = lazy(&f, blobs, bytes);
    let options = RecordOptions::described("pulled");
    let image = f
        .cache
        .layers_from_blobs(None, blobs.clone(), options.clone())
        .await
        .unwrap();
    assert!(image.is_lazy());
    assert!(image.chain_id().is_some());
    let passed_on = f.blobs(&image).await;
    assert!(passed_on.iter().all(|blob| blob.provider.is_some()));
    assert_eq!(memory.fetched.load(Ordering::Relaxed), 0);
    assert_eq!(names(&list(&image).await), ["f0", "f3", "last"]);
    assert_eq!(memory.fetched.load(Ordering::Relaxed), 4);
    assert!(!image.is_lazy());
    assert!(
        f.blobs(&image)
            .await
            .iter()
            .all(|blob| blob.provider.is_none())
    );
    let again = f
        .cache
        .layers_from_blobs(None, blobs, options)
        .await
        .unwrap();
    assert_eq!(again.id(), image.id());
}

#[tokio::test]
async fn a_layer_that_lies_is_refused_and_leaves_nothing() {
    let (mut blobs, bytes) = image(1).await;
    let f = Fixture::new().await;
    blobs[0].diff_id = Digest::of("something else");
    let (blobs, _) = lazy(&f, blobs, bytes);
    let image = f
        .cache
        .layers_from_blobs(None, blobs, RecordOptions::default())
        .await
        .unwrap();
    let refused = image.extract(&[], &silent()).await;
    assert!(
        matches!(refused, Err(Error::DiffIdMismatch { .. })),
        "{refused:?}"
    );
    assert!(f.snapshots.ids().unwrap().is_empty());
}

#[tokio::test]
async fn a_failed_download_is_the_error_and_can_be_tried_again() {
    let (blobs, bytes) = image(2).await;
    let f = Fixture::new().await;
    let (broken, _) = lazy(&f, blobs.clone(), Vec::new());
    let image = f
        .cache
        .layers_from_blobs(None, broken, RecordOptions::default())
        .await
        .unwrap();
    let failed = image.extract(&[], &silent()).await;
    assert!(matches!(failed, Err(Error::Fetch { .. })), "{failed:?}");
    let (whole, _) = lazy(&f, blobs, bytes);
    let same = f
        .cache
        .layers_from_blobs(None, whole, RecordOptions::default())
        .await
        .unwrap();
    assert_eq!(same.id(), image.id());
    same.extract(&[], &silent()).await.unwrap();
    assert_eq!(names(&list(&image).await), ["f0", "f1", "last"]);
}

#[tokio::test]
async fn what_the_hash_tree_knows_needs_no_layer() {
    let (blobs, bytes) = image(1).await;
    let f = Fixture::new().await;
    let (blobs, memory) = lazy(&f, blobs, bytes);
    let image = f
        .cache
        .layers_from_blobs(None, blobs, RecordOptions::default())
        .await
        .unwrap();
    let plain = ChecksumOpts::default();
    let digest = checksum(Some(&image), "/last", &plain, &[], &silent())
        .await
        .unwrap();
    assert_eq!(memory.fetched.load(Ordering::Relaxed), 1);
    let again = checksum(Some(&image), "/last", &plain, &[], &silent())
        .await
        .unwrap();
    assert_eq!(digest, again);
    let missing = checksum(Some(&image), "/nope", &plain, &[], &silent()).await;
    assert!(matches!(missing, Err(Error::PathNotFound { .. })));
    assert_eq!(
        checksum(None, "/", &plain, &[], &silent()).await.unwrap(),
        Digest::of("")
    );
}

struct Again(Arc<Memory>);

impl ProviderSource for Again {
    fn provider(&self, _: &Descriptor, sources: &[String]) -> Option<Arc<dyn BlobProvider>> {
        (sources == ["registry.test/library/x"]).then(|| Arc::clone(&self.0) as _)
    }
}

#[tokio::test]
async fn lazy_layers_outlive_the_daemon_only_with_somebody_to_deliver_them() {
    let (blobs, bytes) = image(2).await;
    let f = Fixture::new().await;
    let (blobs, _) = lazy(&f, blobs, bytes.clone());
    let image = f
        .cache
        .layers_from_blobs(None, blobs, RecordOptions::default())
        .await
        .unwrap();
    let id = image.id().clone();
    drop(image);
    let f = f.reopen().await;
    assert!(f.cache.exists(&id));
    assert!(f.cache.get(&id).await.unwrap().is_none());
    let (_, memory) = lazy(&f, Vec::new(), bytes);
    f.cache.set_provider_source(Arc::new(Again(memory)));
    let image = f.cache.get(&id).await.unwrap().unwrap();
    assert_eq!(names(&list(&image).await), ["f0", "f1", "last"]);
}
