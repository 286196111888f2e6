//! The life of the machine: one task owns it.
//!
//! ```text
//!              start, connect                    the engine answers
//!   Stopped ───────────────────►  Starting  ───────────────────────►  Running
//!      ▲                           │   │                               │   │
//!      │       stop                │   │ fails                  stop,  │   │ gone by itself
//!      │◄──────────────────────────┘   ▼                    idle too   │   ▼
//!      │       stop                  Failed(reason) ◄──────────────────│── ┘
//!      │◄──────────────────────────────┘  │ start, connect             ▼
//!      │                                  └──────► Starting         Stopping ──┐
//!      └───────────────────────────────────────────────────────────────────────┘
//!                                                   gone; then: start again, reset, quit
//! ```
//! Each phase is a type ([`phase`]) that only the phase before it can make. Who asks for a machine while it
//! starts or stops waits; who asks after a failure starts it anew, which is how a crash heals.
//!
//! Invariants: everything that changes the machine is a [`Command`] to this task; answers are sent once; an idle machine is
//! stopped only after another look at who is there.

mod phase;
mod status;
mod watcher;

use std::sync::Arc;
use std::time::Duration;

use kiln_config::{DriverChoice, HostPaths};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use self::phase::{Event, Failed, Phase, Stopped};
pub(crate) use self::status::{DiskUse, StateName, Status};
pub(crate) use self::watcher::{Engine, channel as engine_channel};
use crate::console::Console;
use crate::driver::{Driver, Machine, StartError, StartOrder};
use crate::idle::Idle;
use crate::settings::SettingsStore;
use crate::traffic::Traffic;

/// Who asks how the machine is doesn't wait for an engine that is busy.
const DISK_PATIENCE: Duration = Duration::from_secs(1);

/// Why there is no machine for who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What happened, and what to do next.
    pub(crate) reason: String,
}

type Answer<T> = oneshot::Sender<Result<T, Failure>>;

#[derive(Debug)]
enum Command {
    Start {
        repair_disk: bool,
        answer: Answer<()>,
    },
    Connect(Answer<Arc<dyn Machine>>),
    Stop {
        force: bool,
        answer: Answer<()>,
    },
    Restart(Answer<()>),
    Reset(Answer<()>),
    Quit(Answer<()>),
    Peek(Answer<Arc<dyn Machine>>),
    Disk(Answer<DiskUse>),
}

/// Asks the task. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
}

impl Life {
    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, Failure> {
        let ended = || Failure {
            reason: "kiln-vmd is stopping".into(),
        };
        let (answer, answered) = oneshot::channel();
        self.commands
            .send(command(answer))
            .await
            .map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Returns when the machine runs. With `repair_disk` a damaged disk is mended first, where it doesn't run yet.
    pub(crate) async fn start(&self, repair_disk: bool) -> Result<(), Failure> {
        let start = |answer| Command::Start {
            repair_disk,
            answer,
        };
        self.ask(start).await
    }

    /// The machine, woken if need be.
    pub(crate) async fn connect(&self) -> Result<Arc<dyn Machine>, Failure> {
        self.ask(Command::Connect).await
    }

    /// Returns when the machine is stopped. Without `force`, running builds end first.
    pub(crate) async fn stop(&self, force: bool) -> Result<(), Failure> {
        self.ask(|answer| Command::Stop { force, answer }).await
    }

    /// Stops, if it runs, and starts.
    pub(crate) async fn restart(&self) -> Result<(), Failure> {
        self.ask(Command::Restart).await
    }

    /// Stops, and deletes all state.
    pub(crate) async fn reset(&self) -> Result<(), Failure> {
        self.ask(Command::Reset).await
    }

    /// The machine if it runs; wakes nothing.
    pub(crate) async fn running(&self) -> Option<Arc<dyn Machine>> {
        self.ask(Command::Peek).await.ok()
    }

    /// The disk of a machine that runs, as it is now; `None` where it doesn't say at once.
    pub(crate) async fn disk(&self) -> Option<DiskUse> {
        let asked = timeout(DISK_PATIENCE, self.ask(Command::Disk)).await;
        asked.ok()?.ok()
    }

    /// Stops for good.
    pub(crate) async fn quit(&self) -> Result<(), Failure> {
        self.ask(Command::Quit).await
    }

    /// What there is to know, now and later.
    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

/// What the task works with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) drivers: Vec<Arc<dyn Driver>>,
    pub(crate) paths: HostPaths,
    pub(crate) settings: Arc<SettingsStore>,
    pub(crate) console: Console,
    pub(crate) traffic: Arc<Traffic>,
}

/// Makes the handle and the task; the task ends after [`Life::quit`].
pub(crate) fn life(parts: Parts) -> (Life, impl Future<Output = ()> + Send) {
    let (commands, inbox) = mpsc::channel(64);
    let (status, watched) = watch::channel(Status::default());
    let owner = Owner {
        parts,
        inbox,
        status,
        waiting: Waiting::default(),
    };
    let life = Life {
        commands,
        status: watched,
    };
    (life, owner.run())
}

/// Who waits for what.
#[derive(Debug, Default)]
struct Waiting {
    starts: Vec<Answer<()>>,
    /// One of them wants the disk mended.
    repair_disk: bool,
    connects: Vec<Answer<Arc<dyn Machine>>>,
    stops: Vec<Answer<()>>,
    resets: Vec<Answer<()>>,
    quits: Vec<Answer<()>>,
}

impl Waiting {
    fn wants_machine(&self) -> bool {
        !self.starts.is_empty() || !self.connects.is_empty()
    }

