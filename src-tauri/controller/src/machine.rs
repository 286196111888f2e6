//! The machine's state and settings, from `kiln.host.v1`.

use std::time::Duration;

use futures::StreamExt as _;
use kiln_client::host::{AllowRule, Disk, Outcome, Proxy, Settings, State, Status, Use};
use kiln_config::{HostPaths, HostSettings};

use crate::view::{
    Allow, Check, DiskUse, MachineSettings, MachineStatus, MachineUse, Socket, millis,
};
use crate::{Controller, Failure};

/// Often enough for a gauge, and no work to speak of.
const USE_INTERVAL: Duration = Duration::from_secs(2);

pub(crate) fn status(wire: Status) -> MachineStatus {
    let state = match wire.state() {
        State::Stopped | State::Unspecified => "stopped",
        State::Starting => "starting",
        State::Running => "running",
        State::Stopping => "stopping",
        State::Failed => "failed",
    };
    let sockets = wire.sockets.unwrap_or_default();
    let buildkit = format!(
        "docker buildx create --name kiln --driver remote unix://{}",
        sockets.buildkit
    );
    let docker = format!(
        "docker context create kiln --docker host=unix://{}",
        sockets.docker
    );
    let sockets = [
        ("BuildKit", sockets.buildkit, buildkit),
        ("Docker", sockets.docker, docker),
        ("Kiln", sockets.agent, String::new()),
    ];
    MachineStatus {
        state: state.into(),
        reason: wire.reason,
        driver: wire.driver,
        accelerator: wire.accelerator,
        accelerator_reason: wire.accelerator_reason,
        since: wire.since.map(millis),
        cpus: wire.cpus,
        memory_bytes: wire.memory_bytes,
        disk: wire.disk.map(disk),
        sockets: sockets
            .into_iter()
            .filter(|(_, path, _)| !path.is_empty())
            .map(|(name, path, hint)| Socket {
                name: name.into(),
                path,
                hint,
            })
            .collect(),
        running_builds: wire.running_builds,
        connections: wire.connections,
        version: wire.version,
        engine_version: wire.engine_version,
        notices: wire.notices,
        boot_milliseconds: wire.boot_milliseconds,
        pid: wire.pid,
        idle_stop_in_seconds: wire.idle_stop_in_seconds,
    }
}

fn disk(wire: Disk) -> DiskUse {
    DiskUse {
        total: wire.total,
        used: wire.used,
        reclaimable: wire.reclaimable,
        host_allocated: wire.host_allocated,
    }
}

fn machine_use(wire: Use) -> MachineUse {
    MachineUse {
        busy_cpus: wire.busy_cpus,
        cpus: wire.cpus,
        memory_used: wire.memory_used,
        memory_total: wire.memory_total,
        disk: wire.disk.map(disk),
    }
}

pub(crate) fn unreachable(reason: String) -> MachineStatus {
    MachineStatus {
        state: "unreachable".into(),
        reason,
        ..MachineStatus::default()
    }
}

/// Processors and memory of this computer.
fn host_size() -> (u32, i64) {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.split_whitespace().next()?.parse::<i64>().ok()
        })
        .map_or(0, |kib| kib * 1024);
    (u32::try_from(cpus).unwrap_or(u32::MAX), memory)
}

/// Length of the disk's file, which never gets less, and the most that the file could hold: what it does and what is free.
fn disk_size(paths: &HostPaths) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    let file = std::fs::metadata(paths.data_disk()).ok();
    let (length, held) = file.map_or((0, 0), |file| (file.len(), file.blocks() * 512));
    let near = paths.state.ancestors().find(|path| path.is_dir());
    let free = near
        .and_then(|path| rustix::fs::statvfs(path).ok())
        .map_or(0, |disk| disk.f_bavail * disk.f_frsize);
    (bytes(length), bytes(held + free))
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn settings_view(wire: Settings, paths: &HostPaths) -> MachineSettings {
    let proxy = wire.proxy.unwrap_or_default();
    let (host_cpus, host_memory_bytes) = host_size();
    let (disk_length, host_disk_bytes) = disk_size(paths);
    let unset = HostSettings::default();
    let host_memory = u64::try_from(host_memory_bytes).unwrap_or(0);
    MachineSettings {
        driver: wire.driver,
        cpus: wire.cpus,
        memory_bytes: wire.memory_bytes,
        disk_bytes: wire.disk_bytes,
        idle_stop_seconds: wire.idle_stop_seconds,
        accelerator: wire.accelerator,
        proxy_http: proxy.http,
        proxy_https: proxy.https,
        no_proxy: proxy.no_proxy,
        ca_files: wire.ca_files,
        allow: wire
            .allow
            .into_iter()
            .map(|rule| Allow {
                name: rule.name,
                port: rule.port,
            })
            .collect(),
        buildkitd_toml: wire.buildkitd_toml,
        host_cpus,
        host_memory_bytes,
        host_disk_bytes,
        default_cpus: unset.cpus_of(host_cpus),
        default_memory_bytes: bytes(unset.memory_of(host_memory)),
        default_disk_bytes: bytes(unset.disk_size()),
        disk_length,
    }
}

