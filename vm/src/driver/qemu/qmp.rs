//! QEMU's control socket: the few commands that the owner gives.

use std::io;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use qapi::futures::{QapiService, QmpStreamTokio};
use qapi::qmp;
use tokio::io::WriteHalf;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(10);
/// As in the command line.
pub(super) const DISK_NODE: &str = "data";

/// The connection.
pub(super) struct Qmp {
    service: QapiService<QmpStreamTokio<WriteHalf<UnixStream>>>,
    waits_for_room: watch::Receiver<bool>,
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
        let (waits, waits_for_room) = watch::channel(false);
        // Answers are found by whoever reads the events.
        tokio::spawn(async move {
            tokio::select! {
                () = listen(events, &waits) => {}
                () = stopped.cancelled() => {}
            }
        });
        Ok(Self {
            service,
            waits_for_room,
            _stop: stop.drop_guard(),
        })
    }

    async fn execute<C: qmp::QmpCommand>(&self, command: C) -> io::Result<C::Ok> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "QEMU doesn't answer");
        let answer = timeout(PATIENCE, self.service.execute(command)).await;
        answer
            .map_err(|_| late())?
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
        .map(drop)
    }

    /// As if somebody pressed it.
    pub(super) async fn power_button(&self) -> io::Result<()> {
        self.execute(qmp::system_powerdown {}).await.map(drop)
    }

    /// Whether QEMU has stopped the machine since a file of its finds no room on the host.
    pub(super) fn waits_for_room(&self) -> watch::Receiver<bool> {
        self.waits_for_room.clone()
    }

    /// A machine that was stopped goes on.
    pub(super) async fn go_on(&self) -> io::Result<()> {
        self.execute(qmp::cont {}).await.map(drop)
    }

    /// Ends QEMU, without a word to the guest.
    pub(super) async fn quit(&self) -> io::Result<()> {
        self.execute(qmp::quit {}).await.map(drop)
    }

    /// What QEMU's own monitor says to a question, for people.
    pub(super) async fn inspect(&self, question: &str) -> io::Result<String> {
        self.execute(qmp::human_monitor_command {
            cpu_index: None,
            command_line: question.to_owned(),
        })
        .await
    }

    /// Interrupts every processor in a way that none can turn off; the guest's kernel panics by it.
    pub(super) async fn interrupt_for_good(&self) -> io::Result<()> {
        self.execute(qmp::inject_nmi {}).await.map(drop)
    }
}

/// Until QEMU is gone.
async fn listen(
    mut events: impl Stream<Item = io::Result<qmp::Event>> + Unpin,
    waits_for_room: &watch::Sender<bool>,
) {
    loop {
        match events.next().await {
            Some(Ok(qmp::Event::BLOCK_IO_ERROR { data, .. })) => {
                tracing::warn!(reason = data.reason, "the machine's disk");
                if data.nospace == Some(true) && data.action == qmp::BlockErrorAction::stop {
                    waits_for_room.send_replace(true);
                }
            }
            Some(Ok(qmp::Event::RESUME { .. })) => drop(waits_for_room.send_replace(false)),
            Some(Ok(_)) => {}
            // An answer that nobody waits for any more.
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {}
            Some(Err(_)) | None => return,
        }
    }
}

impl std::fmt::Debug for Qmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Qmp")
    }
}
