//! QEMU's control socket: the few commands that the owner gives.

use std::io;
use std::time::Duration;

use qapi::futures::{QapiService, QmpStreamTokio};
use qapi::qmp;
use tokio::io::WriteHalf;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(10);
/// As in the command line.
pub(super) const DISK_NODE: &str = "data";

/// The connection.
pub(super) struct Qmp {
    service: QapiService<QmpStreamTokio<WriteHalf<UnixStream>>>,
    _stop: DropGuard,
}

impl Qmp {
    /// Talks to a QEMU that has connected.
    pub(super) async fn open(stream: UnixStream) -> io::Result<Self> {
        let greeting = async { QmpStreamTokio::open(stream).await?.negotiate().await };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "QEMU doesn't greet");
        let stream = timeout(PATIENCE, greeting).await.map_err(|_| late())??;
        let (service, events) = stream.into_parts();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        // Answers are found by whoever reads the events.
        tokio::spawn(async move {
            tokio::select! {
                () = events.into_future() => {}
                () = stopped.cancelled() => {}
            }
        });
        Ok(Self {
            service,
            _stop: stop.drop_guard(),
        })
    }

    async fn execute<C: qmp::QmpCommand>(&self, command: C) -> io::Result<()> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "QEMU doesn't answer");
        let answer = timeout(PATIENCE, self.service.execute(command)).await;
        answer
            .map_err(|_| late())?
            .map(drop)
            .map_err(|error| io::Error::other(error.to_string()))
    }

    /// The disk's file and the device become this large.
    pub(super) async fn resize_disk(&self, bytes: u64) -> io::Result<()> {
        let size = i64::try_from(bytes).map_err(io::Error::other)?;
        self.execute(qmp::block_resize {
            device: None,
            node_name: Some(DISK_NODE.to_owned()),
            size,
        })
        .await
    }

    /// As if somebody pressed it.
    pub(super) async fn power_button(&self) -> io::Result<()> {
        self.execute(qmp::system_powerdown {}).await
    }

    /// Ends QEMU, without a word to the guest.
    pub(super) async fn quit(&self) -> io::Result<()> {
        self.execute(qmp::quit {}).await
    }
}

impl std::fmt::Debug for Qmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Qmp")
    }
}
