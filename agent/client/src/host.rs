//! Calls of `kiln.host.v1`: the owner of the machine, `kiln-vmd`, which is started where it doesn't run.
//!
//! ```text
//! connect_or_start ─► host.sock answers? ──yes──► connected
//!                        │ no
//!                        ▼
//!             kiln-vmd --detach  ─► "ready" on its standard output ─► connected
//!                        │ ends before: its last words are the error
//!                        └─ another one was faster (exit code 3): wait for that one's socket
//! ```
//! Window, tray and command line are equal clients; none of them owns the process that it started: it goes
//! on when they end.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use kiln_config::HostPaths;
use kiln_config::paths::variable;
use kiln_proto::host as wire;
use kiln_proto::host::host_client::HostClient as Generated;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

use crate::{Address, Error, connect};

pub use kiln_proto::host::{
    AllowRule, Check, ConsoleChunk, Disk, Proxy, Settings, Sockets, State, Status, Use,
    check::Outcome,
};

/// How `kiln-vmd` says that another one is serving already.
pub const EXIT_ANOTHER_RUNS: i32 = 3;
/// What it prints once its sockets accept.
pub const READY: &str = "ready";

/// How long it may take until its sockets accept. It starts no machine by itself.
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(20);
/// Of its log, in an error.
const LAST_WORDS: u64 = 4 << 10;

/// The owner of the machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HostClient {
    calls: Generated<Channel>,
}

impl HostClient {
    /// Connects to the owner that runs.
    pub async fn connect(paths: &HostPaths) -> Result<Self, Error> {
        let socket = paths.host_socket();
        let channel = connect::connect(&Address::Unix(socket.clone()), None)
            .await
            .map_err(|_| Error::HostNotRunning { socket })?;
        Ok(Self {
            calls: Generated::new(channel),
        })
    }

    /// Connects, and starts the owner where none runs. Doesn't start the machine.
    pub async fn connect_or_start(paths: &HostPaths) -> Result<Self, Error> {
        match Self::connect(paths).await {
            Ok(client) => Ok(client),
            Err(_) => start(paths, &find_vmd()?).await,
        }
    }

    /// The same, with a `kiln-vmd` of the caller's choice.
    pub async fn connect_or_start_program(
        paths: &HostPaths,
        program: &Path,
    ) -> Result<Self, Error> {
        match Self::connect(paths).await {
            Ok(client) => Ok(client),
            Err(_) => start(paths, program).await,
        }
    }

    /// The generated client, for calls that aren't wrapped here.
    pub fn calls(&self) -> Generated<Channel> {
        self.calls.clone()
    }

    /// How the machine is. Doesn't wake it.
    pub async fn status(&self) -> Result<Status, Error> {
        let request = wire::GetStatusRequest {};
        Ok(self.calls().get_status(request).await?.into_inner())
    }

