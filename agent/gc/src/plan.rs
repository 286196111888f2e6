//! What a run would remove, in which order and why, worked out from usage records alone.
//!
//! Without a bound on bytes a policy takes all that it means. With one it takes the least valuable
//! first until little enough is left. In BuildKit's order the ranks by last use and by number of uses, each
//! as a share, are added, and of two that are equal the one goes first that frees more bytes per second of
//! the time that making it again would take; in the order of cost only that counts.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use kiln_cache::{UsageKind, UsageRecord};
use kiln_ids::RefId;

use crate::{Disk, Policy, Reason};

/// In which order records go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// BuildKit's: by age and number of uses.
    #[default]
    Use,
    /// First what frees the most bytes per second of making it again.
    Cost,
}

/// What a run would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order: a record comes after all that is built on it.
    pub removals: Vec<PlannedRemoval>,
    /// Bytes that would be freed.
    pub freed: u64,
    /// Bytes that would be left.
    pub left: u64,
    /// Bytes that there were. What images share doesn't count.
    pub before: u64,
}

/// A record that a run would remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRemoval {
    /// What it is.
    pub record: UsageRecord,
    /// Which policy of the list takes it.
    pub policy: usize,
    /// Why.
    pub reason: Reason,
}

/// Works out what these policies, one after the other, would remove.
pub fn plan(
    records: &[UsageRecord],
    policies: &[Policy],
    order: Order,
    disk: Disk,
    now: SystemTime,
) -> Plan {
    let mut state = State::new(records, order, disk, now);
    let before = state.total;
    for (index, policy) in policies.iter().enumerate() {
        state.run(index, policy);
    }
    Plan {
        freed: state
            .removals
            .iter()
            .map(|removal| removal.record.size)
            .sum(),
        left: state.total,
        before,
        removals: state.removals,
    }
}

struct State<'a> {
    records: &'a [UsageRecord],
    index: HashMap<&'a RefId, usize>,
    /// Records that are built on each.
    children: Vec<usize>,
    gone: Vec<bool>,
    /// Bytes that aren't shared.
    total: u64,
    order: Order,
    disk: Disk,
    now: SystemTime,
    removals: Vec<PlannedRemoval>,
}

impl<'a> State<'a> {
    fn new(records: &'a [UsageRecord], order: Order, disk: Disk, now: SystemTime) -> Self {
        let index: HashMap<_, _> = records
            .iter()
            .enumerate()
            .map(|(i, record)| (&record.id, i))
            .collect();
        let mut children = vec![0; records.len()];
        for parent in records.iter().flat_map(|record| &record.parents) {
            if let Some(&i) = index.get(parent) {
                children[i] += 1;
            }
        }
        Self {
            records,
            index,
            children,
            gone: vec![false; records.len()],
            total: records
                .iter()
                .filter(|record| !record.shared)
                .map(|record| record.size)
                .sum(),
            order,
            disk,
            now,
            removals: Vec::new(),
        }
    }

    fn run(&mut self, policy_index: usize, policy: &Policy) {
        let meant: Vec<usize> = (0..self.records.len())
            .filter(|&i| !self.gone[i] && self.is_meant(policy, &self.records[i]))
            .collect();
        let keep = policy.keep_bytes(self.total, self.disk);
        let ranks = ranks(self.records, &meant, self.order);
        // Those that nothing is built on, in order; their parents join them as they go.
        let mut ready: BTreeSet<(usize, usize)> = ranks
            .iter()
            .filter(|(i, _)| self.children[**i] == 0)
            .map(|(&i, &rank)| (rank, i))
            .collect();
        while let Some(&(rank, i)) = ready.first() {
            if keep.is_some_and(|keep| self.total < keep) {
                return;
            }
            ready.remove(&(rank, i));
            let reason = match keep {
                Some(keep) => Reason::OverLimit {
                    used: self.total,
                    keep,
                },
                None if policy.keep_duration.is_zero() => Reason::Meant,
                None => Reason::Unused {
                    since: self.unused_for(&self.records[i]),
                },
            };
            for freed in self.take(i, policy_index, reason) {
                if let Some(&rank) = ranks.get(&freed) {
                    ready.insert((rank, freed));
                }
            }
        }
    }

