//! Who gets which directory, while others have it, give it back, or have left it behind.

use std::fs;
use std::time::Duration;

use kiln_content::ContentStore;
use kiln_snapshot::Snapshots;
use kiln_store::StateRoot;

use super::*;

const SHARED: i32 = CacheSharingOpt::Shared as i32;
const PRIVATE: i32 = CacheSharingOpt::Private as i32;
const LOCKED: i32 = CacheSharingOpt::Locked as i32;

struct Bench {
    mounts: Arc<CacheMounts>,
    _directory: tempfile::TempDir,
}

async fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let root = StateRoot::open(directory.path().join("root")).unwrap();
    let content = ContentStore::open(&root).unwrap();
    let snapshots = Snapshots::open(root.snapshots_dir()).unwrap();
    let cache = CacheManager::new(&root, content, snapshots).await.unwrap();
    let scratch = directory.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    Bench {
        mounts: Arc::new(CacheMounts::new(cache, scratch)),
        _directory: directory,
    }
}

fn wanted(id: &str, sharing: i32) -> Wanted<'_> {
    Wanted {
        id,
        target: "/c",
        sharing,
        seed: None,
        user: "a test",
        build: "b",
    }
}

fn record(mount: &CacheMount) -> String {
    mount.record.lock().as_ref().unwrap().id().to_string()
}

/// Asks once, without waiting for anybody.
async fn attempt(bench: &Bench, id: &str, sharing: i32) -> Option<Arc<CacheMount>> {
    let sharing_kind = CacheSharingOpt::try_from(sharing).unwrap();
    bench
        .mounts
        .attempt(id, sharing_kind, &wanted(id, sharing))
        .await
        .unwrap()
}

#[tokio::test]
async fn sharing_decides_what_a_second_step_gets() {
    for (sharing, second) in [(SHARED, "the same"), (PRIVATE, "another"), (LOCKED, "none")] {
        let bench = bench().await;
        let first = attempt(&bench, "id", sharing).await.unwrap();
        let got = match attempt(&bench, "id", sharing).await {
            None => "none",
            Some(mount) if record(&mount) == record(&first) => "the same",
            Some(_) => "another",
        };
        assert_eq!(got, second, "sharing {sharing}");
    }
}

#[tokio::test]
async fn one_that_was_given_back_is_found_again() {
    for sharing in [SHARED, PRIVATE, LOCKED] {
        let bench = bench().await;
        let first = record(&attempt(&bench, "id", sharing).await.unwrap());
        let again = record(&attempt(&bench, "id", sharing).await.unwrap());
        assert_eq!(first, again, "sharing {sharing}");
        let other = record(&attempt(&bench, "other", sharing).await.unwrap());
        assert_ne!(first, other, "sharing {sharing}");
    }
}

#[tokio::test]
async fn a_locked_one_is_waited_for() {
    let bench = bench().await;
    let first = attempt(&bench, "id", LOCKED).await.unwrap();
    let name = record(&first);
    let mounts = Arc::clone(&bench.mounts);
    let waiting =
        tokio::spawn(async move { mounts.get(&wanted("id", LOCKED)).await.map(|m| record(&m)) });
    drop(first);
    let got = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert_eq!(got.unwrap().unwrap().unwrap(), name);
}

#[tokio::test]
async fn a_shared_one_that_is_being_given_back_is_not_replaced() {
    let bench = bench().await;
    let first = attempt(&bench, "id", SHARED).await.unwrap();
    let name = record(&first);
    // The last handle goes while its record isn't free yet: as between the two halves of a drop.
    let held = first.record.lock().take().unwrap();
    bench
        .mounts
        .table
        .shared
        .lock()
        .insert("id".to_owned(), Weak::new());
    assert!(attempt(&bench, "id", SHARED).await.is_none());
    held.retain();
    drop(first);
    let again = bench.mounts.get(&wanted("id", SHARED)).await.unwrap();
    assert_eq!(record(&again), name);
}

#[tokio::test]
async fn many_at_once_share_one() {
    let bench = bench().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let mounts = Arc::clone(&bench.mounts);
        tasks.spawn(async move {
            let mount = mounts.get(&wanted("id", SHARED)).await.unwrap();
            tokio::task::yield_now().await;
            record(&mount)
        });
    }
    let mut names = tasks.join_all().await;
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 1, "{names:?}");
}
