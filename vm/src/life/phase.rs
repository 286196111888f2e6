//! The phases. A value of one is made by the one before it, and by nothing else.
#![expect(
    clippy::unused_self,
    reason = "a phase that ends is used up, whether or not the next one needs what it held"
)]

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::status::DiskUse;
use super::watcher::{Engine, Watcher};
use super::{Answer, start_or_cancel};
use crate::driver::{Driver, Facts, Machine, StartError, StartOrder};
use crate::idle::Idle;

/// How long an orderly stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(25);

/// Nothing runs.
#[derive(Debug)]
pub(super) struct Stopped;

/// On its way up.
pub(super) struct Starting {
    pub(super) driver: &'static str,
    pub(super) progress: watch::Receiver<String>,
    began: Instant,
    cancel: CancellationToken,
    work: BoxFuture<'static, Result<Arc<dyn Machine>, StartError>>,
}

/// Serving.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) driver: &'static str,
    pub(super) boot: Duration,
    pub(super) since: SystemTime,
    pub(super) facts: Facts,
    /// Of the machine itself, for now.
    pub(super) notice: watch::Receiver<String>,
    pub(super) idle: Idle,
    pub(super) engine: watch::Receiver<Engine>,
    machine: Arc<dyn Machine>,
    watcher: Watcher,
}

/// On its way down.
pub(super) struct Stopping {
    pub(super) driver: &'static str,
    pub(super) engine: Option<watch::Receiver<Engine>>,
    hurry: CancellationToken,
    work: BoxFuture<'static, ()>,
}

/// Nothing runs, though it should.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) driver: &'static str,
    reason: String,
}

/// Any of them.
#[derive(Debug)]
pub(super) enum Phase {
    Stopped(Stopped),
    Starting(Starting),
    Running(Running),
    Stopping(Stopping),
    Failed(Failed),
}

/// What a phase comes to without being asked.
#[derive(Debug)]
pub(super) enum Event {
    Started(Result<Arc<dyn Machine>, StartError>),
    Ended(String),
    Idle,
    Stopped,
    /// Something to show.
    Changed,
}

impl Phase {
    /// What happens next. May be given up and awaited again.
    pub(super) async fn next(&mut self) -> Event {
        match self {
            Self::Stopped(_) | Self::Failed(_) => std::future::pending().await,
            Self::Starting(starting) => tokio::select! {
                outcome = &mut starting.work => Event::Started(outcome),
                Ok(()) = starting.progress.changed() => Event::Changed,
            },
            Self::Running(running) => {
                let engine = running.engine.clone();
                tokio::select! {
                    reason = running.machine.ended() => Event::Ended(reason),
                    () = running.idle.expired(engine) => Event::Idle,
                    Ok(()) = running.engine.changed() => Event::Changed,
                    Ok(()) = running.notice.changed() => Event::Changed,
                    () = running.idle.traffic().changed() => Event::Changed,
                }
            }
            Self::Stopping(stopping) => {
                (&mut stopping.work).await;
                Event::Stopped
            }
        }
    }
}

impl Stopped {
    pub(super) fn start(
        self,
        driver: Arc<dyn Driver>,
        order: StartOrder,
        progress: watch::Receiver<String>,
    ) -> Starting {
        let cancel = CancellationToken::new();
        Starting {
            driver: driver.name(),
            progress,
            began: Instant::now(),
            cancel: cancel.clone(),
            work: start_or_cancel(driver, order, cancel).boxed(),
        }
    }

    pub(super) fn fail(self, reason: String) -> Failed {
        Failed { driver: "", reason }
    }
}

impl Starting {
    pub(super) fn running(self, machine: Arc<dyn Machine>, idle: Idle) -> Running {
        let (watcher, engine) = Watcher::start(Arc::clone(&machine));
        Running {
            driver: self.driver,
            boot: self.began.elapsed(),
            since: SystemTime::now(),
            facts: machine.facts(),
            notice: machine.notice(),
            idle,
            engine,
            machine,
            watcher,
        }
    }

    pub(super) fn failed(self, error: &StartError) -> Failed {
        Failed {
            driver: self.driver,
            reason: error.to_string(),
        }
    }

    /// What was begun is undone, and what came about meanwhile is stopped.
    pub(super) fn cancel(self) -> Stopping {
        self.cancel.cancel();
        let work = async move {
            if let Ok(machine) = self.work.await {
                machine.stop(STOP_PATIENCE).await;
            }
        };
        Stopping {
            driver: self.driver,
            engine: None,
            hurry: CancellationToken::new(),
            work: work.boxed(),
        }
    }
}

impl Running {
    pub(super) fn machine(&self) -> &Arc<dyn Machine> {
        &self.machine
    }

    pub(super) fn ask_for_disk(&self, answer: Answer<DiskUse>) {
        self.watcher.ask_for_disk(answer);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.idle.is_idle(&self.engine.borrow())
    }

    pub(super) fn ended(self, reason: String) -> Failed {
        Failed {
            driver: self.driver,
            reason,
        }
    }

    pub(super) fn stop(self, force: bool) -> Stopping {
        let hurry = CancellationToken::new();
        if force {
            hurry.cancel();
        }
        let Self {
            driver,
            machine,
            watcher,
            mut engine,
            ..
        } = self;
        let shown = engine.clone();
        let work = {
            let hurry = hurry.clone();
            async move {
                let builds_end = async {
                    // An engine that doesn't say runs none, as far as one can know.
                    drop(engine.wait_for(|engine| engine.builds() == 0).await);
                };
                tokio::select! {
                    () = builds_end => {}
                    () = hurry.cancelled() => {}
                    _ = machine.ended() => {}
                }
                drop(watcher);
                machine.stop(STOP_PATIENCE).await;
            }
        };
        Stopping {
            driver,
            engine: Some(shown),
            hurry,
            work: work.boxed(),
        }
    }
}

impl Stopping {
    /// Doesn't wait for builds any longer.
    pub(super) fn hurry(&self) {
        self.hurry.cancel();
    }

    pub(super) fn stopped(self) -> Stopped {
        Stopped
    }

    /// Builds that it waits for.
    pub(super) fn builds(&self) -> u32 {
        if self.hurry.is_cancelled() {
            return 0;
        }
        let engine = self.engine.as_ref();
        engine.map_or(0, |engine| engine.borrow().builds())
    }
}

impl Failed {
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    pub(super) fn forgive(self) -> Stopped {
        Stopped
    }
}

impl fmt::Debug for Starting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Starting")
    }
}

impl fmt::Debug for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stopping")
    }
}