    /// Removes a record from the picture; says which records nothing is built on any more.
    fn take(&mut self, i: usize, policy: usize, reason: Reason) -> Vec<usize> {
        let record = &self.records[i];
        self.gone[i] = true;
        if !record.shared {
            self.total = self.total.saturating_sub(record.size);
            self.disk.free = self.disk.free.saturating_add(record.size);
        }
        self.removals.push(PlannedRemoval {
            record: record.clone(),
            policy,
            reason,
        });
        let mut freed = Vec::new();
        for parent in &record.parents {
            if let Some(&parent) = self.index.get(parent) {
                self.children[parent] -= 1;
                if self.children[parent] == 0 {
                    freed.push(parent);
                }
            }
        }
        freed
    }

    fn is_meant(&self, policy: &Policy, record: &UsageRecord) -> bool {
        if record.in_use || record.pinned {
            return false;
        }
        let own = matches!(record.kind, UsageKind::Internal | UsageKind::Frontend);
        if !policy.all && (own || record.shared) {
            return false;
        }
        let is_fresh = !policy.keep_duration.is_zero()
            && record.last_used.is_some()
            && self.unused_for(record) < policy.keep_duration;
        !is_fresh && policy.filters.matches(record)
    }

    fn unused_for(&self, record: &UsageRecord) -> Duration {
        record
            .last_used
            .and_then(|used| self.now.duration_since(used).ok())
            .unwrap_or_default()
    }
}

/// The order in which records should go, the first one least.
fn ranks(records: &[UsageRecord], meant: &[usize], order_by: Order) -> HashMap<usize, usize> {
    let by_age = share(meant, |&i| records[i].last_used);
    let by_uses = share(meant, |&i| records[i].usage_count);
    let mut order: Vec<usize> = meant.to_vec();
    order.sort_by(|a, b| {
        let value = |i: &usize| by_age[i] + by_uses[i];
        let by_use = match order_by {
            Order::Use => value(a).total_cmp(&value(b)),
            Order::Cost => Ordering::Equal,
        };
        by_use
            .then_with(|| more_for_less(&records[*a], &records[*b]))
            .then_with(|| records[*a].id.cmp(&records[*b].id))
    });
    order
        .into_iter()
        .enumerate()
        .map(|(rank, i)| (i, rank))
        .collect()
}

/// For each, the rank of its value among the values that occur, as a share of their number.
fn share<K: Ord>(meant: &[usize], key: impl Fn(&usize) -> K) -> HashMap<usize, f64> {
    let values: BTreeSet<K> = meant.iter().map(&key).collect();
    let ranks: HashMap<usize, usize> = {
        let mut sorted: Vec<usize> = meant.to_vec();
        sorted.sort_by_key(&key);
        let mut rank = 0;
        let mut last: Option<K> = None;
        sorted
            .into_iter()
            .map(|i| {
                let value = key(&i);
                if last.as_ref() != Some(&value) {
                    rank += 1;
                    last = Some(value);
                }
                (i, rank)
            })
            .collect()
    };
    let count = values.len().max(1) as f64;
    ranks
        .into_iter()
        .map(|(i, rank)| (i, rank as f64 / count))
        .collect()
}

/// First what frees more bytes per second of making it again. What takes no known time is cheap.
fn more_for_less(a: &UsageRecord, b: &UsageRecord) -> Ordering {
    let worth = |record: &UsageRecord| {
        let seconds = record.build_time.map_or(0.0, |time| time.as_secs_f64());
        record.size as f64 / seconds.max(0.001)
    };
    worth(b).total_cmp(&worth(a))
}
