//! A machine that runs.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use kiln_link::machine::{Report, Reports};
use kiln_link::{Link, LinkError, Service};
use kiln_proto::agent::machine_client::MachineClient;
use kiln_proto::agent::{GrowDiskRequest, SetClockRequest, ShutdownRequest};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

use super::qmp::Qmp;
use super::{Greeted, forward, hang, room, shortened};
use crate::child::Child;
use crate::console::Console;
use crate::driver::{EngineStream, Facts, Machine};

const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// Between the end of the link and that of QEMU, when the guest goes down by itself.
const GRACE: Duration = Duration::from_secs(5);
/// Within the time that a guest may be silent.
const PINGS: u32 = 6;
const CLOCK_INTERVAL: Duration = Duration::from_secs(10);
/// The host slept if its clock ran ahead of its timers by more than this.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// What it lives among.
pub(super) struct Surroundings {
    /// Ports of the host's loopback that it may reach.
    pub(super) allowed: BTreeSet<u16>,
    /// How long it may give no sign of life.
    pub(super) silence: Duration,
    /// The directory of its disk's file.
    pub(super) state: PathBuf,
    pub(super) console: Console,
}

#[derive(Debug)]
pub(super) struct Running {
    child: Arc<Child>,
    link: Link,
    qmp: Arc<Qmp>,
    notice: watch::Receiver<String>,
    facts: Facts,
    /// Why it ends, as the guest says, or its silence.
    said: Arc<Mutex<Option<String>>>,
    _stop: DropGuard,
}

impl Running {
    pub(super) fn new(
        child: Child,
        greeted: Greeted,
        facts: Facts,
        surroundings: Surroundings,
    ) -> Self {
        let child = Arc::new(child);
        let said = Arc::new(Mutex::new(None));
        let stop = CancellationToken::new();
        let Greeted {
            link,
            incoming,
            reports,
            qmp,
            ..
        } = greeted;
        let qmp = Arc::new(qmp);
        let (tell, notice) = watch::channel(String::new());
        let work = {
            let (child, said, link) = (Arc::clone(&child), Arc::clone(&said), link.clone());
            let qmp = Arc::clone(&qmp);
            let waits = qmp.waits_for_room();
            let Surroundings {
                allowed,
                silence,
                state,
                console,
            } = surroundings;
            async move {
                tokio::join!(
                    listen(reports, &said),
                    forward::serve(incoming, allowed),
                    end_with_link(&link, &child),
                    async {
                        let Some(words) = silent(&link, silence, waits).await else {
                            return;
                        };
                        tracing::warn!(words, "the machine hangs and is ended");
                        said.lock().get_or_insert(words);
                        hang::record(&qmp, &console).await;
                        child.kill().await;
                    },
                    room::watch(&qmp, &state, &tell),
                    keep_clock(&link),
                );
            }
        };
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                () = stopped.cancelled() => {}
            }
        });
        Self {
            child,
            link,
            qmp,
            notice,
            facts,
            said,
            _stop: stop.drop_guard(),
        }
    }

    async fn shut_down(&self) -> Result<(), String> {
        let call = async {
            let channel = channel(&self.link)
                .await
                .map_err(|error| error.to_string())?;
            MachineClient::new(channel)
                .shutdown(ShutdownRequest {})
                .await
                .map_err(|status| status.message().to_owned())
        };
        let answer = timeout(CALL_PATIENCE, call).await;
        answer.map_err(|_| "no answer".to_owned())?.map(drop)
    }
}

/// What the guest says while it lives.
async fn listen(mut reports: Reports, said: &Mutex<Option<String>>) {
    while let Ok(Some(report)) = reports.next().await {
        if let Report::Failed { reason, hint } = report {
            let words = shortened(&format!("{reason} {hint}"));
            tracing::warn!(words, "the machine fails");
            *said.lock() = Some(words);
        }
    }
}

/// A channel without connections has one life: with it, the machine's ends.
async fn end_with_link(link: &Link, child: &Child) {
    link.closed().await;
    if timeout(GRACE, child.ended()).await.is_err() {
        tracing::warn!("the link to the machine broke; the machine is ended");
        child.kill().await;
    }
}

