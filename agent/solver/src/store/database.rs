//! Keys that survive the daemon: the graph in memory, changes written behind to the tables
//! `cache_keys`, `cache_links` and `cache_results`.
//!
//! Invariants: what the database holds after a crash is a beginning of the sequence of changes, so a
//! row may name a key whose row is missing only by damage, and such rows are passed over; a result
//! that its store lost is released at the next start.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kiln_oci::Digest;
use kiln_store::Database;
use parking_lot::Mutex;
use rusqlite::{Connection, Row, Transaction, params};

use super::graph::{Change, Journal};
use super::memory::MemoryKeys;
use super::{InputRef, KeyCounts, KeyId, KeyRef, KeyStore, Link, StoredResult};

/// Keys in `state.db`.
#[derive(Debug)]
pub struct DatabaseKeys(MemoryKeys);

impl DatabaseKeys {
    /// Reads what is there. `exists` says whether the result store still has a result.
    pub fn open(
        database: &Database,
        exists: impl Fn(&str) -> bool,
    ) -> Result<Self, kiln_store::Error> {
        let past = database.read_blocking(read)?;
        let journal = Writer {
            database: database.clone(),
            pending: Arc::default(),
        };
        let keys = MemoryKeys::with_journal(Box::new(journal), past);
        for result in keys.result_ids() {
            if !exists(&result) {
                keys.release(&result);
            }
        }
        Ok(Self(keys))
    }
}

impl KeyStore for DatabaseKeys {
    fn exists(&self, key: KeyRef) -> bool {
        self.0.exists(key)
    }

    fn query(&self, inputs: &[InputRef], input: u32, record: &Digest) -> Vec<KeyId> {
        self.0.query(inputs, input, record)
    }

    fn commit(
        &self,
        record: &Digest,
        inputs: &[Vec<InputRef>],
        result: Option<StoredResult>,
    ) -> KeyId {
        self.0.commit(record, inputs, result)
    }

    fn results(&self, key: KeyRef) -> Vec<StoredResult> {
        self.0.results(key)
    }

    fn root_digest(&self, key: KeyId) -> Option<Digest> {
        self.0.root_digest(key)
    }

    fn parents(&self, child: KeyId) -> Vec<(KeyId, Link)> {
        self.0.parents(child)
    }

    fn keys_of(&self, result: &str) -> Vec<KeyId> {
        self.0.keys_of(result)
    }

    fn release(&self, result: &str) {
        self.0.release(result);
    }

    fn forget_root(&self, record: &Digest) {
        self.0.forget_root(record);
    }

    fn result_ids(&self) -> Vec<String> {
        self.0.result_ids()
    }

    fn counts(&self) -> KeyCounts {
        self.0.counts()
    }
}

/// Collects changes until the database's writer comes round to them.
struct Writer {
    database: Database,
    pending: Arc<Mutex<Vec<Change>>>,
}

impl Journal for Writer {
    fn record(&self, change: Change) {
        let mut pending = self.pending.lock();
        pending.push(change);
        if pending.len() == 1 {
            let pending = Arc::clone(&self.pending);
            self.database.enqueue(move |tx| {
                let changes = std::mem::take(&mut *pending.lock());
                changes.iter().try_for_each(|change| apply(tx, change))
            });
        }
    }
}

fn apply(tx: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::AddKey { key, root } => {
            let root = root.as_ref().map(|root| root.as_bytes().as_slice());
            tx.prepare_cached("INSERT OR REPLACE INTO cache_keys VALUES (?, ?)")?
                .execute(params![number(*key), root])?;
        }
        Change::RemoveKey(key) => {
            for sql in [
                "DELETE FROM cache_keys WHERE id = ?",
                "DELETE FROM cache_links WHERE parent = ?",
                "DELETE FROM cache_links WHERE child = ?",
                "DELETE FROM cache_results WHERE key = ?",
            ] {
                tx.prepare_cached(sql)?.execute([number(*key)])?;
            }
        }
        Change::AddLink {
            parent,
            link,
            child,
        } => {
            let selector = link.selector.as_ref();
            let selector: &[u8] = selector.map_or(&[], |digest| digest.as_bytes());
            tx.prepare_cached("INSERT OR IGNORE INTO cache_links VALUES (?, ?, ?, ?, ?)")?
                .execute(params![
                    number(*parent),
                    link.input,
                    link.record.as_bytes(),
                    selector,
                    number(*child)
                ])?;
        }
        Change::AddResult { key, id, created } => {
            tx.prepare_cached("INSERT OR REPLACE INTO cache_results VALUES (?, ?, ?)")?
                .execute(params![number(*key), id, nanoseconds(*created)])?;
        }
        Change::RemoveResult(id) => {
            tx.prepare_cached("DELETE FROM cache_results WHERE result = ?")?
                .execute([id])?;
        }
    }
    Ok(())
}

/// Everything, as the changes that would make it.
fn read(connection: &Connection) -> rusqlite::Result<Vec<Change>> {
    let mut past = Vec::new();
    let mut take = |sql: &str,
                    make: fn(&Row<'_>) -> rusqlite::Result<Option<Change>>|
     -> rusqlite::Result<()> {
        let mut statement = connection.prepare(sql)?;
        for change in statement.query_map([], make)? {
            past.extend(change?);
        }
        Ok(())
    };
    take("SELECT id, root FROM cache_keys", |row| {
        let root: Option<Vec<u8>> = row.get(1)?;
        Ok(Some(Change::AddKey {
            key: key(row, 0)?,
            root: root.as_deref().and_then(digest),
        }))
    })?;
    take(
        "SELECT parent, input, record, selector, child FROM cache_links",
        |row| {
            let record: Vec<u8> = row.get(2)?;
            let selector: Vec<u8> = row.get(3)?;
            let parent = key(row, 0)?;
            let child = key(row, 4)?;
            let input = row.get(1)?;
            Ok(digest(&record).map(|record| Change::AddLink {
                parent,
                link: Link {
                    input,
                    record,
                    selector: digest(&selector),
                },
                child,
            }))
        },
    )?;
    take("SELECT key, result, created FROM cache_results", |row| {
        let created: i64 = row.get(2)?;
        Ok(Some(Change::AddResult {
            key: key(row, 0)?,
            id: row.get(1)?,
            created: SystemTime::UNIX_EPOCH
                + Duration::from_nanos(u64::try_from(created).unwrap_or(0)),
        }))
    })?;
    Ok(past)
}

fn key(row: &Row<'_>, column: usize) -> rusqlite::Result<KeyId> {
    row.get(column).map(|id: i64| KeyId(id as u64))
}

fn number(key: KeyId) -> i64 {
    key.0 as i64
}

fn digest(bytes: &[u8]) -> Option<Digest> {
    bytes.try_into().ok().map(Digest::from_bytes)
}

fn nanoseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}
