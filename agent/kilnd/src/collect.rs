//! Garbage collection by itself: some time after a build, or when the disk fills up during one; not more often
//! than once a minute. And memory that a burst of work needed goes back to the system once nothing runs.

use std::sync::Arc;
use std::time::Duration;

use kiln_config::WorkerConfig;
use kiln_engine::{Engine, GcPolicy};
use kiln_gc::{Collector, Disk, InForce, Policy, Trigger};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

/// Builds come in bursts: what the next one needs isn't collected between two of them.
const AFTER_BUILD: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(60);
/// How often the disk is looked at while builds run, and what part of it must be free.
const LOOK: Duration = Duration::from_secs(10);
const LOW_PERCENT: u64 = 5;
/// Memory is given back when nothing has ended for so long: the next build of a burst would ask for it again.
const QUIET: Duration = Duration::from_secs(5);

/// The policies of this daemon: the configuration's with what flags say instead.
pub(crate) fn policies(settings: &Settings) -> anyhow::Result<InForce> {
    let gc = &settings.gc;
    let config = WorkerConfig {
        gc: Some(gc.enabled),
        reserved_space: gc.reserved_space,
        max_used_space: gc.max_used_space,
        min_free_space: gc.min_free_space,
        gc_keep_storage: None,
        ..settings.config.worker.oci.clone()
    };
    Ok(InForce {
        policies: Policy::from_config(&config, Disk::of(&settings.root)?)?.into(),
        are_default: config.gc_policy.is_empty(),
    })
}

/// As clients see them.
pub(crate) fn shown(policies: &[Policy]) -> Vec<GcPolicy> {
    policies
        .iter()
        .map(|policy| GcPolicy {
            all: policy.all,
            filters: policy.filters.texts().to_vec(),
            keep_duration: policy.keep_duration,
            reserved_space: policy.reserved_space,
            max_used_space: policy.max_used_space,
            min_free_space: policy.min_free_space,
        })
        .collect()
}

/// Runs until `stop`.
pub(crate) async fn run(engine: Engine, collector: Arc<Collector>, stop: CancellationToken) {
    let quiet = Notify::new();
    let work = async {
        tokio::join!(
            after_builds(&engine, &collector, &quiet),
            under_pressure(&engine, &collector),
            give_memory_back(&engine, &collector, &quiet)
        );
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// A moment after builds: records of builds go at once, since one may be large and it costs little; garbage is
/// collected when the last time is long enough ago.
async fn after_builds(engine: &Engine, collector: &Collector, over: &Notify) {
    let ended = Notify::new();
    let forget = async {
        loop {
            engine.build_ended().await;
            over.notify_one();
            tokio::time::sleep(AFTER_BUILD).await;
            if let Err(error) = engine.history().expire().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "old build records stay"
                );
            }
            ended.notify_one();
        }
    };
    let collect_in_turn = async {
        let mut last: Option<Instant> = None;
        loop {
            ended.notified().await;
            let due = last.map_or(Duration::ZERO, |last| {
                INTERVAL.saturating_sub(last.elapsed())
            });
            tokio::time::sleep(due).await;
            last = Some(Instant::now());
            collect(collector, Trigger::Policy).await;
        }
    };
    tokio::join!(forget, collect_in_turn);
}

/// Some time after the last build, or the last collection or prune that removed something.
async fn give_memory_back(engine: &Engine, collector: &Collector, over: &Notify) {
    loop {
        tokio::select! {
            () = over.notified() => {}
            () = collector.run_ended() => {}
        }
        loop {
            tokio::select! {
                () = over.notified() => {}
                () = collector.run_ended() => {}
                () = tokio::time::sleep(QUIET) => break,
            }
        }
        // The end of what still runs comes here again.
        if engine.active() == 0 {
            let _ = tokio::task::spawn_blocking(kiln_sys::heap::give_back).await;
        }
    }
}

/// A build that runs long may fill the disk before it ends.
async fn under_pressure(engine: &Engine, collector: &Collector) {
    loop {
        tokio::time::sleep(LOOK).await;
        if engine.active() > 0
            && collector
                .disk()
                .is_ok_and(|disk| disk.free < disk.total / 100 * LOW_PERCENT)
        {
            collect(collector, Trigger::Pressure).await;
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

async fn collect(collector: &Collector, trigger: Trigger) {
    let policies = collector.policies().policies;
    if policies.is_empty() {
        return;
    }
    if let Err(error) = collector.prune(&policies, trigger, |_| {}).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "garbage collection"
        );
    }
}
