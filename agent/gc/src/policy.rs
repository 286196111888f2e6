//! What may go and how much may stay.

use std::path::Path;
use std::time::Duration;

use kiln_config::{DiskSpace, GcPolicyConfig, Seconds, WorkerConfig};

use crate::{Error, Filters};

/// What the disk of the state root has room for, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// All of it.
    pub total: u64,
    /// Not used.
    pub free: u64,
}

impl Disk {
    /// Asks the file system that `path` is on.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let stat = rustix::fs::statvfs(path).map_err(|e| Error::Disk {
            path: path.to_owned(),
            source: e.into(),
        })?;
        Ok(Self {
            total: stat.f_frsize.saturating_mul(stat.f_blocks),
            free: stat.f_frsize.saturating_mul(stat.f_bfree),
        })
    }
}

/// One rule of garbage collection, or one request to prune. 0 means: no bound.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Also records of the engine's own, of frontends, and those that images share.
    pub all: bool,
    /// Which records.
    pub filters: Filters,
    /// Only those that weren't used for this long.
    pub keep_duration: Duration,
    /// The cache isn't pruned below this many bytes.
    pub reserved_space: u64,
    /// The cache is pruned down to this many bytes.
    pub max_used_space: u64,
    /// The cache is pruned until so many bytes of the disk are free.
    pub min_free_space: u64,
}

/// How long what is easily made again is kept when there is more than [`EASY_BYTES`] of it.
const EASY_AGE: Duration = Duration::from_hours(48);
const EASY_BYTES: u64 = 512_000_000;
/// How long anything is kept without being used.
const MAX_AGE: Duration = Duration::from_hours(60 * 24);
const RESERVED_BYTES: u64 = 10_000_000_000;
const MAX_BYTES: u64 = 100_000_000_000;
/// The ceiling where nobody set one, in percent of the disk.
const CEILING_PERCENT: u8 = 80;

impl Policy {
    /// A request that removes all that isn't in use and of regular kinds.
    pub fn everything(all: bool) -> Self {
        Self {
            all,
            ..Self::default()
        }
    }

    /// How many bytes may stay; `None` where that is no matter and all that is meant goes.
    pub(crate) fn keep_bytes(&self, total: u64, disk: Disk) -> Option<u64> {
        if self.max_used_space == 0 && self.reserved_space == 0 && self.min_free_space == 0 {
            return None;
        }
        let mut keep = self.max_used_space;
        let excess = self.min_free_space.saturating_sub(disk.free);
        if excess > 0 {
            let rest = total.saturating_sub(excess);
            keep = if keep == 0 { rest } else { keep.min(rest) };
        } else if self.min_free_space != 0 && keep == 0 {
            keep = total;
        }
        Some(keep.max(self.reserved_space)).filter(|keep| *keep > 0)
    }

    /// The policies of a worker's configuration: its own, else BuildKit's defaults for this disk. Where none
    /// of them bounds the whole cache, a last one does, with the larger part of the disk: a cache that
    /// nothing bounds ends as a full disk. Empty where collection is switched off.
    pub fn from_config(config: &WorkerConfig, disk: Disk) -> Result<Vec<Self>, Error> {
        if config.gc == Some(false) {
            return Ok(Vec::new());
        }
        let mut policies = if config.gc_policy.is_empty() {
            Self::defaults(config, disk)?
        } else {
            config
                .gc_policy
                .iter()
                .map(|policy| Self::from_policy(policy, disk))
                .collect::<Result<_, _>>()?
        };
        Self::add_ceiling(&mut policies, disk);
        Ok(policies)
    }

    /// Makes sure that some policy bounds the whole cache.
    pub fn add_ceiling(policies: &mut Vec<Self>, disk: Disk) {
        if policies.iter().any(Self::is_ceiling) {
            return;
        }
        policies.push(Self {
            all: true,
            reserved_space: percent(10, disk).min(RESERVED_BYTES),
            max_used_space: percent(CEILING_PERCENT, disk),
            ..Self::default()
        });
    }

    /// Whether it bounds all records that may go at all, of any age and kind.
    fn is_ceiling(&self) -> bool {
        self.all
            && self.max_used_space > 0
            && self.keep_duration.is_zero()
            && self
                .filters
                .texts()
                .iter()
                .all(|text| text.trim().is_empty())
    }

    fn from_policy(config: &GcPolicyConfig, disk: Disk) -> Result<Self, Error> {
        Ok(Self {
            all: config.all,
            filters: Filters::parse(&config.filters)?,
            keep_duration: config
                .keep_duration
                .map_or(Duration::ZERO, |Seconds(age)| age),
            reserved_space: bytes(config.reserved_space(), disk),
            max_used_space: bytes(config.max_used_space, disk),
            min_free_space: bytes(config.min_free_space, disk),
        })
    }

    fn defaults(config: &WorkerConfig, disk: Disk) -> Result<Vec<Self>, Error> {
        let mut reserved = bytes(config.reserved_space.or(config.gc_keep_storage), disk);
        let mut max_used = bytes(config.max_used_space, disk);
        let mut min_free = bytes(config.min_free_space, disk);
        if reserved == 0 && max_used == 0 && min_free == 0 {
            reserved = percent(10, disk).min(RESERVED_BYTES);
            max_used = percent(80, disk).min(MAX_BYTES);
            min_free = percent(20, disk);
        }
        let capped = Self {
            reserved_space: reserved,
            max_used_space: max_used,
            min_free_space: min_free,
            ..Self::default()
        };
        Ok(vec![
            Self {
                filters: Filters::parse(&[
                    "type==source.local",
                    "type==exec.cachemount",
                    "type==source.git.checkout",
                ])?,
                keep_duration: EASY_AGE,
                max_used_space: EASY_BYTES,
                ..Self::default()
            },
            Self {
                keep_duration: MAX_AGE,
                ..capped.clone()
            },
            capped.clone(),
            Self {
                all: true,
                ..capped
            },
        ])
    }
}

/// An amount in bytes; 0 where there is none.
fn bytes(space: Option<DiskSpace>, disk: Disk) -> u64 {
    space.map_or(0, |space| space.bytes_of(disk.total))
}

fn percent(share: u8, disk: Disk) -> u64 {
    DiskSpace::Percent(share).bytes_of(disk.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_stay() {
        let disk = Disk {
            total: 1000,
            free: 100,
        };
        let policy = |reserved_space, max_used_space, min_free_space| Policy {
            reserved_space,
            max_used_space,
            min_free_space,
            ..Policy::default()
        };
        for (policy, want) in [
            (policy(0, 0, 0), None),
            (policy(0, 300, 0), Some(300)),
            (policy(400, 300, 0), Some(400)),
            (policy(0, 0, 50), Some(500)),
            (policy(0, 0, 150), Some(450)),
            (policy(0, 460, 150), Some(450)),
            (policy(480, 460, 150), Some(480)),
            (policy(0, 0, 900), None),
        ] {
            assert_eq!(policy.keep_bytes(500, disk), want, "{policy:?}");
        }
    }
}
