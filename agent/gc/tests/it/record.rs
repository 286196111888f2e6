//! Usage records made up for tests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_cache::{UsageKind, UsageRecord};
use kiln_ids::RefId;

/// The moment at which tests take place.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

/// A record of `size` bytes that was last used so many hours ago.
pub(crate) fn record(id: &str, size: u64, hours: u64, parents: &[&str]) -> UsageRecord {
    UsageRecord {
        id: RefId::new(id),
        mutable: false,
        in_use: false,
        size,
        parents: parents.iter().map(|id| RefId::new(*id)).collect(),
        created: now() - Duration::from_hours(hours),
        last_used: Some(now() - Duration::from_hours(hours)),
        usage_count: 1,
        description: format!("step {id}"),
        kind: UsageKind::Regular,
        shared: false,
        build_time: None,
        origin: None,
        pinned: false,
    }
}
