//! What it costs to have steps on the disk: the store alone, in a root of its own on the disk of the daemons.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kiln_cache::{CacheManager, RecordOptions};
use kiln_content::ContentStore;
use kiln_snapshot::{Driver, Snapshots};
use kiln_store::StateRoot;

use crate::lab::Lab;

/// When the store waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    Never,
    AtTheEnd,
    EachTime,
}

const LAYERS: usize = 100;
const FILES: usize = 10;
const FILE_BYTES: usize = 20_000;
const RUNS: usize = 3;

/// The median of a few runs.
pub(crate) fn commits(lab: &Lab, waits: Waits) -> Result<Duration> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let root = lab.path(&format!("store-{}", lab.nonce()));
        times.push(runtime.block_on(one_run(&root, waits))?);
        fs::remove_dir_all(root)?;
    }
    times.sort();
    Ok(times[times.len() / 2])
}

async fn one_run(path: &std::path::Path, waits: Waits) -> Result<Duration> {
    let root = StateRoot::open(path)?;
    let content = ContentStore::open(&root)?;
    let driver = Driver::Overlay { userxattr: false };
    let snapshots = Snapshots::with_driver(root.snapshots_dir(), driver)?;
    let cache = CacheManager::new(&root, content, snapshots).await?;
    // What earlier runs left to be written isn't this one's.
    root.epochs().barrier().await?;
    let begun = Instant::now();
    let mut refs = Vec::new();
    for number in 0..LAYERS {
        let options = RecordOptions::described("step");
        let mutable = cache.new_mutable(None, options).await?;
        let directory = mutable.root_path().context("a directory")?;
        for file in 0..FILES {
            let bytes = vec![u8::try_from((number + file) % 256)?; FILE_BYTES];
            fs::write(directory.join(file.to_string()), bytes)?;
        }
        refs.push(mutable.commit(RecordOptions::default()).await?);
        if waits == Waits::EachTime {
            root.epochs().barrier().await?;
        }
    }
    if waits == Waits::AtTheEnd {
        root.epochs().barrier().await?;
    }
    Ok(begun.elapsed())
}
