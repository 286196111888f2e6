//! Merges and diffs, on overlayfs and with plain copies.

use std::fs;

use kiln_cache::{RecordOptions, RefKind};
use kiln_snapshot::Driver;

use crate::fixture::{Fixture, OVERLAY, list, names};

#[tokio::test]
async fn merges_and_diffs_mean_the_same_with_every_driver() {
    for driver in [OVERLAY, Driver::Copy] {
        let f = Fixture::with_driver(driver).await;
        let options = RecordOptions::default();
        let base = f
            .layer(None, |root| {
                fs::write(root.join("base"), "b").unwrap();
                fs::write(root.join("old"), "o").unwrap();
            })
            .await;
        let one = f
            .layer(Some(&base), |root| {
                fs::write(root.join("one"), "1").unwrap();
            })
            .await;
        let two = f
            .layer(Some(&one), |root| {
                fs::write(root.join("two"), "2").unwrap();
                fs::remove_file(root.join("old")).unwrap();
            })
            .await;
        let other = f
            .layer(None, |root| {
                fs::write(root.join("other"), "x").unwrap();
                fs::write(root.join("old"), "not so old").unwrap();
            })
            .await;

        let step = f
            .cache
            .diff(Some(one.clone()), Some(two.clone()), options.clone())
            .await;
        let step = step.unwrap().unwrap();
        assert_eq!(step.kind(), RefKind::Diff);
        assert_eq!(names(&list(&step).await), ["two"], "{driver:?}");
        let steps = f
            .cache
            .diff(Some(base.clone()), Some(two.clone()), options.clone())
            .await;
        let steps = steps.unwrap().unwrap();
        assert_eq!(steps.kind(), RefKind::Merge);
        assert_eq!(names(&list(&steps).await), ["one", "two"], "{driver:?}");

        // Applied elsewhere the diff also removes what it removed.
        let parts = vec![other.clone(), steps.clone()];
        let merged = f.cache.merge(parts, options.clone()).await.unwrap();
        assert_eq!(
            names(&list(&merged).await),
            ["one", "other", "two"],
            "{driver:?}"
        );
        let whole = f.blobs(&two).await;
        let blobs = f.blobs(&merged).await;
        assert_eq!(blobs.len(), 3);
        assert_eq!(
            blobs[2].diff_id, whole[2].diff_id,
            "the layer is the same: {driver:?}"
        );

        let unrelated = f
            .cache
            .diff(Some(base.clone()), Some(other.clone()), options.clone())
            .await;
        let unrelated = unrelated.unwrap().unwrap();
        assert_eq!(
            names(&list(&unrelated).await),
            ["old", "other"],
            "{driver:?}"
        );
        let onto = vec![base.clone(), unrelated];
        let rebuilt = f.cache.merge(onto, options.clone()).await.unwrap();
        let top = f
            .layer(Some(&rebuilt), |root| {
                fs::write(root.join("top"), "").unwrap();
            })
            .await;
        assert_eq!(list(&top).await, {
            let mut want = list(&other).await;
            want.push(("top".into(), String::new()));
            want
        });
        let none = f
            .cache
            .diff(Some(one.clone()), Some(one.clone()), options.clone())
            .await;
        assert!(none.unwrap().is_none());
        let all = f
            .cache
            .diff(None, Some(one.clone()), options)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(all.id(), one.id());
    }
}

#[tokio::test]
async fn a_state_over_itself_is_itself() {
    let f = Fixture::new().await;
    let one = f
        .layer(None, |root| fs::write(root.join("one"), "1").unwrap())
        .await;
    let two = f
        .layer(None, |root| fs::write(root.join("two"), "2").unwrap())
        .await;
    let parts = vec![one.clone(), two.clone(), one.clone()];
    let merged = f
        .cache
        .merge(parts, RecordOptions::default())
        .await
        .unwrap();
    assert_eq!(names(&list(&merged).await), ["one", "two"]);
    assert_eq!(f.blobs(&merged).await.len(), 3);
}

#[tokio::test]
async fn stacks_of_hundreds_of_layers_mount() {
    let f = Fixture::new().await;
    let mut parts = Vec::new();
    for i in 0..120 {
        parts.push(
            f.layer(None, |root| {
                fs::write(root.join(format!("{i:03}")), "").unwrap();
            })
            .await,
        );
    }
    let merged = f
        .cache
        .merge(parts, RecordOptions::default())
        .await
        .unwrap();
    assert_eq!(list(&merged).await.len(), 120);
    let top = f
        .layer(Some(&merged), |root| {
            fs::remove_file(root.join("000")).unwrap();
        })
        .await;
    assert_eq!(list(&top).await.len(), 119);
}
