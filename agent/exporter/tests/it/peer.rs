//! The session endpoint of a daemon on a unix socket, and clients of it.

use std::convert::Infallible;
use std::path::PathBuf;

use bytes::Bytes;
use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kiln_client::{Address, Attachments, Client, Session};
use kiln_filesync::grpc::BytesCodec;
use kiln_ids::SessionId;
use kiln_session::{Caller, MessageIo, SessionHeaders, SessionManager};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A daemon that only knows sessions.
pub(crate) struct Peer {
    pub(crate) sessions: SessionManager,
    socket: PathBuf,
    server: JoinHandle<()>,
    _dir: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A client whose session is served until this is dropped.
pub(crate) struct Attached {
    pub(crate) id: SessionId,
    serving: JoinHandle<()>,
}

impl Attached {
    /// The client is gone without a word.
    pub(crate) fn die(&self) {
        self.serving.abort();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.die();
    }
}

impl Peer {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let sessions = SessionManager::new();
        let server = tokio::spawn(serve(listener, sessions.clone()));
        Self {
            sessions,
            socket,
            server,
            _dir: dir,
        }
    }

    pub(crate) async fn attach(&self, attachments: Attachments) -> Attached {
        let client = Client::connect(&Address::Unix(self.socket.clone()))
            .await
            .unwrap();
        let session = Session::open(&client, attachments).unwrap();
        let id = session.id().clone();
        let serving = tokio::spawn(async move {
            let _client = client;
            let _ = session.serve().await;
        });
        Attached { id, serving }
    }

    pub(crate) async fn caller(&self, attached: &Attached) -> Caller {
        self.sessions.get(&attached.id).await.unwrap()
    }
}

async fn serve(listener: UnixListener, sessions: SessionManager) {
    while let Ok((stream, _)) = listener.accept().await {
        let sessions = sessions.clone();
        let service = hyper::service::service_fn(move |request| {
            let sessions = sessions.clone();
            async move { Ok::<_, Infallible>(answer(sessions, request).await) }
        });
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(8 << 20)
                .initial_connection_window_size(32 << 20)
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer(
    sessions: SessionManager,
    request: http::Request<Incoming>,
) -> http::Response<tonic::body::Body> {
    assert_eq!(request.uri().path(), "/moby.buildkit.v1.Control/Session");
    let call = tower::service_fn(move |request: Request<Streaming<Bytes>>| {
        let sessions = sessions.clone();
        async move {
            let headers = request.metadata().clone().into_headers();
            let headers = SessionHeaders::from_http(&headers)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            let (outgoing, receiver) = mpsc::channel(16);
            let io = MessageIo::new(request.into_inner(), outgoing);
            tokio::spawn(async move { sessions.serve(headers, io).await });
            Ok::<_, Status>(Response::new(ReceiverStream::new(receiver).map(Ok)))
        }
    });
    tonic::server::Grpc::new(BytesCodec)
        .streaming(call, request)
        .await
}
