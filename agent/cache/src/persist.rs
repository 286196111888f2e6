//! Records as rows. All writes are queued and keep their order; a barrier makes them last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_ids::RefId;
use kiln_oci::Digest;
use kiln_store::Database;
use serde::{Deserialize, Serialize};

use crate::record::{BlobVariant, Layer, Lineage, Record};
use crate::{Origin, UsageKind};

/// The name of the hash tree among a record's values.
pub(crate) const TREE: &str = "contenthash.v1";

/// The body of a record's row.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecordRow {
    pub(crate) lineage: LineageRow,
    pub(crate) layer: Option<String>,
    pub(crate) owns_layer: bool,
    pub(crate) mutable: bool,
    pub(crate) retain: bool,
    pub(crate) description: String,
    pub(crate) kind: String,
    pub(crate) index: Vec<String>,
    /// Milliseconds since 1970.
    pub(crate) created: i64,
    pub(crate) build_millis: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Arc<Origin>>,
    pub(crate) pinned: bool,
    pub(crate) shares_with: Option<RefId>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LineageRow {
    Base,
    Layer(RefId),
    Merge(Vec<RefId>),
    Diff(Option<RefId>, Option<RefId>),
}

/// The body of a layer's row.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerRow {
    pub(crate) diff_id: Option<Digest>,
    #[serde(default)]
    pub(crate) implied: Vec<PathBuf>,
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

pub(crate) fn from_millis(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

fn body(record: &Record) -> String {
    let id = |record: &Arc<Record>| record.id.clone();
    let data = record.data.lock();
    let row = RecordRow {
        lineage: match &record.lineage {
            Lineage::Base => LineageRow::Base,
            Lineage::Layer(parent) => LineageRow::Layer(id(parent)),
            Lineage::Merge(parents) => LineageRow::Merge(parents.iter().map(id).collect()),
            Lineage::Diff { lower, upper } => {
                LineageRow::Diff(lower.as_ref().map(id), upper.as_ref().map(id))
            }
        },
        layer: record.layer.as_ref().map(|layer| layer.snapshot.clone()),
        owns_layer: data.owns_layer,
        mutable: data.mutable,
        retain: data.retain,
        description: data.description.clone(),
        kind: data.kind.to_string(),
        index: data.index.clone(),
        created: millis(data.created),
        build_millis: data
            .build_time
            .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        origin: data.origin.clone(),
        pinned: data.pinned,
        shares_with: data.shares_with.clone(),
    };
    json(&row)
}

/// JSON of a row of ours, which always can be written.
fn json(row: &impl Serialize) -> String {
    serde_json::to_string(row).unwrap_or_default()
}

/// Writes a record's row with the current epoch; its usage stays.
pub(crate) fn put_record(db: &Database, record: &Record) {
    let (id, body) = (record.id.to_string(), body(record));
    db.enqueue(move |tx| {
        tx.prepare_cached(
            "INSERT INTO cache_records (id, epoch, body) VALUES (?1, current_epoch(), ?2)
             ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, body = excluded.body",
        )?
        .execute((id, body))
        .map(drop)
    });
}

/// Writes what may be lost without harm; the epoch stays.
pub(crate) fn amend_record(db: &Database, record: &Record) {
    let (id, body) = (record.id.to_string(), body(record));
    db.enqueue(move |tx| {
        tx.prepare_cached("UPDATE cache_records SET body = ?2 WHERE id = ?1")?
            .execute((id, body))
            .map(drop)
    });
}

/// Writes when and how often a record was used, and its size.
pub(crate) fn put_usage(db: &Database, record: &Record) {
    let data = record.data.lock();
    let row = (
        record.id.to_string(),
        data.last_used.map(millis),
        data.usage_count.cast_signed(),
        data.files_size.map(u64::cast_signed),
    );
    drop(data);
    db.enqueue(move |tx| {
        tx.prepare_cached(
            "UPDATE cache_records SET last_used = ?2, usage_count = ?3, size = ?4 WHERE id = ?1",
        )?
        .execute(row)
        .map(drop)
    });
}

/// Writes that a layer's files are there.
pub(crate) fn put_layer(db: &Database, layer: &Layer) {
    let info = layer.info.lock();
    let row = LayerRow {
        diff_id: info.diff_id,
        implied: info.implied.clone(),
    };
    drop(info);
    let (snapshot, body) = (layer.snapshot.clone(), json(&row));
    db.enqueue(move |tx| {
        tx.prepare_cached(
            "INSERT INTO cache_layers VALUES (?1, current_epoch(), ?2)
             ON CONFLICT (snapshot) DO UPDATE SET epoch = excluded.epoch, body = excluded.body",
        )?
        .execute((snapshot, body))
        .map(drop)
    });
}

/// Writes the forms of a layer. Rows that are there already keep their epoch.
pub(crate) fn put_blobs(db: &Database, layer: &Layer) {
    let blobs: Vec<String> = layer.info.lock().blobs.iter().map(json).collect();
    let snapshot = layer.snapshot.clone();
    db.enqueue(move |tx| {
        let mut insert = tx.prepare_cached(
            "INSERT INTO cache_blobs VALUES (?1, ?2, current_epoch(), ?3)
             ON CONFLICT (snapshot, position) DO UPDATE SET body = excluded.body",
        )?;
        for (position, body) in blobs.into_iter().enumerate() {
            insert.execute((&snapshot, position.cast_signed(), body))?;
        }
        Ok(())
    });
}

/// Writes a value of a record.
pub(crate) fn put_value(db: &Database, record: &RefId, name: &str, value: Vec<u8>) {
    let (record, name) = (record.to_string(), name.to_owned());
    db.enqueue(move |tx| {
        tx.prepare_cached(
            "INSERT OR REPLACE INTO cache_values VALUES (?1, ?2, current_epoch(), ?3)",
        )?
        .execute((record, name, value))
        .map(drop)
    });
}

/// Removes all rows of a record, and of its layer if it owns it.
pub(crate) fn delete_record(db: &Database, id: &RefId, layer: Option<String>) {
    let id = id.to_string();
    db.enqueue(move |tx| {
        tx.prepare_cached("DELETE FROM cache_records WHERE id = ?1")?
            .execute([&id])?;
        tx.prepare_cached("DELETE FROM cache_values WHERE record = ?1")?
            .execute([&id])?;
        if let Some(layer) = layer {
            tx.prepare_cached("DELETE FROM cache_layers WHERE snapshot = ?1")?
                .execute([&layer])?;
            tx.prepare_cached("DELETE FROM cache_blobs WHERE snapshot = ?1")?
                .execute([&layer])?;
        }
        Ok(())
    });
}

/// Removes what rows say of the files of layers, and of forms at these positions.
pub(crate) fn delete_layer_rows(db: &Database, layers: Vec<String>, blobs: Vec<(String, i64)>) {
    db.enqueue(move |tx| {
        let mut delete = tx.prepare_cached("DELETE FROM cache_layers WHERE snapshot = ?1")?;
        for layer in layers {
            delete.execute([layer])?;
        }
        let mut delete =
            tx.prepare_cached("DELETE FROM cache_blobs WHERE snapshot = ?1 AND position = ?2")?;
        for blob in blobs {
            delete.execute(blob)?;
        }
        Ok(())
    });
}

/// Removes what rows say of layers that no record names, and values of records that aren't there.
pub(crate) fn delete_unnamed(db: &Database, layers: Vec<String>) {
    db.enqueue(move |tx| {
        for layer in layers {
            tx.prepare_cached("DELETE FROM cache_layers WHERE snapshot = ?1")?
                .execute([&layer])?;
            tx.prepare_cached("DELETE FROM cache_blobs WHERE snapshot = ?1")?
                .execute([&layer])?;
        }
        tx.execute(
            "DELETE FROM cache_values WHERE record NOT IN (SELECT id FROM cache_records)",
            (),
        )
        .map(drop)
    });
}

/// All rows, as the start reads them.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) records: Vec<StoredRecord>,
    pub(crate) layers: Vec<(String, LayerRow)>,
    /// With their positions.
    pub(crate) blobs: Vec<(String, i64, BlobVariant)>,
}

