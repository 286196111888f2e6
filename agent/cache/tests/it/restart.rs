//! What a new process finds.

use std::fs;

use kiln_cache::RecordOptions;
use kiln_cache::contenthash::{ChecksumOpts, checksum};

use crate::fixture::{Fixture, list, names, silent};

#[tokio::test]
async fn committed_states_survive_and_others_dont() {
    let f = Fixture::new().await;
    let base = f
        .layer(None, |root| fs::write(root.join("a"), "1").unwrap())
        .await;
    let top = f
        .layer(Some(&base), |root| fs::write(root.join("b"), "2").unwrap())
        .await;
    top.set_description("RUN b");
    top.set_value("note", b"kept".to_vec());
    let plain = ChecksumOpts::default();
    let digest = checksum(Some(&top), "/b", &plain, &[], &silent())
        .await
        .unwrap();
    let options = RecordOptions::default();
    let merged = f
        .cache
        .merge(vec![base.clone(), top.clone()], options.clone())
        .await
        .unwrap();
    let diff = f
        .cache
        .diff(Some(base.clone()), Some(top.clone()), options)
        .await;
    let diff = diff.unwrap().unwrap();
    let ids = [top.id().clone(), merged.id().clone(), diff.id().clone()];
    let blobs = f.blobs(&top).await;
    let half = f
        .cache
        .new_mutable(Some(&top), RecordOptions::described("half"))
        .await
        .unwrap();
    let half_id = half.id().clone();
    std::mem::forget(half);
    drop((base, top, merged, diff));
    let f = f
        .reopen_after(|root| fs::create_dir_all(root.join("snapshots/stray/fs")).unwrap())
        .await;
    assert_eq!(
        f.snapshots.ids().unwrap().len(),
        2,
        "neither the half nor the stray one"
    );
    assert!(!f.cache.exists(&half_id));
    let top = f.cache.get(&ids[0]).await.unwrap().unwrap();
    assert_eq!(top.description(), "RUN b");
    assert_eq!(top.value("note").as_deref(), Some(&b"kept"[..]));
    assert_eq!(names(&list(&top).await), ["a", "b"]);
    let again = checksum(Some(&top), "/b", &plain, &[], &silent())
        .await
        .unwrap();
    assert_eq!(again, digest);
    let merged = f.cache.get(&ids[1]).await.unwrap().unwrap();
    assert_eq!(names(&list(&merged).await), ["a", "b"]);
    let diff = f.cache.get(&ids[2]).await.unwrap().unwrap();
    assert_eq!(names(&list(&diff).await), ["b"]);
    let kept = f.blobs(&top).await;
    assert_eq!(kept[1].descriptor, blobs[1].descriptor);
    let usage = f.cache.usage().await.unwrap();
    assert_eq!(usage.len(), 4);
}

#[tokio::test]
async fn lost_files_come_back_from_blobs_or_take_their_records_along() {
    let f = Fixture::new().await;
    let base = f
        .layer(None, |root| fs::write(root.join("a"), "1").unwrap())
        .await;
    let top = f
        .layer(Some(&base), |root| fs::write(root.join("b"), "2").unwrap())
        .await;
    f.blobs(&base).await;
    let (base_id, top_id) = (base.id().clone(), top.id().clone());
    drop((base, top));
    let (lost, also_lost) = (base_id.clone(), top_id.clone());
    let f = f
        .reopen_after(move |root| {
            for id in [lost, also_lost] {
                fs::remove_dir_all(root.join("snapshots").join(id.as_str())).unwrap();
            }
        })
        .await;
    let base = f.cache.get(&base_id).await.unwrap().unwrap();
    assert_eq!(names(&list(&base).await), ["a"]);
    assert!(f.cache.get(&top_id).await.unwrap().is_none());
    assert_eq!(f.cache.usage().await.unwrap().len(), 1);
}

