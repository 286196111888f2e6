//! The real BuildKit, inside Debian's `dockerd`.
//!
//! Invariant: it has its own root, sockets and pid file, touches no firewall rule and makes no bridge, so that it
//! runs beside anything else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use kiln_test_tools::Tools;
use serde_json::json;
use tempfile::TempDir;

use crate::leftovers::unmount_under;
use crate::registry::{Registry, free_port};
use crate::relay::Relay;
use crate::service::Service;

/// A running `dockerd`.
#[derive(Debug)]
pub struct Moby {
    service: Option<Service>,
    relay: Relay,
    docker_socket: PathBuf,
    directory: TempDir,
}

impl Moby {
    /// Starts the daemon with `registry` as its mirror of Docker Hub, and more environment.
    pub fn start(
        tools: &Tools,
        registry: &Registry,
        environment: &[(String, String)],
    ) -> Result<Self> {
        Self::start_with(tools, registry, environment, None, &[])
    }

    /// One whose API is on a port of loopback, too, by TLS with the certificates of this directory; its port.
    pub fn start_with_tls(
        tools: &Tools,
        registry: &Registry,
        certificates: &Path,
    ) -> Result<(Self, u16)> {
        let port = free_port()?;
        let file =
            |flag: &str, name: &str| format!("--{flag}={}", certificates.join(name).display());
        let arguments = [
            format!("--host=tcp://127.0.0.1:{port}"),
            "--tlsverify".to_owned(),
            file("tlscacert", "ca.pem"),
            file("tlscert", "cert.pem"),
            file("tlskey", "key.pem"),
        ];
        let moby = Self::start_with(tools, registry, &[], None, &arguments)?;
        Ok((moby, port))
    }

    /// The same with its state in a directory of the caller's, if one is given.
    pub fn start_on(
        tools: &Tools,
        registry: &Registry,
        environment: &[(String, String)],
        state: Option<&Path>,
    ) -> Result<Self> {
        Self::start_with(tools, registry, environment, state, &[])
    }

    fn start_with(
        tools: &Tools,
        registry: &Registry,
        environment: &[(String, String)],
        state: Option<&Path>,
        arguments: &[String],
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("moby-").tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let data = state.map_or_else(|| at("data"), Path::to_path_buf);
        let config = json!({
            "builder": {
                "Entitlements": { "security-insecure": true },
                // By its own rules it would begin when other work fills this machine's disk.
                "gc": { "enabled": false },
            },
            "features": { "containerd-snapshotter": true },
            "registry-mirrors": [format!("http://{}", registry.host())],
        });
        fs::write(at("daemon.json"), config.to_string())?;
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            tools
                .dockerd_path()
                .into_iter()
                .chain(std::env::split_paths(&inherited))
                .chain(["/usr/sbin".into()]),
        )?;
        let docker_socket = at("docker.sock");
        let mut command = Command::new(tools.dockerd());
        command
            .arg("--config-file")
            .arg(at("daemon.json"))
            .arg("--data-root")
            .arg(&data)
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("dockerd.pid"))
            .arg("--host")
            .arg(format!("unix://{}", docker_socket.display()))
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .args(arguments)
            .env("PATH", path)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(directory.path());
        let mut service = Service::start("dockerd", &mut command, at("dockerd.log"))?;
        service.wait_until("listening", Duration::from_mins(1), || {
            fs::read_to_string(at("dockerd.log")).is_ok_and(|log| log.contains("API listen on"))
        })?;
        let relay = Relay::start(at("buildkit.sock"), docker_socket.clone())?;
        Ok(Self {
            service: Some(service),
            relay,
            docker_socket,
            directory,
        })
    }

    /// Whether the daemon still runs: some requests make it panic.
    pub fn is_running(&mut self) -> bool {
        self.service.as_mut().is_some_and(Service::is_running)
    }

    /// The socket that speaks BuildKit's API like a `buildkitd`.
    pub fn socket(&self) -> &Path {
        self.relay.socket()
    }

    /// The daemon's own socket.
    pub fn docker_socket(&self) -> &Path {
        &self.docker_socket
    }

    /// The daemon's process id.
    pub fn id(&self) -> Option<u32> {
        self.service.as_ref().map(Service::id)
    }

    /// The end of the daemon's log.
    pub fn log_tail(&self) -> String {
        self.service
            .as_ref()
            .map(Service::log_tail)
            .unwrap_or_default()
    }
}

impl Drop for Moby {
    fn drop(&mut self) {
        if let Some(service) = self.service.take() {
            let stopped = service.stop().context("dockerd");
            if let Err(error) = stopped {
                eprintln!("{error:#}");
            }
        }
        unmount_under(self.directory.path());
    }
}
