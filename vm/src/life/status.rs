//! What there is to know about the machine, for whoever watches.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::phase::Phase;
use crate::driver::Facts;
use crate::traffic::Traffic;

/// The phase's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum StateName {
    #[default]
    Stopped,
    Starting,
    Running,
    Stopping,
    Failed,
}

/// The file system in the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DiskUse {
    pub(crate) total: i64,
    pub(crate) used: i64,
    pub(crate) reclaimable: i64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) state: StateName,
    /// Of a failure: why. While starting or stopping: what it is at.
    pub(crate) reason: String,
    pub(crate) driver: &'static str,
    pub(crate) since: SystemTime,
    pub(crate) facts: Facts,
    /// Of the last start that succeeded.
    pub(crate) boot: Duration,
    pub(crate) running_builds: u32,
    pub(crate) connections: u32,
    /// As it was last seen; known while the machine is off.
    pub(crate) disk: DiskUse,
    pub(crate) warnings: Vec<String>,
    /// When an idle machine stops.
    pub(crate) idle_stop: Option<Instant>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            state: StateName::Stopped,
            reason: String::new(),
            driver: "",
            since: SystemTime::now(),
            facts: Facts::default(),
            boot: Duration::ZERO,
            running_builds: 0,
            connections: 0,
            disk: DiskUse::default(),
            warnings: Vec::new(),
            idle_stop: None,
        }
    }
}

impl Status {
    /// Takes over what the phase says; whether that changed anything worth telling.
    pub(super) fn show(&mut self, phase: &Phase, traffic: &Traffic) -> bool {
        let before = self.clone();
        self.reason.clear();
        self.running_builds = 0;
        self.connections = traffic.connections();
        self.idle_stop = None;
        self.state = match phase {
            Phase::Stopped(_) => StateName::Stopped,
            Phase::Starting(starting) => {
                self.driver = starting.driver;
                self.reason.clone_from(&starting.progress.borrow());
                StateName::Starting
            }
            Phase::Running(running) => {
                let engine = running.engine.borrow();
                self.driver = running.driver;
                self.boot = running.boot;
                self.facts.clone_from(&running.facts);
                self.running_builds = engine.builds();
                let notice = running.notice.borrow();
                let notices = Some(&*notice).filter(|notice| !notice.is_empty());
                self.warnings = notices
                    .into_iter()
                    .chain(&engine.warnings)
                    .cloned()
                    .collect();
                if engine.disk != DiskUse::default() {
                    self.disk = engine.disk;
                }
                self.idle_stop = running.idle.deadline(&engine);
                StateName::Running
            }
            Phase::Stopping(stopping) => {
                self.driver = stopping.driver;
                self.running_builds = stopping.builds();
                if self.running_builds > 0 {
                    self.reason = format!("waiting for {} running builds", self.running_builds);
                }
                StateName::Stopping
            }
            Phase::Failed(failed) => {
                self.driver = failed.driver;
                failed.reason().clone_into(&mut self.reason);
                StateName::Failed
            }
        };
        if self.state != StateName::Running {
            self.facts = Facts::default();
            self.warnings.clear();
        }
        if self.state != before.state {
            self.since = match phase {
                Phase::Running(running) => running.since,
                _ => SystemTime::now(),
            };
        }
        *self != before
    }
}
