//! Checks of the host and of the machine: each with what was found, and what mends it.
//!
//! Invariants: a check changes nothing and wakes nothing; ids are stable.

use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use kiln_config::{DriverChoice, HostPaths};
use kiln_proto::agent::GetInfoRequest;
use kiln_proto::agent::machine_client::MachineClient;
use kiln_proto::host::Check;
use kiln_proto::host::check::Outcome;
use std::sync::Arc;

use crate::life::{Life, StateName, engine_channel};
use crate::programs::{Programs, QEMU_NAME};
use crate::settings::SettingsStore;

/// Below this a build is likely to fail.
const LITTLE_SPACE: u64 = 5 << 30;
const PATIENCE: Duration = Duration::from_secs(5);
/// A larger difference breaks certificates and file times.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

/// What the checks look at.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) paths: HostPaths,
    pub(crate) settings: Arc<SettingsStore>,
    pub(crate) programs: Programs,
}

struct Found {
    outcome: Outcome,
    detail: String,
    fix: String,
}

impl Found {
    fn ok(detail: impl Into<String>) -> Self {
        Self::new(Outcome::Ok, detail, "")
    }

    fn skipped(detail: impl Into<String>) -> Self {
        Self::new(Outcome::Skipped, detail, "")
    }

    fn new(outcome: Outcome, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            outcome,
            detail: detail.into(),
            fix: fix.into(),
        }
    }

    fn named(self, id: &str, title: &str) -> Check {
        Check {
            id: id.to_owned(),
            title: title.to_owned(),
            outcome: self.outcome.into(),
            detail: self.detail,
            fix: self.fix,
        }
    }
}

/// One after the other, as each ends.
pub(crate) fn checks(bench: Bench, life: Life) -> BoxStream<'static, Check> {
    let bench = Arc::new(bench);
    let quick = {
        let bench = Arc::clone(&bench);
        async move {
            stream::iter([
                bench
                    .settings()
                    .named("settings", "The settings can be used"),
                bench
                    .sockets()
                    .named("sockets", "The sockets are published"),
                bench.space().named("space", "The host's disk has room"),
                bench.kilnd().named("kilnd", "The engine is installed"),
                bench.qemu().named("qemu", "The emulator is installed"),
                bench.guest().named("guest", "The guest image is there"),
            ])
        }
    };
    quick
        .into_stream()
        .flatten()
        .chain(stream::once(std::future::ready(machine_state(&life))))
        .chain(engine(life).into_stream())
        .boxed()
}

impl Bench {
    fn native(&self) -> bool {
        self.settings
            .read()
            .is_ok_and(|settings| settings.driver == DriverChoice::Native)
    }

    fn settings(&self) -> Found {
        match self.settings.read() {
            Ok(_) => Found::ok(self.paths.settings_file().display().to_string()),
            Err(error) => Found::new(
                Outcome::Failed,
                error.to_string(),
                "correct that line, or save the settings anew from the app",
            ),
        }
    }

    fn sockets(&self) -> Found {
        let sockets = [
            self.paths.buildkit_socket(),
            self.paths.agent_socket(),
            self.paths.host_socket(),
        ];
        match sockets.iter().find(|path| !path.exists()) {
            None => Found::ok(self.paths.runtime.display().to_string()),
            Some(path) => Found::new(
                Outcome::Failed,
                format!("{} was removed", path.display()),
                "quit kiln-vmd; the next command starts it anew",
            ),
        }
    }

    fn space(&self) -> Found {
        match rustix::fs::statvfs(&self.paths.state) {
            Ok(disk) => {
                let free = disk.f_bavail * disk.f_frsize;
                let detail = format!(
                    "{} MiB are free where {} is",
                    free >> 20,
                    self.paths.state.display()
                );
                if free < LITTLE_SPACE {
                    Found::new(
                        Outcome::Warning,
                        detail,
                        "free some, run `kiln prune`, or move KILN_STATE_DIR",
                    )
                } else {
                    Found::ok(detail)
                }
            }
            Err(error) => Found::new(Outcome::Failed, error.to_string(), "look at that disk"),
        }
    }

