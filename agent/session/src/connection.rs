//! HTTP/2 with a client, in which the daemon is the HTTP client.
//!
//! The connection arrives as a byte stream inside another HTTP/2 connection, so each window counts
//! twice: both are raised, or a large file would wait for window updates all the time.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::TryFutureExt as _;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use http::uri::PathAndQuery;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kiln_filesync::grpc::{BytesCodec, MAX_MESSAGE};
use kiln_ids::SessionId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::Codec;
use tonic::metadata::MetadataMap;
use tower::Service;

use crate::Error;

const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
const FRAME: u32 = 256 << 10;
/// Messages that may wait between the producer of a stream and the connection.
const QUEUE: usize = 64;

/// A gRPC channel to one client. Cheap to clone; works with every generated client.
#[derive(Clone)]
pub struct Connection {
    requests: SendRequest<Body>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

/// Starts HTTP/2. The second value drives the connection and ends with it.
pub(crate) async fn open<T>(
    id: &SessionId,
    io: T,
) -> Result<(Connection, impl Future<Output = hyper::Result<()>> + use<T>), Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (requests, driver) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buf_size(1 << 20)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|source| Error::Connection {
            id: id.clone(),
            source,
        })?;
    Ok((Connection { requests }, driver))
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}

/// The messages of a call that go to the client, and those that come back.
pub(crate) type Exchange<E, D> = (
    mpsc::Sender<E>,
    BoxStream<'static, Result<D, tonic::Status>>,
);

/// The authority of every call: clients ignore it, HTTP/2 wants one.
pub(crate) fn origin() -> http::Uri {
    http::Uri::from_static("http://localhost")
}

impl Connection {
    /// Starts a call with streams both ways. Messages can be sent before the client answers; the
    /// call begins when the answer is first polled.
    pub(crate) fn stream<C>(
        &self,
        path: &'static str,
        metadata: MetadataMap,
        codec: C,
    ) -> Exchange<C::Encode, C::Decode>
    where
        C: Codec + Send + 'static,
        C::Encode: Send + Sync,
        C::Decode: Send + Sync,
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut grpc = Grpc::with_origin(self.clone(), origin())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let call = async move {
            grpc.ready()
                .await
                .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let mut request = tonic::Request::new(ReceiverStream::new(receiver));
            *request.metadata_mut() = metadata;
            grpc.streaming(request, PathAndQuery::from_static(path), codec)
                .await
        };
        let answers = call
            .map_ok(tonic::Response::into_inner)
            .try_flatten_stream();
        (sender, answers.boxed())
    }

    /// The same for messages of plain bytes.
    pub(crate) fn bytes(
        &self,
        path: &'static str,
        metadata: MetadataMap,
    ) -> Exchange<Bytes, Bytes> {
        let (sender, answers) = self.stream(path, metadata, BytesCodec);
        (sender, answers.into_stream().boxed())
    }
}