/// A power cut may keep the removal of files and lose that of their rows.
#[tokio::test]
async fn rows_that_promise_what_is_gone_go() {
    let f = Fixture::new().await;
    let layer = async |name: &str| {
        let made = f.layer(None, |root| fs::write(root.join(name), name).unwrap());
        let made = made.await;
        let blob = f.blobs(&made).await[0].descriptor.digest;
        (made.id().clone(), blob)
    };
    let (no_files, _) = layer("a").await;
    let (no_blob, blob) = layer("b").await;
    let (nothing, its_blob) = layer("c").await;
    let ids = [no_files.clone(), no_blob.clone(), nothing.clone()];
    let f = f
        .reopen_after(move |root| {
            for id in [no_files, nothing] {
                fs::remove_dir_all(root.join("snapshots").join(id.as_str())).unwrap();
            }
            for blob in [blob, its_blob] {
                fs::remove_file(root.join("content/blobs/sha256").join(blob.hex())).unwrap();
            }
        })
        .await;
    let database = f.root.db();
    let rows = database.write(|tx| {
        let read = |sql: &str| -> Result<Vec<String>, _> {
            tx.prepare(sql)?.query_map((), |row| row.get(0))?.collect()
        };
        Ok((
            read("SELECT id FROM cache_records")?,
            read("SELECT snapshot FROM cache_layers")?,
            read("SELECT snapshot FROM cache_blobs")?,
        ))
    });
    let (mut records, layers, blobs) = rows.await.unwrap();
    let mut kept = vec![ids[0].to_string(), ids[1].to_string()];
    records.sort();
    kept.sort();
    assert_eq!(records, kept, "what is nowhere can't be vouched for");
    assert_eq!(layers, [ids[1].to_string()]);
    assert_eq!(blobs, [ids[0].to_string()]);
    let found = f.cache.get(&ids[0]).await.unwrap().unwrap();
    assert_eq!(names(&list(&found).await), ["a"]);
    let found = f.cache.get(&ids[1]).await.unwrap().unwrap();
    assert_eq!(f.blobs(&found).await.len(), 1, "made anew");
}

#[tokio::test]
async fn a_parent_that_is_gone_takes_its_children_along() {
    let f = Fixture::new().await;
    let base = f
        .layer(None, |root| fs::write(root.join("a"), "1").unwrap())
        .await;
    let top = f
        .layer(Some(&base), |root| fs::write(root.join("b"), "2").unwrap())
        .await;
    let id = base.id().to_string();
    drop((base, top));
    let delete = id.clone();
    let sql = "DELETE FROM cache_records WHERE id = ?1";
    f.root
        .db()
        .write(move |tx| tx.execute(sql, [delete]))
        .await
        .unwrap();
    let f = f.reopen().await;
    assert!(f.cache.usage().await.unwrap().is_empty());
    assert!(f.snapshots.ids().unwrap().is_empty());
    assert_eq!(rows_of_layers(&f).await, 0, "of either");
}

async fn rows_of_layers(f: &Fixture) -> u64 {
    let count = "SELECT count(*) FROM cache_layers";
    let database = f.root.db();
    let count = database.write(move |tx| tx.query_row(count, (), |row| row.get(0)));
    count.await.unwrap()
}

/// Its files may have changed on the disk while the mark of that was still on its way there.
#[tokio::test]
async fn after_a_power_cut_a_context_begins_with_nothing() {
    let f = Fixture::new().await;
    let (id, view) = f.context().await;
    drop(view);
    let f = f.reopen().await;
    let kept = f.cache.get_mutable(&id).await.unwrap();
    assert!(kept.is_some(), "the daemon alone was killed");
    drop(kept);
    f.root.epochs().barrier().await.unwrap();
    let another_boot = "UPDATE epoch_state SET boot_id = 'another'";
    let database = f.root.db();
    let written = database.write(move |tx| tx.execute(another_boot, ()));
    written.await.unwrap();
    drop(database);
    let f = f.reopen().await;
    assert!(f.cache.get_mutable(&id).await.unwrap().is_none());
    assert!(f.snapshots.ids().unwrap().is_empty());
    assert_eq!(rows_of_layers(&f).await, 0);
}
