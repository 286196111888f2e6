//! What the engine says of itself while it runs: builds, disk, warnings.
//!
//! Invariants: what it says is bounded and only shown; an engine that can't say (a `buildkitd`, an older
//! `kilnd`) is no error; its connection doesn't count as a client's.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use kiln_proto::agent::machine_client::MachineClient;
use kiln_proto::agent::{GetInfoRequest, WatchActivityRequest};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::status::DiskUse;
use crate::driver::{Machine, Service};

const PATIENCE: Duration = Duration::from_secs(10);
/// How often the disk is looked at while nothing else happens.
const DISK_INTERVAL: Duration = Duration::from_secs(60);
/// Before another try when a call failed.
const PAUSE: Duration = Duration::from_secs(2);
/// Of its warnings, and of the characters of each.
const MOST_WARNINGS: usize = 16;
const LONGEST_WARNING: usize = 500;

/// What is known of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Engine {
    /// `None` where it doesn't say.
    pub(crate) running_builds: Option<u32>,
    pub(crate) disk: DiskUse,
    pub(crate) warnings: Vec<String>,
}

impl Engine {
    pub(crate) fn builds(&self) -> u32 {
        self.running_builds.unwrap_or(0)
    }
}

/// The task; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watcher {
    _stop: DropGuard,
}

impl Watcher {
    pub(super) fn start(machine: Arc<dyn Machine>) -> (Self, watch::Receiver<Engine>) {
        let (engine, watched) = watch::channel(Engine::default());
        let stop = CancellationToken::new();
        let task = {
            let stop = stop.clone();
            async move {
                tokio::select! {
                    () = watch_engine(machine, engine) => {}
                    () = stop.cancelled() => {}
                }
            }
        };
        tokio::spawn(task);
        let watcher = Self {
            _stop: stop.drop_guard(),
        };
        (watcher, watched)
    }
}

/// A channel to the machine's engine.
pub(crate) async fn channel(machine: Arc<dyn Machine>) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: http::Uri| {
        let machine = Arc::clone(&machine);
        async move { Ok::<_, std::io::Error>(TokioIo::new(machine.connect(Service::Agent).await?)) }
    });
    Endpoint::from_static("http://localhost")
        .connect_timeout(PATIENCE)
        .connect_with_connector(connector)
        .await
}

async fn watch_engine(machine: Arc<dyn Machine>, engine: watch::Sender<Engine>) {
    let channel = loop {
        match channel(Arc::clone(&machine)).await {
            Ok(channel) => break channel,
            Err(error) => tracing::debug!(%error, "no connection to watch the engine by"),
        }
        sleep(PAUSE).await;
    };
    tokio::join!(
        watch_activity(channel.clone(), &engine),
        watch_disk(channel, &engine)
    );
    // Both ended: the engine can't say. Whoever watches goes on with what there is.
    std::future::pending::<()>().await;
}

async fn watch_activity(channel: Channel, engine: &watch::Sender<Engine>) {
    let mut client = MachineClient::new(channel);
    loop {
        match client.watch_activity(WatchActivityRequest {}).await {
            Ok(response) => {
                let mut activities = response.into_inner();
                while let Some(Ok(activity)) = activities.next().await {
                    engine.send_if_modified(|engine| {
                        let builds = Some(activity.running_builds);
                        std::mem::replace(&mut engine.running_builds, builds) != builds
                    });
                }
            }
            Err(status) if status.code() == Code::Unimplemented => return,
            Err(error) => tracing::debug!(%error, "the engine's activity"),
        }
        sleep(PAUSE).await;
    }
}

async fn watch_disk(channel: Channel, engine: &watch::Sender<Engine>) {
    let mut client = MachineClient::new(channel);
    let mut ticks = interval(DISK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = engine.subscribe();
    loop {
        // A build that began or ended changed the disk, too.
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = changes.changed() => {}
        }
        match timeout(PATIENCE, client.get_info(GetInfoRequest {})).await {
            Ok(Ok(response)) => {
                let info = response.into_inner();
                let disk = DiskUse {
                    total: info.disk_total.max(0),
                    used: info.disk_used.max(0),
                    reclaimable: info.disk_reclaimable.max(0),
                };
                let shorten = |text: &String| text.chars().take(LONGEST_WARNING).collect();
                let warnings: Vec<String> = info
                    .warnings
                    .iter()
                    .take(MOST_WARNINGS)
                    .map(shorten)
                    .collect();
                engine.send_if_modified(|engine| {
                    let differs = engine.disk != disk || engine.warnings != warnings;
                    engine.disk = disk;
                    engine.warnings = warnings;
                    differs
                });
                changes.mark_unchanged();
            }
            Ok(Err(status)) if status.code() == Code::Unimplemented => return,
            Ok(Err(error)) => tracing::debug!(%error, "the engine's disk"),
            Err(_) => tracing::debug!("the engine doesn't say how its disk is"),
        }
    }
}
