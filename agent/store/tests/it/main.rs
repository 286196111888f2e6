//! The state root as a daemon uses it: writes, barriers, restarts and crashes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use kiln_store::{Error, Recovery, StateRoot};
use rusqlite::Connection;

fn open(path: &Path) -> StateRoot {
    let root = StateRoot::open(path).unwrap();
    root.db()
        .write_blocking(|tx| {
            tx.execute_batch(
                "CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, epoch INTEGER NOT NULL);
                 INSERT OR IGNORE INTO epoch_tables VALUES ('t', 1);",
            )
        })
        .unwrap();
    root
}

async fn insert(root: &StateRoot, value: i64) -> kiln_store::Result<()> {
    root.db()
        .write(move |tx| {
            tx.execute("INSERT INTO t VALUES (?1, current_epoch())", [value])
                .map(drop)
        })
        .await
}

async fn values(root: &StateRoot) -> Vec<i64> {
    root.db()
        .read(|db| {
            let mut statement = db.prepare_cached("SELECT a FROM t ORDER BY a")?;
            statement.query_map((), |row| row.get(0))?.collect()
        })
        .await
        .unwrap()
}

/// Makes the last start look like one on another boot of the machine.
fn forget_boot(path: &Path) {
    let db = Connection::open(path.join("state.db")).unwrap();
    db.execute_batch("UPDATE epoch_state SET boot_id = 'another'")
        .unwrap();
}

#[tokio::test]
async fn a_failed_write_undoes_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let root = open(dir.path());
    let db = root.db();
    let failing = db.write(|tx| {
        tx.execute("INSERT INTO t VALUES (1, 0)", ())?;
        tx.execute("INSERT INTO t VALUES (1, 0)", ())
    });
    let panicking = db.write(|tx| -> rusqlite::Result<()> {
        tx.execute("INSERT INTO t VALUES (2, 0)", ())?;
        panic!("a bug in a write")
    });
    let (failed, panicked, fine) = tokio::join!(failing, panicking, insert(&root, 3));
    assert!(matches!(failed, Err(Error::Database(_))), "{failed:?}");
    assert!(matches!(panicked, Err(Error::Panicked)));
    fine.unwrap();
    assert_eq!(values(&root).await, [3]);
}

#[tokio::test]
async fn many_writes_share_transactions_and_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let root = open(dir.path());
    for value in 0..1000 {
        root.db().enqueue(move |tx| {
            tx.prepare_cached("INSERT INTO t VALUES (?1, (SELECT count(*) FROM t))")?
                .execute([value])
                .map(drop)
        });
    }
    insert(&root, 1000).await.unwrap();
    let in_order = root.db().read_blocking(|db| {
        db.query_row(
            "SELECT count(*) FROM t WHERE a = epoch AND a < 1000",
            (),
            |row| row.get::<_, i64>(0),
        )
    });
    assert_eq!(in_order.unwrap(), 1000);
}

#[tokio::test]
async fn a_second_daemon_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = open(dir.path());
    let refused = StateRoot::open(dir.path());
    let Err(Error::InUse { pid, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(pid, std::process::id().to_string());
    drop(root);
    // The writer thread may still hold the database, but not the lock.
    StateRoot::open(dir.path()).unwrap();
}

#[tokio::test]
async fn a_barrier_makes_rows_durable_and_a_crash_drops_newer_ones() {
    let dir = tempfile::tempdir().unwrap();
    let root = open(dir.path());
    assert_eq!(root.recovery(), Recovery::Clean);
    insert(&root, 1).await.unwrap();
    let before = root.epochs().current();
    root.epochs().barrier().await.unwrap();
    assert_eq!(root.epochs().current(), before + 1);
    insert(&root, 2).await.unwrap();
    drop(root);

    forget_boot(dir.path());
    let root = open(dir.path());
    assert_eq!(root.recovery(), Recovery::Crashed { dropped_rows: 1 });
    assert_eq!(values(&root).await, [1]);
}

#[tokio::test]
async fn a_killed_daemon_loses_nothing_and_an_orderly_end_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let root = open(dir.path());
    insert(&root, 1).await.unwrap();
    drop(root);

    let root = open(dir.path());
    assert_eq!(root.recovery(), Recovery::Killed);
    assert_eq!(values(&root).await, [1]);
    std::fs::write(root.tmp_dir().join("left"), "x").unwrap();
    root.close().await.unwrap();

    forget_boot(dir.path());
    let root = open(dir.path());
    assert_eq!(root.recovery(), Recovery::Clean);
    assert_eq!(values(&root).await, [1]);
    assert!(!root.tmp_dir().join("left").exists());
}

#[tokio::test]
async fn callers_share_barriers() {
    let dir = tempfile::tempdir().unwrap();
    let root = open(dir.path());
    let epochs = root.epochs();
    let before = epochs.current();
    let all = (0..50).map(|_| {
        let epochs = epochs.clone();
        tokio::spawn(async move { epochs.barrier().await })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap().unwrap();
    }
    assert!(
        epochs.current() - before < 50,
        "{} barriers",
        epochs.current() - before
    );
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await.unwrap();
    let db = Connection::open(dir.path().join("state.db")).unwrap();
    db.execute_batch("INSERT INTO schema_migrations VALUES (9901, 'later', '')")
        .unwrap();
    drop(db);
    let refused = StateRoot::open(dir.path());
    let Err(error @ Error::NewerSchema { number: 9901, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        error.to_string().contains("start the newer version"),
        "{error}"
    );
}

#[tokio::test]
async fn what_a_killed_daemon_left_mounted_is_unmounted_and_not_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let root = open(dir.path());
    let path = dir.path().canonicalize().unwrap();
    let (kept, mounted) = (path.join("snapshots/kept"), root.tmp_dir().join("mount"));
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("file"), "x").unwrap();
    std::fs::create_dir(&mounted).unwrap();
    rustix::mount::mount_bind(&kept, &mounted).unwrap();
    drop(root);

    let root = open(dir.path());
    assert!(kept.join("file").exists());
    assert!(!mounted.exists());
    assert_eq!(
        kiln_sys::mount::mounts_below(&path).unwrap(),
        Vec::<std::path::PathBuf>::new()
    );
    root.close().await.unwrap();
}
