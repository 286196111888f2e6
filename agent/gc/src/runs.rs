//! The log of runs in `state.db`: what went, when and why.
//!
//! A run of the policies that finds nothing to remove leaves no entry, for there is one after every build;
//! one that somebody asked for always does. Of a large run the removals that freed the most are kept, and
//! the numbers are those of the whole. A run that is cut off is logged as far as it came.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_cache::UsageKind;
use kiln_ids::RefId;
use kiln_store::Database;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{Error, PlannedRemoval};

/// Runs that are remembered.
const KEPT_RUNS: i64 = 500;
/// Removals that are remembered of one run.
const KEPT_REMOVALS: usize = 1000;

/// What began a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The policies, after a build.
    Policy,
    /// A client's prune.
    Prune,
    /// A plan that a client has seen.
    Plan,
    /// The disk filled up while builds ran.
    Pressure,
}

impl Trigger {
    /// One word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Prune => "prune",
            Self::Plan => "plan",
            Self::Pressure => "pressure",
        }
    }

    /// Whether somebody asked for it and looks for it in the log.
    const fn is_asked_for(self) -> bool {
        matches!(self, Self::Prune | Self::Plan)
    }
}

/// A run of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Counts up.
    pub id: i64,
    /// [`Trigger::as_str`].
    pub trigger: String,
    /// When it began.
    pub started: SystemTime,
    /// When it was over, or cut off.
    pub finished: SystemTime,
    /// How many records it removed.
    pub records: u64,
    /// How many bytes they had.
    pub bytes: u64,
    /// What it removed, in order; of a large run the largest.
    pub removals: Vec<Removal>,
}

/// A record that a run removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The record.
    pub id: RefId,
    /// What people saw of it.
    pub description: String,
    /// Its size.
    pub bytes: u64,
    /// How long making it had taken, in milliseconds; 0 where that isn't known.
    pub rebuild_millis: u64,
    /// Which policy of the list took it.
    pub policy: usize,
    /// Why, in words.
    pub reason: String,
    /// [`UsageKind::as_str`].
    pub kind: String,
    /// When it was last used, in milliseconds since 1970.
    pub last_used_millis: Option<i64>,
}

impl From<&PlannedRemoval> for Removal {
    fn from(planned: &PlannedRemoval) -> Self {
        let record = &planned.record;
        Self {
            id: record.id.clone(),
            description: record.description.clone(),
            bytes: record.size,
            rebuild_millis: record.build_time.map_or(0, |time| {
                u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
            }),
            policy: planned.policy,
            reason: planned.reason.to_string(),
            kind: UsageKind::as_str(record.kind).to_owned(),
            last_used_millis: record.last_used.map(millis),
        }
    }
}

impl Removal {
    /// When it was last used.
    pub fn last_used(&self) -> Option<SystemTime> {
        self.last_used_millis.map(from_millis)
    }
}

/// A run under way. It is logged when this is dropped.
pub(crate) struct Running {
    db: Database,
    trigger: Trigger,
    started: SystemTime,
    finished: Option<SystemTime>,
    records: u64,
    bytes: u64,
    removals: Vec<Removal>,
    /// Where the entry's number will be.
    logged: Arc<Mutex<Option<i64>>>,
}

impl Running {
    pub(crate) fn begin(db: &Database, trigger: Trigger) -> Self {
        Self {
            db: db.clone(),
            trigger,
            started: SystemTime::now(),
            finished: None,
            records: 0,
            bytes: 0,
            removals: Vec::new(),
            logged: Arc::default(),
        }
    }

    pub(crate) fn removed(&mut self, planned: &PlannedRemoval) {
        self.records += 1;
        self.bytes += planned.record.size;
        self.removals.push(planned.into());
        // Twice as many, so that it is rarely done.
        if self.removals.len() >= 2 * KEPT_REMOVALS {
            keep_largest(&mut self.removals);
        }
    }