    /// How the machine is, now and whenever it changes.
    pub async fn watch_status(&self) -> Result<BoxStream<'static, Result<Status, Error>>, Error> {
        let request = wire::WatchStatusRequest {};
        let events = self.calls().watch_status(request).await?.into_inner();
        Ok(events.map(|event| event.map_err(Error::from)).boxed())
    }

    /// What the machine uses, again and again, until it stops. Fails where it doesn't run.
    pub async fn watch_use(
        &self,
        interval: Duration,
    ) -> Result<BoxStream<'static, Result<Use, Error>>, Error> {
        let request = wire::WatchUseRequest {
            interval_milliseconds: u32::try_from(interval.as_millis()).unwrap_or(u32::MAX),
        };
        let uses = self.calls().watch_use(request).await?.into_inner();
        Ok(uses.map(|event| event.map_err(Error::from)).boxed())
    }

    /// Returns when the machine runs.
    pub async fn start(&self) -> Result<Status, Error> {
        let request = wire::StartRequest::default();
        Ok(self.calls().start(request).await?.into_inner())
    }

    /// The same; a damaged data disk is mended first, at the cost of what is damaged.
    pub async fn start_with_repair(&self) -> Result<Status, Error> {
        let request = wire::StartRequest { repair_disk: true };
        Ok(self.calls().start(request).await?.into_inner())
    }

    /// Returns when the machine is stopped; waits for running builds unless `force` is set.
    pub async fn stop(&self, force: bool) -> Result<Status, Error> {
        let request = wire::StopRequest { force };
        Ok(self.calls().stop(request).await?.into_inner())
    }

    /// Stops and starts.
    pub async fn restart(&self) -> Result<Status, Error> {
        let request = wire::RestartRequest {};
        Ok(self.calls().restart(request).await?.into_inner())
    }

    /// What the settings file says.
    pub async fn settings(&self) -> Result<Settings, Error> {
        let request = wire::GetSettingsRequest {};
        Ok(self.calls().get_settings(request).await?.into_inner())
    }

    /// Writes the settings; gives the names of those that take effect at the next start.
    pub async fn set_settings(&self, settings: Settings) -> Result<Vec<String>, Error> {
        let request = wire::SetSettingsRequest {
            settings: Some(settings),
        };
        let response = self.calls().set_settings(request).await?.into_inner();
        Ok(response.at_next_start)
    }

    /// What the machine printed; with `follow`, what it goes on printing.
    pub async fn console(
        &self,
        follow: bool,
        tail: u32,
    ) -> Result<BoxStream<'static, Result<Vec<u8>, Error>>, Error> {
        let request = wire::ReadConsoleRequest { follow, tail };
        let chunks = self.calls().read_console(request).await?.into_inner();
        Ok(chunks
            .map(|chunk| Ok(chunk.map_err(Error::from)?.data))
            .boxed())
    }

    /// Deletes every image, cache record and build. The machine is stopped first.
    pub async fn reset(&self) -> Result<Status, Error> {
        let request = wire::ResetRequest {
            confirm: "reset".into(),
        };
        Ok(self.calls().reset(request).await?.into_inner())
    }

    /// Checks of host and machine, as each ends.
    pub async fn diagnose(&self) -> Result<BoxStream<'static, Result<Check, Error>>, Error> {
        let request = wire::DiagnoseRequest {};
        let checks = self.calls().diagnose(request).await?.into_inner();
        Ok(checks.map(|check| check.map_err(Error::from)).boxed())
    }

    /// Stops the machine and ends its owner.
    pub async fn quit(&self) -> Result<(), Error> {
        self.calls().quit(wire::QuitRequest {}).await?;
        Ok(())
    }
}

async fn start(paths: &HostPaths, program: &Path) -> Result<HostClient, Error> {
    let runtime = &paths.runtime;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(runtime)
        .map_err(|source| Error::io("create", runtime, source))?;
    let log_path = paths.vmd_log();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(|source| Error::io("open", &log_path, source))?;
    let said_before = log.metadata().map_or(0, |metadata| metadata.len());
    let mut child = tokio::process::Command::new(program)
        .arg("--detach")
        .env(variable::RUNTIME_DIR, &paths.runtime)
        .env(variable::STATE_DIR, &paths.state)
        .env(variable::CONFIG_DIR, &paths.config)
        // A directory that somebody removes must not be held, nor be lost.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| Error::HostStart {
            program: program.to_owned(),
            last_words: format!("{error} (KILN_VMD names another one)"),
            log: log_path.clone(),
        })?;
    let deadline = Instant::now() + PATIENCE;
    let mut word = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut reader = BufReader::new(stdout);
        drop(timeout(PATIENCE, reader.read_line(&mut word)).await);
    }
    if word.trim() == READY {
        return HostClient::connect(paths).await;
    }
    let ended = timeout(Duration::from_secs(1), child.wait()).await;
    let another = |status: ExitStatus| status.code() == Some(EXIT_ANOTHER_RUNS);
    if matches!(ended, Ok(Ok(status)) if another(status)) {
        // Somebody else started one a moment ago, and that one may not be accepting yet.
        loop {
            match HostClient::connect(paths).await {
                Err(_) if Instant::now() < deadline => sleep(AGAIN).await,
                outcome => return outcome,
            }
        }
    }
    Err(Error::HostStart {
        program: program.to_owned(),
        last_words: last_words(&log_path, said_before),
        log: log_path,
    })
}

/// Beside this program, else in `PATH`; `KILN_VMD` comes first.
fn find_vmd() -> Result<PathBuf, Error> {
    const NAME: &str = "kiln-vmd";
    if let Some(path) = std::env::var_os(variable::VMD).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join(NAME)));
    let search = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&search).map(|directory| directory.join(NAME)))
        .find(|path| path.is_file())
        .ok_or(Error::HostProgram)
}

/// What the log says since `from`, at most its end.
fn last_words(log: &Path, from: u64) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(LAST_WORDS))))?;
        let mut bytes = Vec::new();
        file.take(LAST_WORDS).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    match read() {
        Ok(words) if !words.is_empty() => words,
        _ => "it said nothing".into(),
    }
}
