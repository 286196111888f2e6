//! How fast layers are written and extracted: many small files, few large ones.
//! `cargo bench -p kiln-snapshot`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures and may fail loudly"
)]

use std::fs;
use std::path::Path;
use std::time::Instant;

use kiln_snapshot::diff::{DiffOptions, write_upper};
use kiln_snapshot::tar::Limits;
use kiln_snapshot::{Driver, Snapshots};

fn small_files(root: &Path) {
    for dir in 0..200 {
        let dir = root.join(format!("dir{dir:03}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..100 {
            fs::write(
                dir.join(format!("file{file:03}")),
                format!("{file}").repeat(200),
            )
            .unwrap();
        }
    }
}

fn large_files(root: &Path) {
    for file in 0..8 {
        let bytes: Vec<u8> = (0..32_u32 << 20).map(|i| (i >> 7) as u8 ^ file).collect();
        fs::write(root.join(format!("large{file}")), bytes).unwrap();
    }
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let driver = Driver::Overlay { userxattr: false };
    let snapshots = Snapshots::with_driver(dir.path().join("snapshots"), driver).unwrap();
    for (name, make) in [
        ("20,000 files", small_files as fn(&Path)),
        ("256 MB in 8 files", large_files),
    ] {
        snapshots.create("source", &[]).unwrap();
        let files = snapshots.files("source").unwrap();
        make(&files);
        for round in 0..3 {
            let begun = Instant::now();
            let (layer, stats) =
                write_upper(&[], &files, Vec::new(), DiffOptions::default()).unwrap();
            let written = begun.elapsed();
            snapshots.create("target", &[]).unwrap();
            let begun = Instant::now();
            let limits = Limits::default();
            snapshots
                .apply("target", layer.as_slice(), true, limits)
                .unwrap();
            let applied = begun.elapsed();
            let begun = Instant::now();
            let usage = snapshots.usage("target").unwrap();
            let measured = begun.elapsed();
            let begun = Instant::now();
            snapshots.remove("target").unwrap();
            let removed = begun.elapsed();
            let rate = |time: std::time::Duration| layer.len() as f64 / 1e6 / time.as_secs_f64();
            println!(
                "{name}, round {round}: {} entries, {} MB; diff {written:.1?} ({:.0} MB/s), apply {applied:.1?} ({:.0} MB/s), usage of {} inodes {measured:.1?}, remove {removed:.1?}",
                stats.entries,
                layer.len() / 1_000_000,
                rate(written),
                rate(applied),
                usage.inodes,
            );
        }
    }
}
