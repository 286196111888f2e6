//! The wire's forms of settings and status.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use kiln_config::{
    AcceleratorChoice, AllowRule, DriverChoice, HostPaths, HostSettings, IdleStop, ProxySettings,
    SettingsError, Size,
};
use kiln_proto::host as wire;
use tokio::time::Instant;

use crate::life::{StateName, Status};

pub(super) fn status(status: &Status, paths: &HostPaths) -> wire::Status {
    let state = match status.state {
        StateName::Stopped => wire::State::Stopped,
        StateName::Starting => wire::State::Starting,
        StateName::Running => wire::State::Running,
        StateName::Stopping => wire::State::Stopping,
        StateName::Failed => wire::State::Failed,
    };
    let path = |path: std::path::PathBuf| path.display().to_string();
    let facts = &status.facts;
    let notices = facts.notices.iter().chain(&status.warnings);
    wire::Status {
        state: state.into(),
        reason: status.reason.clone(),
        driver: status.driver.to_owned(),
        accelerator: facts.accelerator.clone(),
        accelerator_reason: facts.accelerator_reason.clone(),
        since: Some(timestamp(status.since)),
        cpus: facts.cpus,
        memory_bytes: bytes(facts.memory),
        disk: Some(wire::Disk {
            total: status.disk.total,
            used: status.disk.used,
            reclaimable: status.disk.reclaimable,
            host_allocated: host_allocated(paths),
        }),
        sockets: Some(wire::Sockets {
            buildkit: path(paths.buildkit_socket()),
            agent: path(paths.agent_socket()),
            // The engine has no Docker API yet.
            docker: String::new(),
            host: path(paths.host_socket()),
        }),
        running_builds: status.running_builds,
        connections: status.connections,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine_version: facts.engine_version.clone(),
        notices: notices.cloned().collect(),
        boot_milliseconds: i64::try_from(status.boot.as_millis()).unwrap_or(i64::MAX),
        pid: facts.pid,
        idle_stop_in_seconds: status.idle_stop.map_or(0, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            i64::try_from(left.as_secs().max(1)).unwrap_or(i64::MAX)
        }),
    }
}

/// Blocks that the disk's file takes, not its length: it is sparse.
pub(super) fn host_allocated(paths: &HostPaths) -> i64 {
    std::fs::metadata(paths.data_disk())
        .map_or(0, |metadata| bytes(metadata.blocks().saturating_mul(512)))
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

pub(super) fn to_wire(settings: &HostSettings) -> wire::Settings {
    let idle = settings.idle_stop.map_or(0, |idle| match idle {
        IdleStop::Never => -1,
        // Zero is the default on the wire.
        IdleStop::After(time) => i64::try_from(time.as_secs()).unwrap_or(i64::MAX).max(1),
    });
    let proxy = &settings.proxy;
    wire::Settings {
        driver: match settings.driver {
            DriverChoice::Qemu => "qemu",
            DriverChoice::Native => "native",
        }
        .into(),
        cpus: settings.cpus.unwrap_or(0),
        memory_bytes: settings.memory.map_or(0, |size| bytes(size.0)),
        disk_bytes: settings.disk.map_or(0, |size| bytes(size.0)),
        idle_stop_seconds: idle,
        proxy: (*proxy != ProxySettings::default()).then(|| wire::Proxy {
            http: proxy.http.clone(),
            https: proxy.https.clone(),
            no_proxy: proxy.no_proxy.clone(),
        }),
        ca_files: settings
            .ca_files
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        allow: settings
            .allow
            .iter()
            .map(|rule| wire::AllowRule {
                name: rule.name.clone(),
                port: rule.port.into(),
            })
            .collect(),
        buildkitd_toml: settings.buildkitd_toml.clone(),
        accelerator: match settings.accelerator {
            AcceleratorChoice::Auto => "",
            AcceleratorChoice::Kvm => "kvm",
            AcceleratorChoice::Tcg => "tcg",
        }
        .into(),
    }
}

pub(super) fn from_wire(settings: wire::Settings) -> Result<HostSettings, SettingsError> {
    let refuse = |setting, problem| Err(SettingsError { setting, problem });
    let driver = match settings.driver.as_str() {
        "" | "qemu" => DriverChoice::Qemu,
        "native" => DriverChoice::Native,
        other => return refuse("driver", format!("{other:?} isn't qemu or native")),
    };
    let accelerator = match settings.accelerator.as_str() {
        "" | "auto" => AcceleratorChoice::Auto,
        "kvm" => AcceleratorChoice::Kvm,
        "tcg" => AcceleratorChoice::Tcg,
        other => {
            let problem = format!("{other:?} isn't auto, kvm or tcg");
            return refuse("accelerator", problem);
        }
    };
    let size = |setting, value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(Size(value))),
        Err(_) => Err(SettingsError {
            setting,
            problem: format!("{value} is negative"),
        }),
    };
    let mut allow = Vec::new();
    for rule in settings.allow {
        let Ok(port) = u16::try_from(rule.port) else {
            return refuse("allow", format!("{} isn't a port", rule.port));
        };
        allow.push(AllowRule {
            name: rule.name,
            port,
        });
    }
    let proxy = settings.proxy.unwrap_or_default();
    Ok(HostSettings {
        driver,
        accelerator,
        cpus: (settings.cpus != 0).then_some(settings.cpus),
        memory: size("memory", settings.memory_bytes)?,
        disk: size("disk", settings.disk_bytes)?,
        idle_stop: match u64::try_from(settings.idle_stop_seconds) {
            Ok(0) => None,
            Ok(seconds) => Some(IdleStop::After(Duration::from_secs(seconds))),
            Err(_) => Some(IdleStop::Never),
        },
        ca_files: settings.ca_files.into_iter().map(Into::into).collect(),
        buildkitd_toml: settings.buildkitd_toml,
        proxy: ProxySettings {
            http: proxy.http,
            https: proxy.https,
            no_proxy: proxy.no_proxy,
        },
        allow,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_as_they_went() {
        let full = HostSettings {
            driver: DriverChoice::Native,
            accelerator: AcceleratorChoice::Tcg,
            cpus: Some(3),
            memory: Some(Size(3 << 30)),
            disk: Some(Size(9 << 30)),
            idle_stop: Some(IdleStop::Never),
            ca_files: vec!["/a.pem".into()],
            buildkitd_toml: "debug = true".into(),
            proxy: ProxySettings {
                http: "http://p:1".into(),
                ..ProxySettings::default()
            },
            allow: vec![AllowRule {
                name: "registry".into(),
                port: 5000,
            }],
        };
        for settings in [full, HostSettings::default()] {
            assert_eq!(from_wire(to_wire(&settings)), Ok(settings));
        }
    }

    #[test]
    fn what_no_setting_can_be_is_refused() {
        let base = || to_wire(&HostSettings::default());
        for (wrong, setting) in [
            (
                wire::Settings {
                    driver: "vmware".into(),
                    ..base()
                },
                "driver",
            ),
            (
                wire::Settings {
                    disk_bytes: -1,
                    ..base()
                },
                "disk",
            ),
            (
                wire::Settings {
                    allow: vec![wire::AllowRule {
                        name: "x".into(),
                        port: 70_000,
                    }],
                    ..base()
                },
                "allow",
            ),
        ] {
            assert_eq!(from_wire(wrong).unwrap_err().setting, setting);
        }
    }
}
