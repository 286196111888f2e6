//! Disk usage and pruning for the control API.

use std::sync::Arc;

use async_trait::async_trait;
use kiln_cache::UsageRecord;
use kiln_control::{DiskUsage, PruneRequest, Records};
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_gc::{Collector, Filters, Policy, Trigger};
use tokio::sync::mpsc;

/// The records of the cache.
pub(crate) struct CacheRecords(Arc<Collector>);

impl CacheRecords {
    pub(crate) fn new(collector: Arc<Collector>) -> Self {
        Self(collector)
    }
}

fn shared(error: kiln_gc::Error) -> SharedError {
    Arc::new(error)
}

fn filters(texts: &[String]) -> Result<Filters, SharedError> {
    Filters::parse(texts).map_err(|error| WithDetail::kind(Arc::new(error), Kind::User).shared())
}

#[async_trait]
impl Records for CacheRecords {
    async fn usage(&self, request: DiskUsage) -> Result<Vec<UsageRecord>, SharedError> {
        self.0
            .disk_usage(&filters(&request.filters)?, request.age_limit)
            .await
            .map_err(shared)
    }

    async fn prune(
        &self,
        request: PruneRequest,
        removed: mpsc::Sender<UsageRecord>,
    ) -> Result<(), SharedError> {
        let policy = Policy {
            all: request.all,
            filters: filters(&request.filters)?,
            keep_duration: request.keep_duration,
            reserved_space: request.reserved_space,
            max_used_space: request.max_used_space,
            min_free_space: request.min_free_space,
        };
        // What is gone is gone, whether the client keeps up or not: records wait in memory.
        let (told, mut waiting) = mpsc::unbounded_channel();
        let prune = async {
            let told = told;
            self.0
                .prune(&[policy], Trigger::Prune, |record| {
                    let _ = told.send(record.clone());
                })
                .await
                .map_err(shared)
        };
        let forward = async {
            while let Some(record) = waiting.recv().await {
                if removed.send(record).await.is_err() {
                    break;
                }
            }
        };
        let (pruned, ()) = tokio::join!(prune, forward);
        pruned.map(|_| ())
    }
}