/// Until it gives no sign of life: what to say then; or until the link is gone. A guest that hangs keeps its channel
/// open for ever: only its silence tells.
async fn silent(
    link: &Link,
    patience: Duration,
    mut waits_for_room: watch::Receiver<bool>,
) -> Option<String> {
    let mut ticks = interval(patience / PINGS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        waits_for_room.mark_unchanged();
        match link.ping(patience).await {
            Ok(latency) => {
                tracing::trace!(milliseconds = latency.as_millis() as u64, "the guest lives");
            }
            // It was stopped, which is told otherwise.
            Err(LinkError::Silent(_))
                if *waits_for_room.borrow() || waits_for_room.has_changed().unwrap_or(false) => {}
            Err(LinkError::Silent(_)) => {
                return Some(format!(
                    "it gave no sign of life for {} s",
                    patience.as_secs()
                ));
            }
            Err(_) => return None,
        }
    }
}

/// After the host's sleep the guest's clock is behind.
async fn keep_clock(link: &Link) {
    let mut ticks = interval(CLOCK_INTERVAL);
    let mut last = (Instant::now(), SystemTime::now());
    loop {
        ticks.tick().await;
        let now = (Instant::now(), SystemTime::now());
        let by_timer = now.0.duration_since(last.0);
        let by_clock = now.1.duration_since(last.1).unwrap_or_default();
        last = now;
        if by_clock.abs_diff(by_timer) < CLOCK_SLACK {
            continue;
        }
        tracing::info!("the host's clock moved; the guest's follows");
        let set = async {
            let channel = channel(link).await.map_err(|error| error.to_string())?;
            let request = SetClockRequest {
                now: Some(SystemTime::now().into()),
            };
            let answer = MachineClient::new(channel).set_clock(request).await;
            answer.map_err(|status| status.message().to_owned())
        };
        if let Ok(Err(error)) = timeout(CALL_PATIENCE, set).await {
            tracing::warn!(error, "the guest's clock can't be set");
        }
    }
}

async fn channel(link: &Link) -> Result<Channel, tonic::transport::Error> {
    let link = link.clone();
    let connector = tower::service_fn(move |_: http::Uri| {
        let link = link.clone();
        async move {
            let stream = link.open(Service::Agent).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://localhost")
        .connect_timeout(CALL_PATIENCE)
        .connect_with_connector(connector)
        .await
}

#[async_trait]
impl Machine for Running {
    fn facts(&self) -> Facts {
        self.facts.clone()
    }

    fn notice(&self) -> watch::Receiver<String> {
        self.notice.clone()
    }

    async fn connect(&self, service: Service) -> io::Result<EngineStream> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the machine takes no more streams");
        let stream = timeout(CALL_PATIENCE, self.link.open(service))
            .await
            .map_err(|_| late())?
            .map_err(io::Error::other)?;
        Ok(Box::new(stream))
    }

    async fn ended(&self) -> String {
        let how = self.child.ended().await;
        match self.said.lock().as_deref() {
            Some(words) => format!("the machine ended: {words}"),
            None => format!("the machine ended ({how})"),
        }
    }

    async fn stop(&self, patience: Duration) {
        let asked = tokio::select! {
            asked = self.shut_down() => asked,
            // It may have been on its way already.
            _ = self.child.ended() => return,
        };
        if let Err(error) = asked {
            tracing::warn!(
                error,
                "the guest doesn't take a shutdown; its power button is pressed"
            );
            drop(self.qmp.power_button().await);
        }
        if timeout(patience, self.child.ended()).await.is_err() {
            tracing::warn!("the machine didn't stop in time and is ended");
            drop(self.qmp.quit().await);
            self.child.stop(GRACE).await;
        }
    }

    async fn grow_disk(&self, bytes: u64) -> io::Result<()> {
        self.qmp.resize_disk(bytes).await?;
        let channel = channel(&self.link).await.map_err(io::Error::other)?;
        MachineClient::new(channel)
            .grow_disk(GrowDiskRequest {})
            .await
            .map_err(|status| io::Error::other(status.message().to_owned()))?;
        Ok(())
    }
}
