//! How fast the cache answers: content hashes of 20,000 files, one changed file, 10,000 records.
//! `cargo bench -p kiln-cache`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures and may fail loudly"
)]

use std::fs;
use std::time::Instant;

use kiln_cache::contenthash::{Change, ChecksumOpts, FileStat, checksum, file_hasher};
use kiln_cache::{CacheManager, RecordOptions, UsageKind};
use kiln_content::ContentStore;
use kiln_progress::VertexProgress;
use kiln_snapshot::{Driver, Snapshots};
use kiln_store::StateRoot;

async fn open(dir: &std::path::Path) -> (StateRoot, CacheManager) {
    let root = StateRoot::open(dir).unwrap();
    let content = ContentStore::open(&root).unwrap();
    let driver = Driver::Overlay { userxattr: false };
    let snapshots = Snapshots::with_driver(root.snapshots_dir(), driver).unwrap();
    let cache = CacheManager::new(&root, content, snapshots).await.unwrap();
    (root, cache)
}

async fn hashes(cache: &CacheManager) {
    let options = RecordOptions {
        kind: UsageKind::SourceLocal,
        retain: true,
        ..RecordOptions::described("context")
    };
    let mutable = cache.new_mutable(None, options).await.unwrap();
    let id = mutable.id().clone();
    let root = mutable.root_path().unwrap();
    for dir in 0..200 {
        let dir = root.join(format!("dir{dir:03}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..100 {
            fs::write(dir.join(format!("file{file:03}")), vec![b'x'; 2000]).unwrap();
        }
    }
    let plain = ChecksumOpts::default();
    let silent = VertexProgress::silent();
    let context = mutable.commit(RecordOptions::default()).await.unwrap();
    let begun = Instant::now();
    checksum(Some(&context), "/", &plain, &[], &silent)
        .await
        .unwrap();
    println!("20,000 files hashed from the disk: {:.1?}", begun.elapsed());
    let begun = Instant::now();
    checksum(Some(&context), "/", &plain, &[], &silent)
        .await
        .unwrap();
    println!("asked again: {:.1?}", begun.elapsed());
    let excluded = ChecksumOpts {
        exclude_patterns: vec!["**/*.md".into(), "dir007".into()],
        ..ChecksumOpts::default()
    };
    let begun = Instant::now();
    checksum(Some(&context), "/", &excluded, &[], &silent)
        .await
        .unwrap();
    println!("with excludes: {:.1?}", begun.elapsed());
    drop(context);
    let begun = Instant::now();
    let mutable = cache.get_mutable(&id).await.unwrap().unwrap();
    let mut tree = mutable.take_tree();
    let loaded = begun.elapsed();
    let stat = FileStat {
        mode: 0o644,
        size: 3,
        ..FileStat::default()
    };
    let mut hasher = file_hasher(&stat);
    hasher.update("new");
    let change = Change::Put {
        stat: &stat,
        digest: hasher.finish(),
    };
    tree.apply_change("dir100/file050", change);
    mutable.set_tree(tree);
    let context = mutable.commit(RecordOptions::default()).await.unwrap();
    checksum(Some(&context), "/", &plain, &[], &silent)
        .await
        .unwrap();
    println!(
        "one changed file: {:.1?} (of which the tree was loaded in {loaded:.1?})",
        begun.elapsed()
    );
}

async fn records(dir: &std::path::Path) {
    let (root, cache) = open(dir).await;
    let begun = Instant::now();
    for _ in 0..500 {
        let mut parent = None;
        for _ in 0..20 {
            let options = RecordOptions::described("step");
            let mutable = cache.new_mutable(parent.as_ref(), options).await.unwrap();
            parent = Some(mutable.commit(RecordOptions::default()).await.unwrap());
        }
    }
    println!("10,000 records made: {:.1?}", begun.elapsed());
    for name in ["du, measured", "du"] {
        let begun = Instant::now();
        let count = cache.usage().await.unwrap().len();
        println!("{name}: {count} records in {:.1?}", begun.elapsed());
    }
    root.db().write(|_| Ok(())).await.unwrap();
    drop((root, cache));
    let begun = Instant::now();
    let (_root, cache) = open(dir).await;
    println!("opened again: {:.1?}", begun.elapsed());
    let ids: Vec<_> = cache
        .usage()
        .await
        .unwrap()
        .into_iter()
        .map(|r| r.id)
        .collect();
    let begun = Instant::now();
    let mut gone = 0;
    while gone < ids.len() {
        gone += cache.remove_all(&ids).await.unwrap().len();
    }
    println!("all removed: {:.1?}", begun.elapsed());
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let (_root, cache) = open(dir.path()).await;
    hashes(&cache).await;
    let dir = tempfile::tempdir().unwrap();
    records(dir.path()).await;
}
