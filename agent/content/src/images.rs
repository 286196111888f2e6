//! Names of the local image store.

use kiln_oci::{Descriptor, Reference};
use kiln_store::{Database, Epochs, StateRoot};
use rusqlite::OptionalExtension;

use crate::Result;

/// Names and what they stand for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageTable {
    database: Database,
    epochs: Epochs,
}

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedImage {
    /// The full name: `docker.io/library/alpine:latest`.
    pub name: String,
    /// A manifest or an index.
    pub target: Descriptor,
    /// When the name was first set, in seconds since 1970.
    pub created: i64,
    /// When it was last set.
    pub updated: i64,
}

impl ImageTable {
    /// The table of a state root.
    pub fn new(root: &StateRoot) -> Self {
        Self {
            database: root.db(),
            epochs: root.epochs(),
        }
    }

    /// Sets a name. Returns once the name, and the blobs that were committed before, are durable. The blobs
    /// come first: a name has no epoch, so it may reach the disk before a barrier has ended.
    pub async fn set(&self, name: &Reference, target: &Descriptor) -> Result<()> {
        self.epochs.barrier().await?;
        let name = name.to_string();
        let target = target.clone();
        self.database
            .write(move |tx| {
                tx.prepare_cached(
                    "INSERT INTO image_names VALUES (?1, ?2, unixepoch(), unixepoch())
                     ON CONFLICT (name) DO UPDATE SET descriptor = excluded.descriptor, updated = excluded.updated",
                )?
                .execute((name, to_json(&target)?))
            })
            .await?;
        Ok(self.epochs.barrier().await?)
    }

    /// What a name stands for.
    pub async fn get(&self, name: &Reference) -> Result<Option<NamedImage>> {
        let name = name.to_string();
        let read = self.database.read(move |db| {
            db.prepare_cached(
                "SELECT name, descriptor, created, updated FROM image_names WHERE name = ?1",
            )?
            .query_row([name], from_row)
            .optional()
        });
        Ok(read.await?)
    }

    /// All names, sorted.
    pub async fn list(&self) -> Result<Vec<NamedImage>> {
        let read = self.database.read(|db| {
            db.prepare_cached(
                "SELECT name, descriptor, created, updated FROM image_names ORDER BY name",
            )?
            .query_map((), from_row)?
            .collect()
        });
        Ok(read.await?)
    }

    /// Removes a name; whether it was there. The blobs stay until they are pruned.
    pub async fn remove(&self, name: &Reference) -> Result<bool> {
        let name = name.to_string();
        let removed = self
            .database
            .write(move |tx| {
                tx.prepare_cached("DELETE FROM image_names WHERE name = ?1")?
                    .execute([name])
            })
            .await?;
        Ok(removed > 0)
    }
}

fn to_json(target: &Descriptor) -> rusqlite::Result<String> {
    serde_json::to_string(target)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<NamedImage> {
    let text: String = row.get(1)?;
    let target = serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, error.into())
    })?;
    Ok(NamedImage {
        name: row.get(0)?,
        target,
        created: row.get(2)?,
        updated: row.get(3)?,
    })
}
