//! Many streams over one channel.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::future::poll_fn;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};
use yamux::{Config, Connection, Mode};

use crate::handshake::{self, HandshakeError};

/// Streams at once. Each may make the other side hold a window of 256 KiB and more.
const MAX_STREAMS: usize = 256;
/// What all windows together may hold.
const MAX_WINDOWS: usize = 256 << 20;
/// How long a fresh stream may take to say what it is for.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// BuildKit's gRPC API.
    Buildkit,
    /// The Docker Engine's HTTP API.
    Docker,
    /// `kiln.agent.v1`.
    Agent,
    /// The machine itself: [`crate::machine`].
    Machine,
    /// A port of the host's loopback, for the guest: [`Link::open_host_port`].
    Host,
    /// Nothing but a sign of life: [`Link::ping`].
    Ping,
}

impl Service {
    const ALL: [Self; 6] = [
        Self::Buildkit,
        Self::Docker,
        Self::Agent,
        Self::Machine,
        Self::Host,
        Self::Ping,
    ];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Buildkit => "buildkit",
            Self::Docker => "docker",
            Self::Agent => "agent",
            Self::Machine => "machine",
            Self::Host => "host",
            Self::Ping => "ping",
        }
    }
}

/// Why a link, or a stream of it, ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The link is gone.
    #[error("the link to the other side is closed")]
    Closed,
    /// The stream failed.
    #[error("link stream")]
    Stream(#[from] io::Error),
    /// The other side gives no sign of life.
    #[error("the other side didn't answer for {} s", .0.as_secs())]
    Silent(Duration),
    /// The other side announced a message that nobody would send.
    #[error("a message of {length} bytes, where {limit} are allowed")]
    TooLong {
        /// What it announced.
        length: usize,
        /// What would be believed.
        limit: usize,
    },
    /// The other side broke the protocol, or the channel broke.
    #[error("link")]
    Mux(#[from] yamux::ConnectionError),
}

/// A byte stream to a service of the other side.
pub struct Stream(Compat<yamux::Stream>);

/// Opens streams. Cheap to clone; the link lives while its [`Incoming`] or a clone of this does.
#[derive(Debug, Clone)]
pub struct Link {
    commands: mpsc::Sender<Command>,
}

/// Takes the streams that the other side opens.
#[derive(Debug)]
pub struct Incoming {
    streams: mpsc::Receiver<(Service, Stream)>,
}

type Command = oneshot::Sender<Result<yamux::Stream, LinkError>>;

/// Begins a life of the link as the host.
pub async fn connect_host<T>(mut io: T, patience: Duration) -> Result<(Link, Incoming), LinkError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    handshake::host(&mut io, patience).await?;
    Ok(start(io, Mode::Client))
}

/// Begins a life of the link as the guest. Returns when a host has been heard; `patience` is for a
/// host that stops in the middle of the handshake.
pub async fn connect_guest<T>(mut io: T, patience: Duration) -> Result<(Link, Incoming), LinkError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    handshake::guest(&mut io, patience).await?;
    Ok(start(io, Mode::Server))
}

fn start<T>(io: T, mode: Mode) -> (Link, Incoming)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut config = Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(MAX_WINDOWS));
    let connection = Connection::new(io.compat(), config, mode);
    let (commands, requests) = mpsc::channel(MAX_STREAMS);
    let (accepted, streams) = mpsc::channel(MAX_STREAMS);
    tokio::spawn(drive(connection, requests, accepted));
    (Link { commands }, Incoming { streams })
}

impl Link {
    /// Opens a stream to `service`.
    pub async fn open(&self, service: Service) -> Result<Stream, LinkError> {
        let (answer, stream) = oneshot::channel();
        self.commands
            .send(answer)
            .await
            .map_err(|_| LinkError::Closed)?;
        let mut stream = Stream(stream.await.map_err(|_| LinkError::Closed)??.compat());
        let name = service.name().as_bytes();
        let length = u8::try_from(name.len()).map_err(|_| LinkError::Closed)?;
        stream.write_u8(length).await?;
        stream.write_all(name).await?;
        stream.flush().await?;
        Ok(stream)
    }