fn settings_wire(view: MachineSettings) -> Settings {
    Settings {
        driver: view.driver,
        cpus: view.cpus,
        memory_bytes: view.memory_bytes,
        disk_bytes: view.disk_bytes,
        idle_stop_seconds: view.idle_stop_seconds,
        accelerator: view.accelerator,
        proxy: Some(Proxy {
            http: view.proxy_http,
            https: view.proxy_https,
            no_proxy: view.no_proxy,
        }),
        ca_files: view.ca_files,
        allow: view
            .allow
            .into_iter()
            .map(|rule| AllowRule {
                name: rule.name,
                port: rule.port,
            })
            .collect(),
        buildkitd_toml: view.buildkitd_toml,
    }
}

impl Controller {
    /// Returns when it runs.
    pub async fn start_machine(&self) -> Result<(), Failure> {
        self.host().await?.start().await?;
        Ok(())
    }

    /// Calls `each` with what a machine that runs uses until it stops or `each` says that nobody looks. Nothing is
    /// asked otherwise.
    pub async fn watch_use(&self, mut each: impl FnMut(MachineUse) -> bool) -> Result<(), Failure> {
        let mut uses = self.host().await?.watch_use(USE_INTERVAL).await?;
        while let Some(now) = uses.next().await {
            if !each(machine_use(now?)) {
                break;
            }
        }
        Ok(())
    }

    /// Returns when it is stopped.
    pub async fn stop_machine(&self, force: bool) -> Result<(), Failure> {
        self.host().await?.stop(force).await?;
        Ok(())
    }

    /// Stops and starts.
    pub async fn restart_machine(&self) -> Result<(), Failure> {
        self.host().await?.restart().await?;
        Ok(())
    }

    /// What the settings file says.
    pub async fn machine_settings(&self) -> Result<MachineSettings, Failure> {
        let settings = self.host().await?.settings().await?;
        Ok(settings_view(settings, self.paths()))
    }

    /// Names of the settings that wait for the next start.
    pub async fn save_machine_settings(
        &self,
        settings: MachineSettings,
    ) -> Result<Vec<String>, Failure> {
        Ok(self
            .host()
            .await?
            .set_settings(settings_wire(settings))
            .await?)
    }

    /// The end of what the machine printed.
    pub async fn console(&self) -> Result<String, Failure> {
        let mut chunks = self.host().await?.console(false, 2000).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await {
            bytes.extend(chunk?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Deletes everything in it; `confirm` must be `reset`.
    pub async fn reset_machine(&self, confirm: &str) -> Result<(), Failure> {
        if confirm != "reset" {
            return Err(Failure::user("Type reset to go on.", ""));
        }
        self.host().await?.reset().await?;
        Ok(())
    }

    /// Checks of this computer and of the machine.
    pub async fn diagnose(&self) -> Result<Vec<Check>, Failure> {
        let mut checks = self.host().await?.diagnose().await?;
        let mut all = Vec::new();
        while let Some(check) = checks.next().await {
            let check = check?;
            let outcome = match check.outcome() {
                Outcome::Ok => "ok",
                Outcome::Warning => "warning",
                Outcome::Failed => "failed",
                Outcome::Skipped | Outcome::Unspecified => "skipped",
            };
            all.push(Check {
                id: check.id,
                title: check.title,
                outcome: outcome.into(),
                detail: check.detail,
                fix: check.fix,
            });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_client::host::Sockets;

    #[test]
    fn only_published_sockets_are_shown_with_their_commands() {
        let wire = Status {
            state: State::Running as i32,
            sockets: Some(Sockets {
                buildkit: "/r/b.sock".into(),
                ..Sockets::default()
            }),
            ..Status::default()
        };
        let view = status(wire);
        assert_eq!(view.state, "running");
        assert_eq!(view.sockets.len(), 1);
        assert_eq!(
            view.sockets[0].hint,
            "docker buildx create --name kiln --driver remote unix:///r/b.sock"
        );
        assert_eq!(view.disk, None);
    }

    #[tokio::test]
    async fn use_is_told_until_nobody_looks() {
        let host = crate::fake_host::FakeHost::default();
        *host.uses.lock().unwrap() = (1..=3)
            .map(|busy| Use {
                busy_cpus: f64::from(busy),
                memory_used: 5,
                ..Use::default()
            })
            .collect();
        let (_directory, controller) = host.serve();
        let mut told = Vec::new();
        let each = |now: MachineUse| {
            told.push((now.busy_cpus, now.memory_used));
            told.len() < 2
        };
        controller.watch_use(each).await.unwrap();
        assert_eq!(told, [(1.0, 5), (2.0, 5)]);
    }

    #[test]
    fn settings_come_back_as_they_went() {
        let wire = Settings {
            cpus: 4,
            idle_stop_seconds: -1,
            proxy: Some(Proxy {
                http: "h".into(),
                https: "s".into(),
                no_proxy: "n".into(),
            }),
            allow: vec![AllowRule {
                name: "db".into(),
                port: 5432,
            }],
            buildkitd_toml: "x".into(),
            ..Settings::default()
        };
        let directory = tempfile::tempdir().unwrap();
        let paths = HostPaths {
            runtime: directory.path().join("r"),
            state: directory.path().to_owned(),
            config: directory.path().join("c"),
        };
        let disk = std::fs::File::create(paths.data_disk()).unwrap();
        disk.set_len(5 << 30).unwrap();
        let view = settings_view(wire.clone(), &paths);
        assert_eq!(settings_wire(view.clone()), wire);
        assert_eq!(view.disk_length, 5 << 30);
        // A file of holes takes nothing of what is free.
        assert!(view.host_disk_bytes > 0 && view.default_cpus > 0);
        assert_eq!(view.default_disk_bytes, 64 << 30);
    }
}
