//! Records from their birth to their end.

use std::fs;
use std::sync::Arc;

use kiln_cache::contenthash::{ChecksumOpts, Tree, checksum};
use kiln_cache::{Error, RecordOptions, UsageKind};
use kiln_ids::RefId;
use parking_lot::Mutex;

use crate::fixture::{Fixture, gzip, list, names, silent};

#[tokio::test]
async fn layers_stack_and_their_blobs_say_what_changed() {
    let f = Fixture::new().await;
    let base = f
        .layer(None, |root| {
            fs::write(root.join("a"), "1").unwrap();
            fs::create_dir(root.join("d")).unwrap();
            fs::write(root.join("d/x"), "x").unwrap();
        })
        .await;
    let top = f
        .layer(Some(&base), |root| {
            fs::remove_dir_all(root.join("d")).unwrap();
            fs::write(root.join("b"), "2").unwrap();
        })
        .await;
    assert_eq!(names(&list(&base).await), ["a", "d", "d/x"]);
    assert_eq!(names(&list(&top).await), ["a", "b"]);
    assert_eq!(top.layers().len(), 2);
    assert_eq!(top.chain_id(), None);
    assert!(
        top.blobs(&gzip(), false, &[], &silent())
            .await
            .unwrap()
            .is_empty()
    );
    let blobs = f.blobs(&top).await;
    assert_eq!(blobs.len(), 2);
    assert!(top.chain_id().is_some());
    // Made once: the second question has the same answer without work.
    let again = f.blobs(&top).await;
    assert_eq!(blobs[1].descriptor, again[1].descriptor);
    // The blobs alone give an equal state, which is known to be the same.
    let same = f
        .cache
        .layers_from_blobs(None, blobs, RecordOptions::default())
        .await
        .unwrap();
    assert_eq!(same.id(), top.id());
}

#[tokio::test]
async fn a_question_for_blobs_leaves_a_context_its_files() {
    let f = Fixture::new().await;
    let (id, view) = f.context().await;
    let found = view.blobs(&gzip(), false, &[], &silent()).await.unwrap();
    assert!(found.is_empty());
    drop(view);
    let next = f.cache.get_mutable(&id).await.unwrap();
    let next = next.expect("the next build brings it up to date");
    assert!(next.root_path().unwrap().join("a").exists());
}

#[tokio::test]
async fn compressions_are_kept_side_by_side() {
    let f = Fixture::new().await;
    let state = f
        .layer(None, |root| fs::write(root.join("a"), "1").unwrap())
        .await;
    let mut kinds = Vec::new();
    for kind in ["gzip", "zstd", "uncompressed"] {
        let mut spec = gzip();
        spec.kind = kind.parse().unwrap();
        spec.force = true;
        let blob = state
            .blobs(&spec, true, &[], &silent())
            .await
            .unwrap()
            .remove(0);
        let unforced = f.blobs(&state).await.remove(0);
        assert_eq!(unforced.diff_id, blob.diff_id);
        kinds.push(blob.descriptor);
    }
    assert!(kinds[2].digest == f.blobs(&state).await[0].diff_id);
    let cut = state
        .rewritten_blobs(&gzip(), 1, &[], &[], &silent())
        .await
        .unwrap()
        .remove(0);
    assert_ne!(cut.diff_id, kinds[2].digest);
    let keep = [kinds[2].digest];
    let kept = state
        .rewritten_blobs(&gzip(), 1, &keep, &[], &silent())
        .await
        .unwrap();
    assert_eq!(kept[0].diff_id, kinds[2].digest);
}

#[tokio::test]
async fn what_is_in_use_stays_and_what_goes_is_told() {
    let f = Fixture::new().await;
    let gone: Arc<Mutex<Vec<RefId>>> = Arc::default();
    let told = Arc::clone(&gone);
    f.cache
        .on_removed(Arc::new(move |id| told.lock().push(id.clone())));
    let base = f
        .layer(None, |root| fs::write(root.join("a"), "1").unwrap())
        .await;
    let top = f
        .layer(Some(&base), |root| fs::write(root.join("b"), "2").unwrap())
        .await;
    let blobs = f.blobs(&top).await;
    let (base_id, top_id) = (base.id().clone(), top.id().clone());
    assert!(matches!(
        f.cache.remove(&top_id).await,
        Err(Error::InUse(_))
    ));
    let clone = top.clone();
    drop(top);
    assert!(matches!(
        f.cache.remove(&top_id).await,
        Err(Error::InUse(_))
    ));
    drop((clone, base));
    assert!(matches!(
        f.cache.remove(&base_id).await,
        Err(Error::InUse(_))
    ));
    let usage = f.cache.usage().await.unwrap();
    assert!(
        usage
            .iter()
            .all(|record| !record.in_use && record.size > 0 && record.usage_count > 0)
    );
    f.cache.remove(&top_id).await.unwrap();
    f.cache.remove(&base_id).await.unwrap();
    assert_eq!(*gone.lock(), [top_id.clone(), base_id]);
    assert!(f.cache.get(&top_id).await.unwrap().is_none());
    assert!(f.snapshots.ids().unwrap().is_empty());
    assert!(
        blobs
            .iter()
            .all(|blob| f.content.info(&blob.descriptor.digest).is_none())
    );
}