    fn kilnd(&self) -> Found {
        if !self.native() {
            return Found::skipped("the engine is in the guest image");
        }
        match &self.programs.kilnd {
            Some(path) if path.is_file() => Found::ok(path.display().to_string()),
            _ => Found::new(
                Outcome::Failed,
                "kilnd isn't found",
                "install it beside kiln-vmd or in PATH, or name it by KILN_KILND",
            ),
        }
    }

    fn qemu(&self) -> Found {
        if self.native() {
            return Found::skipped("the native driver has no machine");
        }
        match &self.programs.qemu {
            Some(path) if path.is_file() => Found::ok(path.display().to_string()),
            _ => Found::new(
                Outcome::Failed,
                format!("{QEMU_NAME} isn't found"),
                "apt install qemu-system-x86, or name it by KILN_QEMU",
            ),
        }
    }

    fn guest(&self) -> Found {
        if self.native() {
            return Found::skipped("the native driver has no machine");
        }
        match &self.programs.guest {
            Some(path) if path.join("vmlinux").is_file() => Found::ok(path.display().to_string()),
            _ => Found::new(
                Outcome::Failed,
                "the guest image isn't found",
                "cargo xtask guest, or name its directory by KILN_GUEST",
            ),
        }
    }
}

fn machine_state(life: &Life) -> Check {
    let status = life.status().borrow().clone();
    let found = match status.state {
        StateName::Failed => Found::new(
            Outcome::Failed,
            status.reason,
            "kiln start tries again; kiln logs shows what the machine printed",
        ),
        StateName::Running if !status.facts.accelerator_reason.is_empty() => Found::new(
            Outcome::Warning,
            format!(
                "it runs with {}: {}",
                status.facts.accelerator, status.facts.accelerator_reason
            ),
            "turn virtualisation on in the firmware, or use the native driver",
        ),
        StateName::Running => Found::ok("it runs"),
        _ => Found::skipped("it doesn't run"),
    };
    found.named("machine", "The machine is well")
}

/// Only of a machine that runs: a check wakes nothing.
async fn engine(life: Life) -> Check {
    let state = life.status().borrow().state;
    let found = if state == StateName::Running {
        match tokio::time::timeout(PATIENCE, ask(&life)).await {
            Ok(found) => found,
            Err(_) => silent("no answer within 5 s"),
        }
    } else {
        Found::skipped("the machine doesn't run")
    };
    found.named("engine", "The engine answers, and its clock is right")
}

fn silent(detail: impl Into<String>) -> Found {
    Found::new(
        Outcome::Failed,
        detail,
        "kiln restart; kiln logs shows what it printed",
    )
}

async fn ask(life: &Life) -> Found {
    let Some(machine) = life.running().await else {
        return Found::skipped("the machine has just ended");
    };
    let channel = match engine_channel(machine).await {
        Ok(channel) => channel,
        Err(error) => return silent(error.to_string()),
    };
    match MachineClient::new(channel)
        .get_info(GetInfoRequest {})
        .await
    {
        Ok(response) => {
            let now = std::time::SystemTime::now();
            let theirs = response.into_inner().now.and_then(|t| t.try_into().ok());
            let off = theirs.map_or(Duration::ZERO, |theirs: std::time::SystemTime| {
                let ahead = theirs.duration_since(now);
                ahead.unwrap_or_else(|behind| behind.duration())
            });
            if off > CLOCK_SLACK {
                let detail = format!("its clock is off by {} s", off.as_secs());
                Found::new(Outcome::Warning, detail, "kiln restart")
            } else {
                Found::ok("it answers")
            }
        }
        Err(status) if status.code() == tonic::Code::Unimplemented => Found::ok("it answers"),
        Err(status) => silent(status.message()),
    }
}
