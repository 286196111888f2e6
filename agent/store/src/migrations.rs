//! Migrations by number, each applied once and in order of numbers.
//!
//! Number ranges belong to crates: store 00xx, solver 01xx, cache and gc 02xx, content 03xx, history
//! 04xx, images 05xx. A range may get new migrations after a later range was applied, so the table
//! of applied ones is a set, not a version.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;

use crate::{Error, Result};

pub(crate) struct Migration {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

pub(crate) const ALL: &[Migration] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// Brings the database to the schema of `known`. Nothing is written when it is refused.
pub(crate) fn apply(connection: &mut Connection, root: &Path, known: &[Migration]) -> Result<()> {
    let applied = applied(connection)?;
    for (&number, (name, sql)) in &applied {
        let Some(migration) = known.iter().find(|one| one.number == number) else {
            let path = root.to_owned();
            return Err(Error::NewerSchema { path, number });
        };
        if migration.sql != sql {
            return Err(Error::ChangedMigration {
                path: root.to_owned(),
                number,
                name: name.clone(),
            });
        }
    }
    let missing = known
        .iter()
        .filter(|one| !applied.contains_key(&one.number));
    for migration in missing {
        let tx = connection.transaction()?;
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, sql TEXT NOT NULL) STRICT",
        )?;
        tx.execute_batch(migration.sql)?;
        tx.execute(
            "INSERT INTO schema_migrations VALUES (?1, ?2, ?3)",
            (migration.number, migration.name, migration.sql),
        )?;
        tx.commit()?;
    }
    Ok(())
}

fn applied(connection: &Connection) -> Result<BTreeMap<u32, (String, String)>> {
    let exists: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'schema_migrations')",
        (),
        |row| row.get(0),
    )?;
    if !exists {
        return Ok(BTreeMap::new());
    }
    let mut statement = connection.prepare("SELECT number, name, sql FROM schema_migrations")?;
    let rows = statement.query_map((), |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Migration = Migration {
        number: 1,
        name: "one",
        sql: "CREATE TABLE one (a) ",
    };
    const THREE: Migration = Migration {
        number: 301,
        name: "three",
        sql: "CREATE TABLE three (a)",
    };
    const TWO: Migration = Migration {
        number: 201,
        name: "two",
        sql: "CREATE TABLE two (a)",
    };

    #[test]
    fn each_is_applied_once_and_unknown_ones_are_refused() {
        let mut db = Connection::open_in_memory().unwrap();
        let root = Path::new("/r");
        apply(&mut db, root, &[ONE, THREE]).unwrap();
        apply(&mut db, root, &[ONE, THREE]).unwrap();
        // A range in the middle grows later.
        apply(&mut db, root, &[ONE, TWO, THREE]).unwrap();
        db.execute_batch("INSERT INTO two VALUES (1)").unwrap();
        let refused = apply(&mut db, root, &[ONE, TWO]);
        assert!(matches!(
            refused,
            Err(Error::NewerSchema { number: 301, .. })
        ));
        let changed = Migration {
            sql: "CREATE TABLE two (b)",
            ..TWO
        };
        let refused = apply(&mut db, root, &[ONE, changed, THREE]);
        assert!(matches!(
            refused,
            Err(Error::ChangedMigration { number: 201, .. })
        ));
    }

    #[test]
    fn a_broken_migration_leaves_nothing() {
        let mut db = Connection::open_in_memory().unwrap();
        let broken = Migration {
            number: 2,
            name: "x",
            sql: "CREATE TABLE x (a); CREATE TABEL y",
        };
        assert!(apply(&mut db, Path::new("/r"), &[ONE, broken]).is_err());
        assert!(db.execute_batch("SELECT * FROM x").is_err());
        assert_eq!(applied(&db).unwrap().len(), 1);
    }

    #[test]
    fn the_real_ones_apply() {
        let mut db = Connection::open_in_memory().unwrap();
        crate::database::register_epoch_function(&db, std::sync::Arc::default()).unwrap();
        apply(&mut db, Path::new("/r"), ALL).unwrap();
        let numbers: Vec<_> = ALL.iter().map(|one| one.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }
}
