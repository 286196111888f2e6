//! Puts the owner together, serves, and ends in order.
//!
//! ```text
//! paths ─► lock ─► settings ─► sockets ─► (ready) ─► serve … SIGTERM, SIGINT or Quit ─► stop the machine ─► drain ─► end
//! ```

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kiln_client::host::READY;
use kiln_config::HostPaths;
use kiln_link::Service;
use kiln_proto::host::host_server::HostServer;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::Args;
use crate::console::Console;
use crate::diagnose::Bench;
use crate::driver::Driver;
use crate::driver::native::Native;
use crate::driver::qemu::{ENGINE_READY, KvmHost, Qemu, TCG_HELLO};
use crate::instance::{Instance, InstanceError};
use crate::life::{self, Life, Parts};
use crate::programs::Programs;
use crate::publish::publish;
use crate::service::HostService;
use crate::settings::SettingsStore;
use crate::traffic::Traffic;

/// For clients to hear the last answers.
const DRAIN: Duration = Duration::from_secs(2);

/// With hardware virtualisation a guest boots within a second or two.
const KVM_HELLO: Duration = Duration::from_secs(15);

/// Much more than a loaded host makes a guest wait for its turn.
const SILENCE: Duration = Duration::from_secs(60);

/// Why it ended.
#[derive(Debug)]
pub enum Failure {
    /// Another one serves; the text names it.
    AnotherRuns(String),
    /// Anything else.
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Runs until it is told to stop.
pub async fn run(args: Args) -> Result<(), Failure> {
    start_logging(args.debug);
    if args.detach {
        // Fails only for the leader of a group, which has no terminal to lose.
        let _ = rustix::process::setsid();
    }
    let paths = HostPaths::of_user(rustix::process::geteuid().as_raw())?;
    let instance = Instance::take(&paths).map_err(|error| match error {
        InstanceError::AnotherRuns { .. } => Failure::AnotherRuns(error.to_string()),
        error => Failure::Other(error.into()),
    })?;
    let settings = Arc::new(SettingsStore::open(&paths.settings_file())?);
    let console = Console::open(&paths.console_log())
        .with_context(|| format!("opening {}", paths.console_log().display()))?;
    let programs = Programs::find()?;
    let stop_signals = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let host = instance.bind(&paths.host_socket())?;
    let buildkit = instance.bind(&paths.buildkit_socket())?;
    let agent = instance.bind(&paths.agent_socket())?;
    // From here on it serves: whoever waits for that word must not lose it again.
    if args.detach {
        tell_ready()?;
    }

    let traffic = Traffic::new();
    let (life, living) = life::life(Parts {
        drivers: drivers(&programs),
        paths: paths.clone(),
        settings: Arc::clone(&settings),
        console: console.clone(),
        traffic: Arc::clone(&traffic),
    });
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(living);
    for (listener, service) in [(buildkit, Service::Buildkit), (agent, Service::Agent)] {
        let (life, traffic, stop) = (life.clone(), Arc::clone(&traffic), stop.clone());
        tasks.spawn(publish(listener, service, life, traffic, stop));
    }
    let service = HostService {
        life: life.clone(),
        settings: Arc::clone(&settings),
        console,
        bench: Bench {
            paths: paths.clone(),
            settings,
            programs,
        },
        paths: paths.clone(),
        quit: stop_signals.clone(),
        stop: stop.clone(),
    };
    tasks.spawn(serve_host(host, service, stop.clone()));
    tracing::info!(runtime = %paths.runtime.display(), "serving");
    if args.start {
        let life = life.clone();
        tasks.spawn(async move {
            // The failure is in the status, and logged.
            drop(life.start(false).await);
        });
    }

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stop_signals.cancelled() => {}
    }
    tracing::info!("stopping");
    end(&life, &stop, &tasks, &paths).await;
    drop(instance);
    Ok(())
}

/// The machine first, so that clients hear of its end from it; then the sockets.
async fn end(life: &Life, stop: &CancellationToken, tasks: &TaskTracker, paths: &HostPaths) {
    // It may have ended already, by a call.
    drop(life.quit().await);
    stop.cancel();
    tasks.close();
    drop(tokio::time::timeout(DRAIN, tasks.wait()).await);
    for path in [
        paths.host_socket(),
        paths.buildkit_socket(),
        paths.agent_socket(),
    ] {
        drop(std::fs::remove_file(path));
    }
}

fn drivers(programs: &Programs) -> Vec<Arc<dyn Driver>> {
    vec![
        Arc::new(Qemu {
            own: programs.own.clone(),
            qemu: programs.qemu.clone(),
            guest: programs.guest.clone(),
            kvm: KvmHost::default(),
            kvm_hello: KVM_HELLO,
            tcg_hello: TCG_HELLO,
            ready: ENGINE_READY,
            silence: SILENCE,
        }),
        Arc::new(Native {
            own: programs.own.clone(),
            kilnd: programs.kilnd.clone(),
        }),
    ]
}

async fn serve_host(
    listener: tokio::net::UnixListener,
    service: HostService,
    stop: CancellationToken,
) {
    let served = tonic::transport::Server::builder()
        .add_service(HostServer::new(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "kiln.host.v1 isn't served any more");
    }
}

/// Whoever started this may go on; its pipe isn't kept open.
fn tell_ready() -> std::io::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{READY}")?;
    stdout.flush()?;
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

fn start_logging(debug: bool) {
    let default = if debug { "info,kiln_vm=debug" } else { "info" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("KILN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
