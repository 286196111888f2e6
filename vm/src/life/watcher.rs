//! What the engine says of itself while it runs: builds, disk, warnings.
//!
//! Invariants: what it says is bounded and only shown; an engine that can't say (a `buildkitd`, an older
//! `kilnd`) is no error; its connection doesn't count as a client's.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use kiln_proto::agent::machine_client::MachineClient;
use kiln_proto::agent::{GetInfoRequest, GetInfoResponse, WatchActivityRequest};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::Answer;
use super::status::DiskUse;
use crate::driver::{Machine, Service};

const PATIENCE: Duration = Duration::from_secs(10);
/// How often the disk is looked at while nothing else happens.
const DISK_INTERVAL: Duration = Duration::from_secs(60);
/// Before another try when a call failed.
const PAUSE: Duration = Duration::from_secs(2);
/// Who asks for the disk at once, at most.
const QUESTIONS: usize = 16;
/// Of its warnings, and of the characters of each.
const MOST_WARNINGS: usize = 16;
const LONGEST_WARNING: usize = 500;

type Questions = mpsc::Receiver<Answer<DiskUse>>;

/// What is known of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Engine {
    /// `None` where it doesn't say.
    pub(crate) running_builds: Option<u32>,
    /// Grows when the engine freed something.
    pub(crate) disk_changes: u64,
    pub(crate) disk: DiskUse,
    pub(crate) warnings: Vec<String>,
}

impl Engine {
    /// What changes the disk, too.
    fn activity(&self) -> (Option<u32>, u64) {
        (self.running_builds, self.disk_changes)
    }

    pub(crate) fn builds(&self) -> u32 {
        self.running_builds.unwrap_or(0)
    }
}

/// The task; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watcher {
    questions: mpsc::Sender<Answer<DiskUse>>,
    _stop: DropGuard,
}

impl Watcher {
    pub(super) fn start(machine: Arc<dyn Machine>) -> (Self, watch::Receiver<Engine>) {
        let (engine, watched) = watch::channel(Engine::default());
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let stop = CancellationToken::new();
        let task = {
            let stop = stop.clone();
            async move {
                tokio::select! {
                    () = watch_engine(machine, engine, asked) => {}
                    () = stop.cancelled() => {}
                }
            }
        };
        tokio::spawn(task);
        let watcher = Self {
            questions,
            _stop: stop.drop_guard(),
        };
        (watcher, watched)
    }

    /// Asks for the disk as it is now. The answer is dropped where nobody can say.
    pub(super) fn ask_for_disk(&self, answer: Answer<DiskUse>) {
        drop(self.questions.try_send(answer));
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

async fn watch_engine(
    machine: Arc<dyn Machine>,
    engine: watch::Sender<Engine>,
    questions: Questions,
) {
    let channel = loop {
        match channel(Arc::clone(&machine)).await {
            Ok(channel) => break channel,
            Err(error) => tracing::debug!(%error, "no connection to watch the engine by"),
        }
        sleep(PAUSE).await;
    };
    tokio::join!(
        watch_activity(channel.clone(), &engine),
        watch_disk(channel, &engine, questions)
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
                        let before = engine.activity();
                        engine.running_builds = Some(activity.running_builds);
                        engine.disk_changes = activity.disk_changes;
                        engine.activity() != before
                    });
                }
            }
            Err(status) if status.code() == Code::Unimplemented => return,
            Err(error) => tracing::debug!(%error, "the engine's activity"),
        }
        sleep(PAUSE).await;
    }
}

async fn watch_disk(channel: Channel, engine: &watch::Sender<Engine>, mut questions: Questions) {
    let mut client = MachineClient::new(channel);
    let mut ticks = interval(DISK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = engine.subscribe();
    let mut seen = engine.borrow().activity();
    loop {
        let mut question = None;
        let other = async {
            // The sender is borrowed by this function: it can't be gone.
            let _ = changes.wait_for(|engine| engine.activity() != seen).await;
        };
        tokio::select! {
            _ = ticks.tick() => {}
            () = other => {}
            Some(asked) = questions.recv() => question = Some(asked),
        }
        seen = engine.borrow().activity();
        match timeout(PATIENCE, client.get_info(GetInfoRequest {})).await {
            Ok(Ok(response)) => {
                let disk = take_over(&response.into_inner(), engine);
                if let Some(question) = question {
                    // Whoever doesn't wait any more doesn't hear it.
                    drop(question.send(Ok(disk)));
                }
            }
            Ok(Err(status)) if status.code() == Code::Unimplemented => return,
            Ok(Err(error)) => tracing::debug!(%error, "the engine's disk"),
            Err(_) => tracing::debug!("the engine doesn't say how its disk is"),
        }
    }
}

/// Takes over what the engine said, as far as it may go.
fn take_over(info: &GetInfoResponse, engine: &watch::Sender<Engine>) -> DiskUse {
    let disk = DiskUse {
        total: info.disk_total.max(0),
        used: info.disk_used.max(0),
        reclaimable: info.disk_reclaimable.max(0),
    };
    let shorten = |text: &String| text.chars().take(LONGEST_WARNING).collect();
    let warnings = info.warnings.iter().take(MOST_WARNINGS);
    let warnings: Vec<String> = warnings.map(shorten).collect();
    engine.send_if_modified(|engine| {
        let differs = engine.disk != disk || engine.warnings != warnings;
        engine.disk = disk;
        engine.warnings = warnings;
        differs
    });
    disk
}