    /// Logs the run and tells what it did.
    pub(crate) async fn end(mut self) -> Result<Run, Error> {
        self.finished = Some(SystemTime::now());
        let (db, logged) = (self.db.clone(), Arc::clone(&self.logged));
        let mut run = Run {
            id: 0,
            trigger: self.trigger.as_str().to_owned(),
            // As it can be read again.
            started: from_millis(millis(self.started)),
            finished: from_millis(millis(self.finished.unwrap_or_else(SystemTime::now))),
            records: self.records,
            bytes: self.bytes,
            removals: self.removals.clone(),
        };
        keep_largest(&mut run.removals);
        drop(self);
        db.write(|_| Ok(())).await?;
        run.id = logged.lock().unwrap_or_default();
        Ok(run)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.records == 0 && !self.trigger.is_asked_for() {
            return;
        }
        let mut removals = std::mem::take(&mut self.removals);
        keep_largest(&mut removals);
        let row = (
            self.trigger.as_str(),
            millis(self.started),
            millis(self.finished.unwrap_or_else(SystemTime::now)),
            self.records.cast_signed(),
            self.bytes.cast_signed(),
            serde_json::to_string(&removals).unwrap_or_default(),
        );
        let logged = Arc::clone(&self.logged);
        self.db.enqueue(move |tx| {
            tx.prepare_cached(
                "INSERT INTO gc_runs (started_by, started, finished, records, bytes, removals)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(row)?;
            let id = tx.last_insert_rowid();
            *logged.lock() = Some(id);
            tx.prepare_cached("DELETE FROM gc_runs WHERE id <= ?1")?
                .execute([id - KEPT_RUNS])
                .map(drop)
        });
    }
}

/// The removals that freed the most, in their order.
fn keep_largest(removals: &mut Vec<Removal>) {
    if removals.len() <= KEPT_REMOVALS {
        return;
    }
    let mut sizes: Vec<u64> = removals.iter().map(|removal| removal.bytes).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let least = sizes[KEPT_REMOVALS - 1];
    let above = sizes.iter().take_while(|size| **size > least).count();
    let mut of_the_least = KEPT_REMOVALS - above;
    removals.retain(|removal| {
        let is_equal = removal.bytes == least && of_the_least > 0;
        of_the_least -= usize::from(is_equal);
        removal.bytes > least || is_equal
    });
}

/// Runs of the past, the newest first.
pub(crate) async fn list(db: &Database, limit: u32) -> Result<Vec<Run>, Error> {
    let runs = db.read(move |connection| {
        let mut statement = connection.prepare(
            "SELECT id, started_by, started, finished, records, bytes, removals
             FROM gc_runs ORDER BY id DESC LIMIT ?1",
        )?;
        let rows = statement.query_map([limit], |row| {
            let removals: String = row.get(6)?;
            Ok(Run {
                id: row.get(0)?,
                trigger: row.get(1)?,
                started: from_millis(row.get(2)?),
                finished: from_millis(row.get(3)?),
                records: row.get::<_, i64>(4)?.cast_unsigned(),
                bytes: row.get::<_, i64>(5)?.cast_unsigned(),
                // The numbers are worth showing even if the list can't be read.
                removals: serde_json::from_str(&removals).unwrap_or_default(),
            })
        })?;
        rows.collect()
    });
    Ok(runs.await?)
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn from_millis(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_large_run_the_largest_are_kept_in_order() {
        let removal = |n: u64| Removal {
            id: RefId::new(n.to_string()),
            description: String::new(),
            bytes: n % 10,
            rebuild_millis: 0,
            policy: 0,
            reason: String::new(),
            kind: String::new(),
            last_used_millis: None,
        };
        let mut removals: Vec<_> = (0..1500).map(removal).collect();
        keep_largest(&mut removals);
        assert_eq!(removals.len(), KEPT_REMOVALS);
        let of = |size: u64| removals.iter().filter(|one| one.bytes == size).count();
        assert_eq!((of(9), of(4), of(3), of(2)), (150, 150, 100, 0));
        let ids: Vec<u64> = removals
            .iter()
            .map(|one| one.id.as_str().parse().unwrap_or(0))
            .collect();
        assert!(ids.is_sorted());
    }
}
