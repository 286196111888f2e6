//! The guest's end of the link: one owner of the port, one life after the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use kiln_control::Connected;
use kiln_link::machine::{PORT, Report, Reporter, Setup};
use kiln_link::{Incoming, Link, Service, Stream};
use kiln_sys::port::SerialPort;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};

const PORTS: &str = "/sys/class/virtio-ports";
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether a host has come: the kernel doesn't tell who isn't registered, and a registration
/// never forgets that there was none.
const LOOK: Duration = Duration::from_millis(25);

/// A stream of the link as a connection of a server.
#[derive(Debug)]
pub(crate) struct LinkStream(Stream);

/// What the link hands to the rest of the daemon.
pub(super) struct Ends {
    /// The first of a boot is what the guest is set up with; each sets the clock.
    pub(super) setups: mpsc::Sender<Setup>,
    /// What hosts are told.
    pub(super) reports: watch::Receiver<Report>,
    /// The link to the host that is there.
    pub(super) link: watch::Sender<Option<Link>>,
    /// Clients of the engine; they wait until it is there.
    pub(super) streams: mpsc::Sender<LinkStream>,
}

/// The device of the port that is named for the link.
pub(super) fn port() -> anyhow::Result<SerialPort> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(device) = find(Path::new(PORTS)) {
            return Ok(SerialPort::open(&device)?);
        }
        if Instant::now() > end {
            anyhow::bail!("the machine has no virtio-serial port of the name {PORT}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn find(ports: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(ports).ok()?.flatten();
    let entry = entries.find(|entry| {
        fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT)
    })?;
    Some(Path::new("/dev").join(entry.file_name()))
}

/// Serves one host after the other, for ever.
pub(super) async fn serve(port: SerialPort, ends: Ends) {
    loop {
        match port.host_is_there() {
            Ok(true) => {}
            Ok(false) | Err(_) => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
        }
        let life = async {
            let connection = port.connect().map_err(kiln_link::LinkError::Stream)?;
            kiln_link::connect_guest(connection, PATIENCE).await
        };
        match life.await {
            Ok((link, incoming)) => {
                tracing::info!("a host is on the link");
                ends.link.send_replace(Some(link));
                accept(incoming, &ends).await;
                ends.link.send_replace(None);
                tracing::info!("the host left the link");
            }
            Err(error) => {
                tracing::info!(error = &error as &dyn std::error::Error, "link");
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

async fn accept(mut incoming: Incoming, ends: &Ends) {
    while let Some((service, stream)) = incoming.accept().await {
        match service {
            Service::Machine => {
                tokio::spawn(report(stream, ends.setups.clone(), ends.reports.clone()));
            }
            Service::Buildkit | Service::Agent => {
                if ends.streams.try_send(LinkStream(stream)).is_err() {
                    tracing::warn!(
                        "more clients than the engine takes, or it is gone: one is hung up on"
                    );
                }
            }
            Service::Docker => tracing::warn!("the Docker API isn't built in yet"),
            Service::Host | Service::Ping => {
                tracing::warn!(service = service.name(), "that isn't for the host to ask");
            }
        }
    }
}

async fn report(stream: Stream, setups: mpsc::Sender<Setup>, mut reports: watch::Receiver<Report>) {
    let (setup, mut reporter) = match Reporter::accept(stream).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "setup");
            return;
        }
    };
    if setup.unix_nanos > 0
        && let Err(error) = super::system::set_clock_nanos(setup.unix_nanos)
    {
        tracing::warn!(%error, "the clock stays as it is");
    }
    // Only the first one of a boot is waited for.
    let _ = setups.try_send(setup);
    loop {
        let report = reports.borrow_and_update().clone();
        if reporter.tell(&report).await.is_err() || reports.changed().await.is_err() {
            return;
        }
    }
}

impl Connected for LinkStream {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for LinkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