    // Whoever doesn't wait any more doesn't hear it, here and below.
    fn running(&mut self, machine: &Arc<dyn Machine>) {
        for answer in self.starts.drain(..) {
            let _ = answer.send(Ok(()));
        }
        for answer in self.connects.drain(..) {
            let _ = answer.send(Ok(Arc::clone(machine)));
        }
    }

    fn failed(&mut self, reason: &str) {
        let failure = Failure {
            reason: reason.to_owned(),
        };
        for answer in self.starts.drain(..) {
            let _ = answer.send(Err(failure.clone()));
        }
        for answer in self.connects.drain(..) {
            let _ = answer.send(Err(failure.clone()));
        }
    }
}

struct Owner {
    parts: Parts,
    inbox: mpsc::Receiver<Command>,
    status: watch::Sender<Status>,
    waiting: Waiting,
}

impl Owner {
    async fn run(mut self) {
        let mut phase = Phase::Stopped(Stopped);
        loop {
            self.show(&phase);
            let next = tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => self.command(phase, command),
                    None => break,
                },
                event = phase.next() => self.event(phase, event),
            };
            phase = next;
            if !self.waiting.quits.is_empty() && matches!(phase, Phase::Stopped(_)) {
                break;
            }
        }
        self.show(&Phase::Stopped(Stopped));
        self.waiting.failed("kiln-vmd is stopping");
        for answer in self.waiting.quits.drain(..) {
            let _ = answer.send(Ok(()));
        }
    }

    fn show(&self, phase: &Phase) {
        self.status
            .send_if_modified(|status| status.show(phase, &self.parts.traffic));
    }

    /// What somebody asks for. Nothing here takes long.
    fn command(&mut self, phase: Phase, command: Command) -> Phase {
        match command {
            Command::Start {
                repair_disk,
                answer,
            } => {
                let starts_anew = !matches!(phase, Phase::Running(_) | Phase::Starting(_));
                self.waiting.repair_disk |= repair_disk && starts_anew;
                self.waiting.starts.push(answer);
                self.wanted(phase)
            }
            Command::Connect(answer) => {
                self.waiting.connects.push(answer);
                self.wanted(phase)
            }
            Command::Stop { force, answer } => {
                self.waiting.stops.push(answer);
                self.stop(phase, force)
            }
            Command::Restart(answer) => {
                let phase = self.stop(phase, false);
                // After the stop, which would tell it that there will be none.
                self.waiting.starts.push(answer);
                self.wanted(phase)
            }
            Command::Reset(answer) => {
                self.waiting.resets.push(answer);
                self.stop(phase, true)
            }
            Command::Quit(answer) => {
                self.waiting.quits.push(answer);
                self.stop(phase, true)
            }
            Command::Peek(answer) => {
                let machine = match &phase {
                    Phase::Running(running) => Ok(Arc::clone(running.machine())),
                    _ => Err(Failure {
                        reason: "the machine doesn't run".into(),
                    }),
                };
                let _ = answer.send(machine);
                phase
            }
            Command::Disk(answer) => {
                // Dropped where nothing runs, which is an answer too.
                if let Phase::Running(running) = &phase {
                    running.ask_for_disk(answer);
                }
                phase
            }
        }
    }

    /// Somebody wants a machine.
    fn wanted(&mut self, phase: Phase) -> Phase {
        match phase {
            Phase::Stopped(stopped) => self.begin(stopped),
            Phase::Failed(failed) => self.begin(failed.forgive()),
            Phase::Running(running) => {
                self.waiting.running(running.machine());
                Phase::Running(running)
            }
            Phase::Starting(_) | Phase::Stopping(_) => phase,
        }
    }

    fn begin(&mut self, stopped: Stopped) -> Phase {
        // A file that somebody corrected meanwhile counts.
        let settings = match self.parts.settings.read() {
            Ok(settings) => settings,
            Err(error) => return self.failed(stopped.fail(error.to_string())),
        };
        let driver = self.parts.driver(settings.driver);
        let (progress, watched) = watch::channel(String::new());
        let order = StartOrder {
            settings,
            paths: self.parts.paths.clone(),
            console: self.parts.console.clone(),
            progress,
            repair_disk: std::mem::take(&mut self.waiting.repair_disk),
        };
        match driver {
            Some(driver) => Phase::Starting(stopped.start(driver, order, watched)),
            None => self.failed(stopped.fail("this kiln-vmd has no such driver".into())),
        }
    }

    fn stop(&mut self, phase: Phase, force: bool) -> Phase {
        match phase {
            Phase::Stopped(stopped) => self.stopped(stopped),
            Phase::Failed(failed) => self.stopped(failed.forgive()),
            Phase::Starting(starting) => {
                self.waiting
                    .failed("the machine was stopped while it was starting");
                Phase::Stopping(starting.cancel())
            }
            Phase::Running(running) => Phase::Stopping(running.stop(force)),
            Phase::Stopping(stopping) => {
                if force {
                    stopping.hurry();
                }
                Phase::Stopping(stopping)
            }
        }
    }

    /// What the phase itself came to.
    fn event(&mut self, phase: Phase, event: Event) -> Phase {
        match (phase, event) {
            (Phase::Starting(starting), Event::Started(Ok(machine))) => {
                self.waiting.running(&machine);
                let idle = Idle::new(Arc::clone(&self.parts.traffic), self.parts.settings.watch());
                Phase::Running(starting.running(machine, idle))
            }
            (Phase::Starting(starting), Event::Started(Err(error))) => {
                tracing::warn!(%error, "the machine didn't start");
                self.failed(starting.failed(&error))
            }
            (Phase::Running(running), Event::Ended(reason)) => {
                tracing::warn!(reason, "the machine ended by itself");
                self.parts.console.note(&reason);
                self.failed(running.ended(reason))
            }
            (Phase::Running(running), Event::Idle) => {
                if running.is_idle() && !self.waiting.wants_machine() && self.inbox.is_empty() {
                    tracing::info!("the machine is idle and stops");
                    Phase::Stopping(running.stop(true))
                } else {
                    Phase::Running(running)
                }
            }
            (Phase::Stopping(stopping), Event::Stopped) => {
                let stopped = stopping.stopped();
                self.stopped(stopped)
            }
            // A status that changed, which the loop shows.
            (phase, _) => phase,
        }
    }

    fn failed(&mut self, failed: Failed) -> Phase {
        self.waiting.failed(failed.reason());
        // Whoever waited for a stop has it.
        for answer in self.waiting.stops.drain(..) {
            let _ = answer.send(Ok(()));
        }
        if self.waiting.resets.is_empty() && self.waiting.quits.is_empty() {
            Phase::Failed(failed)
        } else {
            self.stopped(failed.forgive())
        }
    }

    /// Nothing runs: what waited for that happens.
    fn stopped(&mut self, stopped: Stopped) -> Phase {
        for answer in self.waiting.resets.drain(..) {
            let _ = answer.send(self.parts.delete_state());
        }
        for answer in self.waiting.stops.drain(..) {
            let _ = answer.send(Ok(()));
        }
        if self.waiting.quits.is_empty() && self.waiting.wants_machine() {
            self.begin(stopped)
        } else {
            Phase::Stopped(stopped)
        }
    }
}

