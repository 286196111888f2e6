//! A state that the daemon can't read: it says so, says what to do, and touches nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use kiln_harness::{Bed, Context, Kilnd, KilndOptions};
use kiln_oci::Digest;
use rusqlite::Connection;

use crate::thin::{Fate, Thin};

pub(crate) const ALL: [(&str, kiln_e2e::OnBed); 6] = [
    ("state_is_garbage", |bed| {
        refused(
            bed,
            |file| fs::write(file, b"not a database, but somebody's notes\n".repeat(400)),
            DAMAGED,
        )
    }),
    ("state_is_cut_short", |bed| {
        refused(bed, |file| resize(file, |length| length / 2), DAMAGED)
    }),
    ("state_is_empty", |bed| {
        refused(bed, |file| resize(file, |_| 0), DAMAGED)
    }),
    ("state_has_a_page_of_garbage", |bed| {
        refused(bed, overwrite_first_pages, DAMAGED)
    }),
    ("state_is_newer", |bed| {
        refused(
            bed,
            newer,
            &["newer kilnd", "9901", "start the newer version"],
        )
    }),
    ("state_is_in_use", in_use),
];

const DAMAGED: &[&str] = &["state.db", "damaged", "move"];

/// Damages the database of a daemon that ended in order, and starts it again.
fn refused(
    bed: &Bed,
    damage: impl FnOnce(&Path) -> std::io::Result<()>,
    says: &[&str],
) -> Result<()> {
    let mut kilnd = Kilnd::start(&bed.registry, KilndOptions::default())?;
    let thin = Thin::new(kilnd.socket())?;
    let context = Context::new("FROM busybox\nRUN echo kept > /kept\n")?;
    thin.build(context.path(), Fate::Cached)?;
    kilnd.stop()?;
    let file = kilnd.root().join("state.db");
    let whole = fs::read(&file)?;
    damage(&file)?;
    let before = files(&kilnd.root())?;
    let said = kilnd.refuses_to_start()?;
    for text in says {
        ensure!(said.contains(text), "{text:?} isn't in {said}");
    }
    ensure!(!said.contains("panicked"), "{said}");
    let after = files(&kilnd.root())?;
    ensure!(
        before == after,
        "files were touched:\n{before:?}\n{after:?}"
    );
    // With its database back, all is as it was.
    fs::write(&file, whole)?;
    kilnd.start_again()?;
    thin.build(context.path(), Fate::Cached)?;
    kilnd.finish()
}

fn resize(file: &Path, length: impl FnOnce(u64) -> u64) -> std::io::Result<()> {
    let file = fs::File::options().write(true).open(file)?;
    let now = file.metadata()?.len();
    file.set_len(length(now))
}

/// Everything but SQLite's header.
fn overwrite_first_pages(file: &Path) -> std::io::Result<()> {
    let mut bytes = fs::read(file)?;
    let end = bytes.len().min(16 << 10);
    bytes[100..end].fill(0xa5);
    fs::write(file, bytes)
}

fn newer(file: &Path) -> std::io::Result<()> {
    Connection::open(file)
        .and_then(|db| db.execute_batch("INSERT INTO schema_migrations VALUES (9901, 'later', '')"))
        .map_err(std::io::Error::other)
}

/// Digests of all files that matter, by path.
fn files(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut rest = vec![root.to_path_buf()];
    while let Some(path) = rest.pop() {
        let name = path.strip_prefix(root)?.display().to_string();
        if path.is_symlink() || ["lock", "reserve", "tmp"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                rest.push(entry?.path());
            }
        } else if path.is_file() {
            // SQLite makes a journal and its index when it looks, and nothing is in it.
            let is_index = name.ends_with("-shm") || name.ends_with("-wal");
            let bytes = fs::read(&path)?;
            if !is_index {
                found.insert(name, Digest::of(bytes).to_string());
            }
        }
    }
    Ok(found)
}

fn in_use(bed: &Bed) -> Result<()> {
    let kilnd = Kilnd::start(&bed.registry, KilndOptions::default())?;
    let thin = Thin::new(kilnd.socket())?;
    let options = KilndOptions {
        root: Some(kilnd.root()),
        ..KilndOptions::default()
    };
    let said = Kilnd::prepare(&bed.registry, options)?.refuses_to_start()?;
    ensure!(said.contains("in use by another daemon"), "{said}");
    thin.is_answered()?;
    kilnd.finish()
}
