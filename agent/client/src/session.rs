//! The session: what the daemon may use of the client while it builds.
//!
//! The client is the gRPC *server* here, over HTTP/2 inside the messages of a `Session` call. What is
//! offered is exactly what [`Attachments`] says: a method whose service isn't attached isn't announced
//! and is answered as unimplemented.

mod auth;
mod content;
mod files;
mod secrets;
mod serve;
mod ssh;
mod upload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use http::uri::PathAndQuery;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kiln_filesync::MessageIo;
use kiln_filesync::grpc::{BytesCodec, MAX_MESSAGE};
use kiln_ids::SessionId;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::client::random_id;
use crate::connect::{CONNECTION_WINDOW, FRAME, STREAM_WINDOW};
use crate::{Client, Error};

pub use auth::{Credential, CredentialSource, DockerConfig};

/// A secret's value, read when it is asked for.
#[derive(Clone)]
pub enum Secret {
    /// A file's content.
    File(PathBuf),
    /// An environment variable's value.
    Env(String),
    /// The bytes themselves.
    Bytes(Bytes),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
            Self::Bytes(_) => f.write_str("Bytes"),
        }
    }
}

/// Where a single file goes.
pub type Sink = Pin<Box<dyn AsyncWrite + Send>>;

/// Bytes that the daemon gets once.
pub type Upload = Pin<Box<dyn AsyncRead + Send>>;

/// Where an exporter's files go.
pub enum Output {
    /// Nowhere: the exporter sends nothing.
    None,
    /// Into a directory, which is made if it isn't there.
    Directory {
        /// The directory.
        path: PathBuf,
        /// Delete what the build didn't produce.
        delete: bool,
    },
    /// Into a file, which is replaced when the whole of it has arrived.
    File(PathBuf),
    /// Into a stream, such as standard output.
    Stream(Sink),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Directory { path, .. } => f.debug_tuple("Directory").field(path).finish(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// What the daemon may use.
#[derive(Default)]
pub struct Attachments {
    /// Stays the same for builds of the same directory, so that only changes are sent.
    pub shared_key: String,
    /// Directories by name: `context`, `dockerfile`.
    pub dirs: BTreeMap<String, PathBuf>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// Sockets of ssh agents by id; `default` is the usual one.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Credentials for registries.
    pub credentials: Option<Arc<dyn CredentialSource>>,
    /// Where each exporter's files go, by the exporter's number.
    pub outputs: Vec<Output>,
    /// Streams by id: what a build uses as `http://buildkit-session/ID`.
    pub uploads: BTreeMap<String, Upload>,
    /// OCI layouts by name, to read from and to write to: `oci:ID`, `local:DIRECTORY`, `export`.
    pub stores: BTreeMap<String, PathBuf>,
}

impl std::fmt::Debug for Attachments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachments")
            .field("shared_key", &self.shared_key)
            .field("dirs", &self.dirs)
            .field("secrets", &self.secrets)
            .field("ssh", &self.ssh)
            .field("outputs", &self.outputs)
            .field("stores", &self.stores)
            .finish_non_exhaustive()
    }
}

/// The attachments while they are served.
pub(crate) struct Attached {
    dirs: BTreeMap<String, PathBuf>,
    secrets: BTreeMap<String, Secret>,
    ssh: BTreeMap<String, PathBuf>,
    credentials: Option<Arc<dyn CredentialSource>>,
    outputs: Mutex<Vec<Output>>,
    uploads: Mutex<BTreeMap<String, Upload>>,
    stores: BTreeMap<String, PathBuf>,
}

/// A session that the daemon knows of.
pub struct Session {
    id: SessionId,
    attached: Arc<Attached>,
    io: MessageIo,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Session").field(&self.id).finish()
    }
}

impl Session {
    /// Announces the attachments to the daemon. [`serve`](Self::serve) must be running for it to use
    /// them.
    pub fn open(client: &Client, attachments: Attachments) -> Result<Self, Error> {
        let id = SessionId::new(random_id()?);
        let methods = serve::methods(&attachments);
        let metadata = metadata(&id, &attachments.shared_key, &methods)?;
        let (outgoing, receiver) = mpsc::channel::<Bytes>(16);
        let mut grpc = tonic::client::Grpc::new(client.channel())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let call = async move {
            grpc.ready()
                .await
                .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let mut request = tonic::Request::new(ReceiverStream::new(receiver));
            *request.metadata_mut() = metadata;
            let path = PathAndQuery::from_static("/moby.buildkit.v1.Control/Session");
            let answer = grpc.streaming(request, path, BytesCodec).await?;
            Ok::<_, tonic::Status>(answer.into_inner())
        };
        // A daemon may answer only once it has something to say, so the call goes on in `serve`.
        let incoming = futures::TryFutureExt::try_flatten_stream(call);
        Ok(Self {
            id,
            io: MessageIo::new(incoming.boxed(), outgoing),
            attached: Arc::new(Attached {
                dirs: attachments.dirs,
                secrets: attachments.secrets,
                ssh: attachments.ssh,
                credentials: attachments.credentials,
                outputs: Mutex::new(attachments.outputs),
                uploads: Mutex::new(attachments.uploads),
                stores: attachments.stores,
            }),
        })
    }

    /// The id under which a solve request names the session.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Serves the daemon until it ends the session. Dropping the future ends it too.
    pub fn serve(self) -> impl Future<Output = Result<(), Error>> + Send {
        let attached = self.attached;
        let service = hyper::service::service_fn(move |request| {
            let attached = Arc::clone(&attached);
            async move { Ok::<_, std::convert::Infallible>(serve::answer(attached, request).await) }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buf_size(1 << 20)
            .max_concurrent_streams(1024)
            .serve_connection(TokioIo::new(self.io), service);
        async move { connection.await.map_err(Error::Session) }
    }
}

fn metadata(
    id: &SessionId,
    shared_key: &str,
    methods: &[&'static str],
) -> Result<MetadataMap, Error> {
    let value = |text: &str| {
        MetadataValue::try_from(text).map_err(|_| Error::Metadata {
            text: text.to_owned(),
        })
    };
    let mut map = MetadataMap::new();
    map.insert("x-docker-expose-session-uuid", value(id.as_str())?);
    map.insert("x-docker-expose-session-sharedkey", value(shared_key)?);
    for method in methods {
        map.append("x-docker-expose-session-grpc-method", value(method)?);
    }
    Ok(map)
}
