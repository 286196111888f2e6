//! Manifests and configs that were read from registries, kept so that a build with a pinned image
//! needs no network. They live in the database, not among the blobs: nothing prunes them but age.

use bytes::Bytes;
use kiln_oci::Digest;
use kiln_store::{Database, StateRoot};
use rusqlite::OptionalExtension;

use crate::Result;

/// The least recently used beyond so many are dropped.
const MAX_DOCUMENTS: u32 = 4000;

/// Small documents by digest and repository. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Documents(Database);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it is, as the registry said.
    pub media_type: String,
    /// Its bytes, which have the digest that it was asked for by.
    pub bytes: Bytes,
}

impl Documents {
    /// The documents of a state root.
    pub fn new(root: &StateRoot) -> Self {
        Self(root.db())
    }

    /// The document, if it was read from that repository (`docker.io/library/alpine`) before.
    pub async fn get(&self, digest: &Digest, repository: &str) -> Result<Option<Document>> {
        let key = (digest.to_string(), repository.to_owned());
        let digest = *digest;
        let read = self.0.read(move |db| {
            db.prepare_cached(
                "SELECT media_type, bytes FROM documents WHERE digest = ?1 AND repository = ?2",
            )?
            .query_row(key, |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)))
            .optional()
        });
        let found = read.await?.filter(|(_, bytes)| Digest::of(bytes) == digest);
        Ok(found.map(|(media_type, bytes)| {
            self.touch(&digest);
            Document {
                media_type,
                bytes: bytes.into(),
            }
        }))
    }

    /// Keeps a document whose digest was verified.
    pub async fn put(&self, digest: &Digest, repository: &str, document: &Document) -> Result<()> {
        let key = (digest.to_string(), repository.to_owned());
        let document = document.clone();
        self.0
            .write(move |tx| {
                tx.prepare_cached("INSERT OR REPLACE INTO documents VALUES (?1, ?2, ?3, ?4, unixepoch())")?.execute((
                    key.0,
                    key.1,
                    document.media_type,
                    &document.bytes[..],
                ))?;
                tx.prepare_cached(
                    "DELETE FROM documents WHERE (digest, repository) IN
                     (SELECT digest, repository FROM documents ORDER BY used DESC LIMIT -1 OFFSET ?1)",
                )?
                .execute([MAX_DOCUMENTS])
            })
            .await?;
        Ok(())
    }

    /// Notes a use, at most once an hour.
    fn touch(&self, digest: &Digest) {
        let digest = digest.to_string();
        self.0.enqueue(move |tx| {
            tx.prepare_cached("UPDATE documents SET used = unixepoch() WHERE digest = ?1 AND used < unixepoch() - 3600")?
                .execute([digest])
                .map(drop)
        });
    }
}