/// A record's row.
#[derive(Debug)]
pub(crate) struct StoredRecord {
    pub(crate) id: RefId,
    pub(crate) row: RecordRow,
    pub(crate) kind: UsageKind,
    pub(crate) last_used: Option<SystemTime>,
    pub(crate) usage_count: u64,
    pub(crate) size: Option<u64>,
}

/// Reads all rows. Those that can't be understood are left out; what depends on them goes too.
pub(crate) fn read_all(connection: &rusqlite::Connection) -> rusqlite::Result<Rows> {
    let mut rows = Rows::default();
    let mut statement =
        connection.prepare("SELECT id, body, last_used, usage_count, size FROM cache_records")?;
    let mut found = statement.query(())?;
    while let Some(row) = found.next()? {
        let id: String = row.get(0)?;
        let body: String = row.get(1)?;
        let parsed = serde_json::from_str::<RecordRow>(&body)
            .ok()
            .and_then(|body| Some((body.kind.parse::<UsageKind>().ok()?, body)));
        let Some((kind, body)) = parsed else {
            tracing::warn!(record = id, "a cache record can't be read and is dropped");
            continue;
        };
        rows.records.push(StoredRecord {
            id: RefId::new(id),
            row: body,
            kind,
            last_used: row.get::<_, Option<i64>>(2)?.map(from_millis),
            usage_count: row.get::<_, i64>(3)?.cast_unsigned(),
            size: row.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned),
        });
    }
    let mut statement = connection.prepare("SELECT snapshot, body FROM cache_layers")?;
    let mut found = statement.query(())?;
    while let Some(row) = found.next()? {
        if let Ok(body) = serde_json::from_str(&row.get::<_, String>(1)?) {
            rows.layers.push((row.get(0)?, body));
        }
    }
    let mut statement = connection
        .prepare("SELECT snapshot, position, body FROM cache_blobs ORDER BY snapshot, position")?;
    let mut found = statement.query(())?;
    while let Some(row) = found.next()? {
        if let Ok(body) = serde_json::from_str(&row.get::<_, String>(2)?) {
            rows.blobs.push((row.get(0)?, row.get(1)?, body));
        }
    }
    Ok(rows)
}

/// A value of a record.
pub(crate) fn read_value(
    connection: &rusqlite::Connection,
    record: &RefId,
    name: &str,
) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut statement = connection
        .prepare_cached("SELECT value FROM cache_values WHERE record = ?1 AND name = ?2")?;
    let mut rows = statement.query((record.as_str(), name))?;
    rows.next()?.map(|row| row.get(0)).transpose()
}
