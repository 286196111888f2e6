//! The seam to disk usage and pruning, and its messages.

use std::time::Duration;

use async_trait::async_trait;
use kiln_cache::UsageRecord;
use kiln_errdefs::SharedError;
use kiln_progress::wire::timestamp;
use kiln_proto::moby::buildkit::v1 as control;
use tokio::sync::mpsc;

/// What `DiskUsage` asks for.
#[derive(Debug, Clone, Default)]
pub struct DiskUsage {
    /// Containerd's filter syntax.
    pub filters: Vec<String>,
    /// Only records not used for this long.
    pub age_limit: Duration,
}

/// What `Prune` asks for.
#[derive(Debug, Clone, Default)]
pub struct PruneRequest {
    /// Containerd's filter syntax.
    pub filters: Vec<String>,
    /// Also internal, frontend and shared records.
    pub all: bool,
    /// Records used within this time stay.
    pub keep_duration: Duration,
    /// This much stays.
    pub reserved_space: u64,
    /// No more than this stays.
    pub max_used_space: u64,
    /// Free space of the disk that is aimed at.
    pub min_free_space: u64,
}

/// The records of the cache, as this API sees them.
#[async_trait]
pub trait Records: Send + Sync {
    /// What they occupy.
    async fn usage(&self, request: DiskUsage) -> Result<Vec<UsageRecord>, SharedError>;
    /// Removes some, and sends each one that is gone.
    async fn prune(
        &self,
        request: PruneRequest,
        removed: mpsc::Sender<UsageRecord>,
    ) -> Result<(), SharedError>;
}

pub(crate) fn usage_request(request: control::DiskUsageRequest) -> DiskUsage {
    DiskUsage {
        filters: request.filter,
        age_limit: nanoseconds(request.age_limit),
    }
}

pub(crate) fn prune_request(request: control::PruneRequest) -> PruneRequest {
    let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
    PruneRequest {
        filters: request.filter,
        all: request.all,
        keep_duration: nanoseconds(request.keep_duration),
        reserved_space: bytes(request.reserved_space),
        max_used_space: bytes(request.max_used_space),
        min_free_space: bytes(request.min_free_space),
    }
}

fn nanoseconds(number: i64) -> Duration {
    Duration::from_nanos(u64::try_from(number).unwrap_or(0))
}

pub(crate) fn usage_record(record: UsageRecord) -> control::UsageRecord {
    #[expect(
        deprecated,
        reason = "the field exists; clients of any age read `parents`"
    )]
    control::UsageRecord {
        id: record.id.to_string(),
        mutable: record.mutable,
        in_use: record.in_use,
        size: record.size as i64,
        parent: String::new(),
        created_at: Some(timestamp(record.created)),
        last_used_at: record.last_used.map(timestamp),
        usage_count: record.usage_count as i64,
        description: record.description,
        record_type: record.kind.as_str().to_owned(),
        shared: record.shared,
        parents: record.parents.iter().map(ToString::to_string).collect(),
    }
}
