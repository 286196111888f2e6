//! The check of what is left after a crash, checked itself: each kind of loss is put into a sound state by hand, and
//! must be named.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use kiln_harness::{Bed, Kilnd, KilndOptions};
use rusqlite::Connection;

use crate::random::Random;
use crate::verify;
use crate::work::{Job, Site, Work};

pub(crate) const ALL: [(&str, kiln_e2e::OnBed); 1] = [("losses_are_noticed", losses_are_noticed)];

/// What is done to the state, and what the check says then.
type Loss = (&'static str, fn(&Path) -> Result<()>, &'static str);

const LOSSES: [Loss; 7] = [
    (
        "a blob's file",
        |root| Ok(fs::remove_file(some_blob(root)?)?),
        "blob sha256:",
    ),
    (
        "the end of a blob",
        |root| {
            let file = fs::File::options().write(true).open(some_blob(root)?)?;
            Ok(file.set_len(file.metadata()?.len() / 2)?)
        },
        "has the bytes of",
    ),
    (
        "a blob's bytes",
        |root| {
            let path = some_blob(root)?;
            let length = fs::metadata(&path)?.len();
            Ok(fs::write(path, vec![0; usize::try_from(length)?])?)
        },
        "has the bytes of",
    ),
    (
        "a blob's row",
        |root| {
            sql(
                root,
                "DELETE FROM blobs WHERE digest = (SELECT min(digest) FROM blobs)",
            )
        },
        "has no row",
    ),
    (
        "a layer's files",
        |root| {
            let sql = "SELECT snapshot FROM cache_layers WHERE snapshot IN (SELECT json_extract(body, '$.layer') FROM \
                       cache_records) LIMIT 1";
            let id: String = open(root)?.query_row(sql, (), |row| row.get(0))?;
            Ok(fs::remove_dir_all(root.join("snapshots").join(id))?)
        },
        "has no files",
    ),
    (
        "a record that others are built on",
        |root| {
            sql(
                root,
                "DELETE FROM cache_records WHERE id = (SELECT json_extract(body, '$.lineage.layer') FROM cache_records \
                 WHERE json_extract(body, '$.lineage.layer') IS NOT NULL LIMIT 1)",
            )
        },
        "",
    ),
    (
        "a key of a result",
        |root| {
            sql(
                root,
                "DELETE FROM cache_keys WHERE id = (SELECT min(key) FROM cache_results)",
            )
        },
        "without a key",
    ),
];

fn losses_are_noticed(bed: &Bed) -> Result<()> {
    let mut kilnd = Kilnd::start(&bed.registry, KilndOptions::default())?;
    let site = Site::new(&kilnd, &bed.registry)?;
    let job = Job::prepare(&site, Work::Store, &mut Random::new(5))?;
    site.thin.wait(job.start(&site))?;
    kilnd.stop()?;
    let root = kilnd.root();
    verify::check(&root).context("before anything is lost")?;
    let place = tempfile::tempdir()?;
    for (number, (what, lose, words)) in LOSSES.into_iter().enumerate() {
        let copy = place.path().join(number.to_string());
        let copied = Command::new("cp")
            .arg("-a")
            .arg(&root)
            .arg(&copy)
            .status()?;
        ensure!(copied.success(), "the state isn't copied");
        lose(&copy).context(what)?;
        let Err(error) = verify::check(&copy) else {
            anyhow::bail!("{what} is lost, and nobody notices")
        };
        let told = format!("{error:#}");
        ensure!(told.contains(words), "{what}: {told}");
    }
    Ok(())
}

fn open(root: &Path) -> Result<Connection> {
    Ok(Connection::open(root.join("state.db"))?)
}

fn sql(root: &Path, statement: &str) -> Result<()> {
    let database = open(root)?;
    database.pragma_update(None, "foreign_keys", false)?;
    Ok(database.execute_batch(statement)?)
}

/// The largest, which is a layer's.
fn some_blob(root: &Path) -> Result<std::path::PathBuf> {
    let blobs = fs::read_dir(root.join("content/blobs/sha256"))?;
    let sized = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        Some((entry.metadata().ok()?.len(), entry.path()))
    };
    let largest = blobs.filter_map(sized).max();
    largest.map(|(_, path)| path).context("no blob is there")
}