impl Parts {
    fn driver(&self, choice: DriverChoice) -> Option<Arc<dyn Driver>> {
        let name = match choice {
            DriverChoice::Qemu => "qemu",
            DriverChoice::Native => "native",
        };
        self.drivers
            .iter()
            .find(|driver| driver.name() == name)
            .cloned()
    }

    /// The disk of the machine and the state of a native engine. Settings and logs stay.
    fn delete_state(&self) -> Result<(), Failure> {
        let failure = |path: &std::path::Path, error: &std::io::Error| Failure {
            reason: format!("can't delete {}: {error}", path.display()),
        };
        let missing = std::io::ErrorKind::NotFound;
        let disk = self.paths.data_disk();
        match std::fs::remove_file(&disk) {
            Err(error) if error.kind() != missing => return Err(failure(&disk, &error)),
            _ => {}
        }
        let native = self.paths.native_root();
        match std::fs::remove_dir_all(&native) {
            Err(error) if error.kind() != missing => return Err(failure(&native, &error)),
            _ => {}
        }
        self.console.note("all state was deleted");
        Ok(())
    }
}

/// A start that can be called off.
async fn start_or_cancel(
    driver: Arc<dyn Driver>,
    order: StartOrder,
    cancel: tokio_util::sync::CancellationToken,
) -> Result<Arc<dyn Machine>, StartError> {
    tokio::select! {
        outcome = driver.start(order) => outcome,
        () = cancel.cancelled() => Err(StartError::Cancelled),
    }
}
