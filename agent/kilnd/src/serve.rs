//! From the first connection to the last: serving, and draining.
//!
//! ```text
//! serving ── SIGTERM, SIGINT ──► draining: no new connections, builds may end ── 5 s, or none left ──►
//!   stopping: builds are cancelled, sessions end ──► state closed, sockets gone
//! ```
//! A second signal cuts the draining short.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use kiln_control::{Routes, ServerOptions};
use kiln_engine::Engine;
use kiln_store::StateRoot;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connections::Connections;
use crate::listen::Listener;
use crate::machine::Surroundings;

/// How long builds may go on after a signal. Everything must be over in 20 s.
const DRAIN: Duration = Duration::from_secs(5);

/// How long calls may take to end once nothing runs.
const HANG_UP: Duration = Duration::from_secs(1);

/// A daemon that is ready to serve.
pub(crate) struct Daemon {
    pub(crate) surroundings: Surroundings,
    pub(crate) engine: Engine,
    pub(crate) executor: std::sync::Arc<dyn kiln_executor::Executor>,
    /// What steps are connected to.
    pub(crate) bridge: Option<std::sync::Arc<kiln_network::Bridge>>,
    /// Every service, of each address.
    pub(crate) routes: Routes,
    pub(crate) state: StateRoot,
    pub(crate) sockets: Vec<std::path::PathBuf>,
    pub(crate) tls: Option<kiln_control::TlsOptions>,
    /// Work in the background (garbage collection), which ends when its token is cancelled.
    pub(crate) background: TaskTracker,
    pub(crate) stop_background: CancellationToken,
}

/// The signals that stop the daemon. Caught from the start, so that one that comes while the state is
/// being opened ends in an orderly stop too.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on they don't kill the process.
    pub(crate) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Serves until a signal comes, then drains.
pub(crate) async fn until_stopped(
    daemon: Daemon,
    listeners: Vec<Listener>,
    mut signals: StopSignals,
) -> anyhow::Result<()> {
    let stop_accepting = CancellationToken::new();
    let servers = TaskTracker::new();
    for listener in listeners {
        let stop = stop_accepting.clone();
        servers.spawn(serve_one(
            daemon.routes.clone(),
            daemon.tls.clone(),
            listener,
            daemon.surroundings.connections.clone(),
            async move { stop.cancelled().await },
        ));
    }
    servers.close();
    tracing::info!("serving");
    tokio::select! {
        () = signals.next() => {}
        () = daemon.surroundings.stop.cancelled() => {}
        () = servers.wait() => anyhow::bail!("all servers ended"),
    }
    tracing::info!("stopping");
    stop_accepting.cancel();
    tokio::select! {
        () = daemon.engine.idle() => {}
        () = tokio::time::sleep(DRAIN) => tracing::warn!("builds that still run are cancelled"),
        () = signals.next() => {}
    }
    daemon.engine.shut_down().await;
    daemon.executor.drain().await;
    if let Some(bridge) = daemon.bridge {
        // Fails only with a panic, which has been told.
        let _ = tokio::task::spawn_blocking(move || bridge.close()).await;
    }
    daemon.stop_background.cancel();
    daemon.background.close();
    daemon.background.wait().await;
    // Sessions are calls that last as long as their clients: those who stay are hung up on.
    let _ = tokio::time::timeout(HANG_UP, servers.wait()).await;
    for socket in &daemon.sockets {
        let _ = std::fs::remove_file(socket);
    }
    let Daemon {
        engine,
        routes,
        state,
        ..
    } = daemon;
    drop((engine, routes));
    state.close().await.context("closing the state")?;
    Ok(())
}

async fn serve_one(
    routes: Routes,
    tls: Option<kiln_control::TlsOptions>,
    listener: Listener,
    counter: Connections,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let served = match listener {
        Listener::Unix(socket) => {
            let options = ServerOptions::default();
            let connections = UnixListenerStream::new(socket)
                .map(|connection| connection.map(|connection| counter.count(connection)));
            kiln_control::serve(routes, connections, options, stop).await
        }
        Listener::Tcp(socket) => {
            let options = ServerOptions {
                keep_alive: true,
                tls,
            };
            let connections = TcpListenerStream::new(socket).inspect(|connection| {
                if let Ok(connection) = connection {
                    // Small messages of a session must not wait for one another.
                    let _ = connection.set_nodelay(true);
                }
            });
            let connections = connections
                .map(|connection| connection.map(|connection| counter.count(connection)));
            kiln_control::serve(routes, connections, options, stop).await
        }
        Listener::Link(streams) => {
            let connections = ReceiverStream::new(streams)
                .map(|stream| Ok::<_, std::io::Error>(counter.count(stream)));
            kiln_control::serve(routes, connections, ServerOptions::default(), stop).await
        }
    };
    if let Err(error) = served {
        tracing::error!(error = &error as &dyn std::error::Error, "a server ended");
    }
}
