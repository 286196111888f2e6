//! No machine: the engine is a child process on this very system (Linux).
//!
//! ```text
//! machine/engine.sock  ◄── kilnd --root STATE/native --addr unix://… --config machine/buildkitd.toml
//! ```
//! Both services are answered by the one socket. The child dies with its owner: it is sent SIGTERM, so that it unmounts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kiln_client::{Address, Client};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until};

use super::{Driver, EngineStream, Facts, Machine, Service, StartError, StartOrder, record_path};
use crate::child::{AtDeath, Child, Order, wait_for_leftover};

/// A first start makes its state; a later one may have to verify what a crash left in doubt.
const PATIENCE: Duration = Duration::from_secs(60);
/// The engine drains for up to 20 s.
const STOP_PATIENCE: Duration = Duration::from_secs(25);
const AGAIN: Duration = Duration::from_millis(10);
const LAST_WORDS: usize = 4;

/// Starts `kilnd` as a child.
#[derive(Debug)]
pub struct Native {
    /// `kiln-vmd`, see `child`.
    pub own: PathBuf,
    /// The engine, if it was found.
    pub kilnd: Option<PathBuf>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    socket: PathBuf,
    facts: Facts,
}

#[async_trait]
impl Driver for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    async fn start(&self, order: StartOrder) -> Result<Arc<dyn Machine>, StartError> {
        let kilnd = self.kilnd.as_deref().filter(|path| path.is_file());
        let kilnd = kilnd.ok_or_else(|| StartError::Missing {
            what: "kilnd",
            fix: "install it beside kiln-vmd or in PATH, or name it by KILN_KILND".into(),
        })?;
        let record = record_path(&order.paths);
        wait_for_leftover(&record, STOP_PATIENCE).await;
        order.at("starting the engine");
        let socket = order.paths.machine_dir().join("engine.sock");
        let arguments = arguments(&order, &socket)?;
        order.console.note("the engine is starting (native)");
        let child = Child::start(Order {
            own: &self.own,
            program: kilnd,
            arguments,
            environment: environment(&order)?,
            at_death: AtDeath::Terminate,
            console: order.console.clone(),
            record,
            patience: STOP_PATIENCE,
        })
        .map_err(|source| StartError::Spawn {
            program: kilnd.to_owned(),
            source,
        })?;
        let engine_version = tokio::select! {
            version = first_answer(&socket) => version,
            how = child.ended() => Err(StartError::EndedEarly {
                program: "kilnd",
                how,
                last_words: order.console.last_words(LAST_WORDS),
            }),
            () = tokio::time::sleep(PATIENCE) => Err(StartError::NoAnswer {
                program: "kilnd",
                patience: PATIENCE,
                last_words: order.console.last_words(LAST_WORDS),
            }),
        }?;
        let facts = Facts {
            pid: child.pid(),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            memory: memory_of_the_host(),
            engine_version,
            notices: ignored(&order),
            ..Facts::default()
        };
        Ok(Arc::new(Running {
            child,
            socket,
            facts,
        }))
    }
}

fn arguments(order: &StartOrder, socket: &Path) -> Result<Vec<std::ffi::OsString>, StartError> {
    let root = order.paths.native_root();
    let mut address = std::ffi::OsString::from("unix://");
    address.push(socket);
    let config = order.paths.machine_dir().join("buildkitd.toml");
    std::fs::write(&config, &order.settings.buildkitd_toml)
        .map_err(StartError::io("write", &config))?;
    Ok(vec![
        "--root".into(),
        root.into(),
        "--addr".into(),
        address,
        "--config".into(),
        config.into(),
    ])
}

/// Proxies, and the usual certificates with the user's behind them.
fn environment(order: &StartOrder) -> Result<Vec<(String, String)>, StartError> {
    let mut environment = Vec::new();
    let proxy = &order.settings.proxy;
    for (name, value) in [
        ("HTTP_PROXY", &proxy.http),
        ("HTTPS_PROXY", &proxy.https),
        ("NO_PROXY", &proxy.no_proxy),
    ] {
        if !value.is_empty() {
            environment.push((name.to_owned(), value.clone()));
            environment.push((name.to_ascii_lowercase(), value.clone()));
        }
    }
    if !order.settings.ca_files.is_empty() {
        let path = order.paths.machine_dir().join("ca.pem");
        let bundle = ca_bundle(&order.settings.ca_files)?;
        std::fs::write(&path, bundle).map_err(StartError::io("write", &path))?;
        environment.push(("SSL_CERT_FILE".into(), path.display().to_string()));
    }
    Ok(environment)
}

/// Where distributions keep the authorities that they trust.
const SYSTEM_BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

fn ca_bundle(files: &[PathBuf]) -> Result<Vec<u8>, StartError> {
    let mut bundle = SYSTEM_BUNDLES
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .unwrap_or_default();
    bundle.extend(user_certificates(files)?);
    Ok(bundle)
}

/// The user's certificates, one after the other.
pub(crate) fn user_certificates(files: &[PathBuf]) -> Result<Vec<u8>, StartError> {
    /// No sensible bundle is larger.
    const LARGEST: usize = 4 << 20;
    let mut all = Vec::new();
    for path in files {
        let pem = std::fs::read(path).map_err(StartError::io("read", path))?;
        if !pem.windows(10).any(|window| window == b"-----BEGIN") || pem.len() > LARGEST {
            return Err(StartError::Setting {
                setting: "ca-files",
                problem: format!("{} holds no certificate in PEM form", path.display()),
            });
        }
        all.extend(pem);
        all.push(b'\n');
    }
    Ok(all)
}

/// What of the settings means nothing without a machine.
fn ignored(order: &StartOrder) -> Vec<String> {
    let settings = &order.settings;
    let mut names = Vec::new();
    for (name, given) in [
        ("cpus", settings.cpus.is_some()),
        ("memory", settings.memory.is_some()),
        ("disk", settings.disk.is_some()),
        ("allow", !settings.allow.is_empty()),
    ] {
        if given {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "the native driver has no machine: {} from the settings without effect",
        names.join(", ")
    )]
}

async fn first_answer(socket: &Path) -> Result<String, StartError> {
    let address = Address::Unix(socket.to_owned());
    loop {
        // The socket accepts before the state is loaded; the call waits for that.
        let again = Instant::now() + AGAIN;
        if let Ok(client) = Client::connect(&address).await
            && let Ok(info) = client.info().await
        {
            let version = info.buildkit_version.unwrap_or_default().version;
            return Ok(version.chars().take(64).collect());
        }
        sleep_until(again).await;
    }
}

pub(crate) fn memory_of_the_host() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

#[async_trait]
impl Machine for Running {
    fn facts(&self) -> Facts {
        self.facts.clone()
    }

    async fn connect(&self, _service: Service) -> io::Result<EngineStream> {
        Ok(Box::new(UnixStream::connect(&self.socket).await?))
    }

    async fn ended(&self) -> String {
        format!("the engine ended ({})", self.child.ended().await)
    }

    async fn stop(&self, patience: Duration) {
        if !self.child.stop(patience).await {
            tracing::warn!("the engine didn't stop in time and was killed");
        }
    }

    async fn grow_disk(&self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
}