    /// Opens a stream to a port of the host's loopback. The host closes it where its rules don't allow that.
    pub async fn open_host_port(&self, port: u16) -> Result<Stream, LinkError> {
        let mut stream = self.open(Service::Host).await?;
        stream.write_u16_le(port).await?;
        stream.flush().await?;
        Ok(stream)
    }

    /// Asks for a sign of life and returns how long it took. A side that doesn't know of pings hangs up, which is
    /// one as well. A clock that leaps, since this whole computer stood still, doesn't make the other side silent.
    pub async fn ping(&self, patience: Duration) -> Result<Duration, LinkError> {
        let begun = Instant::now();
        let answer = async {
            let mut stream = self.open(Service::Ping).await?;
            // It comes to its end, in one way or the other.
            drop(stream.read(&mut [0]).await);
            Ok(begun.elapsed())
        };
        tokio::select! {
            answer = answer => answer,
            () = lived(patience) => Err(LinkError::Silent(patience)),
        }
    }

    /// Returns when the link is gone.
    pub async fn closed(&self) {
        self.commands.closed().await;
    }
}

/// So long, of which no leap of the clock is more than a part.
async fn lived(time: Duration) {
    const PARTS: u32 = 10;
    for _ in 0..PARTS {
        tokio::time::sleep(time / PARTS).await;
    }
}

impl Incoming {
    /// The next stream, or `None` once the link is gone.
    pub async fn accept(&mut self) -> Option<(Service, Stream)> {
        self.streams.recv().await
    }
}

/// Owns the connection until it fails or nobody holds a handle on it.
async fn drive<T>(
    mut connection: Connection<Compat<T>>,
    mut requests: mpsc::Receiver<Command>,
    accepted: mpsc::Sender<(Service, Stream)>,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut waiting: Option<Command> = None;
    let end = poll_fn(|cx| {
        loop {
            let mut moved = false;
            if waiting.is_none() {
                match requests.poll_recv(cx) {
                    Poll::Ready(Some(command)) => waiting = Some(command),
                    Poll::Ready(None) if accepted.is_closed() => return Poll::Ready(Ok(())),
                    Poll::Ready(None) | Poll::Pending => {}
                }
            }
            // One whose requester left is dropped, and the next one asked for.
            moved |= waiting.take_if(|command| command.is_closed()).is_some();
            if let Some(command) = waiting.take() {
                match connection.poll_new_outbound(cx) {
                    Poll::Ready(stream) => {
                        moved = true;
                        // A requester that left meanwhile drops its stream, which resets it.
                        drop(command.send(stream.map_err(LinkError::from)));
                    }
                    Poll::Pending => waiting = Some(command),
                }
            }
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    moved = true;
                    tokio::spawn(introduce(stream, accepted.clone()));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {}
            }
            if !moved {
                return Poll::Pending;
            }
        }
    });
    if let Err(error) = end.await {
        tracing::info!(%error, "the link ended");
    }
    // Streams see an end only after the connection has closed; a broken channel may never do so.
    let close = poll_fn(|cx| connection.poll_close(cx));
    drop(tokio::time::timeout(Duration::from_secs(1), close).await);
}

/// Reads what a stream is for and hands it over.
async fn introduce(stream: yamux::Stream, accepted: mpsc::Sender<(Service, Stream)>) {
    let mut stream = Stream(stream.compat());
    let header = async {
        let length = stream.read_u8().await?;
        let mut name = vec![0; usize::from(length)];
        stream.read_exact(&mut name).await?;
        Ok::<_, io::Error>(name)
    };
    let service = match tokio::time::timeout(HEADER_PATIENCE, header).await {
        Ok(Ok(name)) => Service::ALL
            .into_iter()
            .find(|known| known.name().as_bytes() == name),
        Ok(Err(_)) | Err(_) => None,
    };
    match service {
        // The answer is the stream's end.
        Some(Service::Ping) => drop(stream.shutdown().await),
        Some(service) => drop(accepted.send((service, stream)).await),
        None => tracing::warn!("a stream of the link named no known service"),
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.0).poll_flush(cx))?;
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}