#[tokio::test]
async fn a_discarded_state_leaves_nothing() {
    let f = Fixture::new().await;
    let options = RecordOptions::described("step");
    let discarded = f.cache.new_mutable(None, options.clone()).await.unwrap();
    discarded.discard().await.unwrap();
    assert!(f.snapshots.ids().unwrap().is_empty());
    // A mount that outlives its handle keeps the files until it goes.
    let mutable = f.cache.new_mutable(None, options).await.unwrap();
    let mount = mutable.mountable(false).unwrap();
    mutable.discard().await.unwrap();
    assert_eq!(f.snapshots.ids().unwrap().len(), 1);
    drop(mount);
    assert!(f.cache.usage().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_source_is_written_again_once_nobody_reads_it() {
    let f = Fixture::new().await;
    let options = RecordOptions {
        kind: UsageKind::SourceLocal,
        retain: true,
        index: vec!["local:ctx".into()],
        ..RecordOptions::described("local source")
    };
    let mutable = f.cache.new_mutable(None, options).await.unwrap();
    let id = mutable.id().clone();
    fs::write(mutable.root_path().unwrap().join("a"), "1").unwrap();
    mutable.set_tree(Tree::new());
    let first = mutable.commit(RecordOptions::default()).await.unwrap();
    assert_eq!(f.cache.search("local:ctx"), std::slice::from_ref(&id));
    assert!(matches!(
        f.cache.get_mutable(&id).await,
        Err(Error::InUse(_))
    ));
    assert_eq!(
        f.cache.usage().await.unwrap().len(),
        1,
        "two records, one set of files"
    );
    let plain = ChecksumOpts::default();
    let before = checksum(Some(&first), "/a", &plain, &[], &silent())
        .await
        .unwrap();
    let first_id = first.id().clone();
    drop(first);
    let mutable = f.cache.get_mutable(&id).await.unwrap().unwrap();
    assert!(
        !f.cache.exists(&first_id),
        "the earlier ref would show other files"
    );
    assert!(!mutable.take_tree().is_empty());
    fs::write(mutable.root_path().unwrap().join("a"), "2").unwrap();
    mutable.set_tree(Tree::new());
    let second = mutable.commit(RecordOptions::default()).await.unwrap();
    let after = checksum(Some(&second), "/a", &plain, &[], &silent())
        .await
        .unwrap();
    // The tree still had the old digest of the path: whoever writes keeps it true (here nobody did), an empty one
    // is hashed anew.
    assert_ne!(before, after);
    // Built upon, the files stay with the ref and the source starts afresh.
    let top = f
        .layer(Some(&second), |root| fs::write(root.join("b"), "").unwrap())
        .await;
    assert!(f.cache.search("local:ctx").is_empty());
    assert!(f.cache.get_mutable(&id).await.unwrap().is_none());
    assert_eq!(names(&list(&top).await), ["a", "b"]);
    assert_eq!(names(&list(&second).await), ["a"]);
}

#[tokio::test]
async fn a_cache_mount_has_one_writer_and_survives_it() {
    let f = Fixture::new().await;
    let options = RecordOptions {
        kind: UsageKind::ExecCacheMount,
        retain: true,
        index: vec!["cache-mount:x".into()],
        ..RecordOptions::described("cache mount")
    };
    let mutable = f.cache.new_mutable(None, options).await.unwrap();
    let id = mutable.id().clone();
    fs::write(mutable.root_path().unwrap().join("obj"), "o").unwrap();
    assert!(matches!(
        f.cache.get_mutable(&id).await,
        Err(Error::InUse(_))
    ));
    drop(mutable);
    let f = f.reopen().await;
    assert_eq!(f.cache.search("cache-mount:x"), std::slice::from_ref(&id));
    let mutable = f.cache.get_mutable(&id).await.unwrap().unwrap();
    assert!(mutable.root_path().unwrap().join("obj").exists());
    assert!(
        f.cache.get(&id).await.unwrap().is_none(),
        "it isn't a result"
    );
}
