//! What must hold of a state root whatever its daemon went through.
//!
//! - the database is sound: SQLite's own checks, no link or result without its key;
//! - every blob that has a row has its file, with that hash and size, and no file is without a row;
//! - every record has its parents, and its files or a blob to make them of; every result names a record;
//! - every snapshot belongs to a record; nothing half-written or half-removed is left;
//! - the blobs that build records and names of images need are there.
//!
//! Invariant: looking changes nothing; the daemon may run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kiln_harness::until;
use kiln_oci::Digest;
use kiln_proto::moby::buildkit::v1 as control;
use prost::Message as _;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// The start's own clean-up goes on for a moment after the first answer.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// Checks everything, again until it holds.
pub(crate) fn settled(root: &Path) -> Result<()> {
    let mut last = None;
    until("the state is sound", SETTLED_WITHIN, || {
        check(root).map_err(|error| last = Some(error)).ok()
    })
    .map_err(|error| last.map_or(error, |last| last.context("the state isn't sound")))
}

/// Checks everything once.
pub(crate) fn check(root: &Path) -> Result<()> {
    let database = Connection::open_with_flags(
        root.join("state.db"),
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    database.busy_timeout(Duration::from_secs(5))?;
    // One view of all tables.
    database.execute_batch("BEGIN")?;
    database_is_sound(&database)?;
    let blobs = blobs(&database, root)?;
    records(&database, root)?;
    history(&database, &blobs)?;
    images(&database, root, &blobs)
}

fn strings(database: &Connection, sql: &str) -> Result<Vec<String>> {
    let mut statement = database.prepare(sql)?;
    let rows = statement.query_map((), |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn database_is_sound(database: &Connection) -> Result<()> {
    let integrity = strings(database, "PRAGMA integrity_check")?;
    ensure!(integrity == ["ok"], "{integrity:?}");
    for (what, sql) in [
        (
            "links without a key",
            "SELECT count(*) FROM cache_links WHERE parent NOT IN (SELECT id FROM cache_keys) OR child NOT IN (SELECT id \
             FROM cache_keys)",
        ),
        (
            "results without a key",
            "SELECT count(*) FROM cache_results WHERE key NOT IN (SELECT id FROM cache_keys)",
        ),
        (
            "results without a record",
            "SELECT count(*) FROM cache_results WHERE result <> 'scratch' AND result NOT IN (SELECT id FROM cache_records)",
        ),
        (
            "values without a record",
            "SELECT count(*) FROM cache_values WHERE record NOT IN (SELECT id FROM cache_records)",
        ),
    ] {
        let count: i64 = database.query_row(sql, (), |row| row.get(0))?;
        ensure!(count == 0, "{count} {what}");
    }
    Ok(())
}

fn blobs(database: &Connection, root: &Path) -> Result<BTreeSet<String>> {
    let directory = root.join("content/blobs/sha256");
    let mut names = BTreeSet::new();
    let mut statement = database.prepare("SELECT digest, size FROM blobs")?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    for row in rows {
        let (digest, size): (String, i64) = row?;
        let file = directory.join(digest.trim_start_matches("sha256:"));
        let bytes = fs::read(&file).with_context(|| format!("blob {digest}"))?;
        let found = Digest::of(&bytes).to_string();
        ensure!(found == digest, "blob {digest} has the bytes of {found}");
        ensure!(
            bytes.len() as i64 == size,
            "blob {digest} isn't {size} bytes"
        );
        names.insert(digest);
    }
    for file in entries(&directory)? {
        ensure!(
            names.contains(&format!("sha256:{file}")),
            "{file} has no row"
        );
    }
    let unfinished = entries(&root.join("content/ingest"))?;
    ensure!(unfinished.is_empty(), "unfinished: {unfinished:?}");
    Ok(names)
}

fn records(database: &Connection, root: &Path) -> Result<()> {
    let mut bodies = BTreeMap::new();
    let mut statement = database.prepare("SELECT id, body FROM cache_records")?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    for row in rows {
        let (id, body): (String, String) = row?;
        bodies.insert(id, serde_json::from_str::<Value>(&body)?);
    }
    let extracted: BTreeSet<_> = strings(database, "SELECT snapshot FROM cache_layers")?
        .into_iter()
        .collect();
    let in_blobs: BTreeSet<_> = strings(database, "SELECT snapshot FROM cache_blobs")?
        .into_iter()
        .collect();
    let mut named = BTreeSet::new();
    for (id, body) in &bodies {
        let mut needed = Vec::new();
        collect_ids(&body["lineage"], &mut needed);
        needed.extend(body["shares_with"].as_str());
        for parent in needed {
            ensure!(bodies.contains_key(parent), "{id} needs {parent}: {body}");
        }
        let Some(layer) = body["layer"].as_str() else {
            continue;
        };
        named.insert(layer.to_owned());
        let files = root.join("snapshots").join(layer).join("fs");
        if extracted.contains(layer) {
            ensure!(files.is_dir(), "{id} has no files: {body}");
        } else {
            let can_be_made = in_blobs.contains(layer)
                || body["lineage"].get("merge").is_some()
                || body["lineage"].get("diff").is_some();
            ensure!(can_be_made, "{id} has neither files nor a blob: {body}");
        }
    }
    for snapshot in entries(&root.join("snapshots"))? {
        if !snapshot.starts_with('.') {
            ensure!(named.contains(&snapshot), "{snapshot} belongs to nobody");
        }
    }
    for layer in extracted.union(&in_blobs) {
        ensure!(named.contains(layer), "rows of a layer of nobody: {layer}");
    }
    Ok(())
}

/// The ids in a lineage: `"base"`, `{"layer": id}`, `{"merge": [id]}`, `{"diff": [id or null, id or null]}`.
fn collect_ids<'a>(lineage: &'a Value, ids: &mut Vec<&'a str>) {
    for value in lineage.as_object().into_iter().flat_map(|map| map.values()) {
        ids.extend(value.as_str());
        ids.extend(
            value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str),
        );
    }
}

fn history(database: &Connection, blobs: &BTreeSet<String>) -> Result<()> {
    let mut statement = database.prepare("SELECT ref, record FROM history_records")?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    for row in rows {
        let (reference, record): (String, Vec<u8>) = row?;
        let record = control::BuildHistoryRecord::decode(record.as_slice())?;
        for blob in [&record.logs, &record.trace, &record.external_error]
            .into_iter()
            .flatten()
        {
            ensure!(
                blobs.contains(&blob.digest),
                "build {reference} names {}, which isn't there",
                blob.digest
            );
        }
    }
    Ok(())
}

/// Images that are made here have all their blobs.
fn images(database: &Connection, root: &Path, blobs: &BTreeSet<String>) -> Result<()> {
    for target in strings(database, "SELECT descriptor FROM image_names")? {
        let mut rest = vec![serde_json::from_str::<Value>(&target)?];
        while let Some(descriptor) = rest.pop() {
            let Some(digest) = descriptor["digest"].as_str() else {
                bail!("no digest in {descriptor}")
            };
            ensure!(blobs.contains(digest), "an image names {digest}");
            let kind = descriptor["mediaType"].as_str().unwrap_or_default();
            if kind.contains("manifest") || kind.contains("index") {
                let path = root.join("content/blobs/sha256");
                let bytes = fs::read(path.join(digest.trim_start_matches("sha256:")))?;
                let mut document = serde_json::from_slice::<Value>(&bytes)?;
                for list in ["manifests", "layers"] {
                    if let Some(more) = document[list].as_array() {
                        rest.extend(more.iter().cloned());
                    }
                }
                if document["config"].is_object() {
                    rest.push(document["config"].take());
                }
            }
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<String>> {
    let read = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    read.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}
