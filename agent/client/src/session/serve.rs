//! Which call goes where.

use std::sync::Arc;

use futures::stream::{BoxStream, StreamExt as _};
use http::Request;
use hyper::body::Incoming;
use kiln_filesync::grpc::{BytesCodec, MAX_MESSAGE, PacketCodec};
use kiln_proto::health::{HealthCheckResponse, health_check_response::ServingStatus};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::server::Grpc;
use tonic::{Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{Attached, Attachments, auth, content, files, secrets, ssh, upload};

pub(super) const HEALTH: &str = "/grpc.health.v1.Health/Check";
pub(super) const SYNC: &str = "/moby.filesync.v1.FileSync/DiffCopy";
pub(super) const SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
pub(super) const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
pub(super) const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
pub(super) const SSH_CHECK: &str = "/moby.sshforward.v1.SSH/CheckAgent";
pub(super) const UPLOAD: &str = "/moby.upload.v1.Upload/Pull";
const CONTENT: &str = "/containerd.services.content.v1.Content/";
/// What is offered of it; the rest is answered as unimplemented.
const CONTENT_METHODS: [&str; 5] = [
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/Read",
    "/containerd.services.content.v1.Content/Status",
    "/containerd.services.content.v1.Content/Write",
    "/containerd.services.content.v1.Content/Abort",
];
pub(super) const SSH_FORWARD: &str = "/moby.sshforward.v1.SSH/ForwardAgent";

/// The methods that are offered.
pub(super) fn methods(attachments: &Attachments) -> Vec<&'static str> {
    let mut methods = vec![HEALTH];
    if !attachments.dirs.is_empty() {
        methods.push(SYNC);
    }
    if !attachments.outputs.is_empty() {
        methods.push(SEND);
    }
    if attachments.credentials.is_some() {
        methods.push(CREDENTIALS);
    }
    if !attachments.secrets.is_empty() {
        methods.push(SECRET);
    }
    if !attachments.ssh.is_empty() {
        methods.extend([SSH_CHECK, SSH_FORWARD]);
    }
    if !attachments.uploads.is_empty() {
        methods.push(UPLOAD);
    }
    if !attachments.stores.is_empty() {
        methods.extend(CONTENT_METHODS);
    }
    methods
}

pub(super) type Answers<T> = Result<Response<BoxStream<'static, Result<T, Status>>>, Status>;

/// Answers one call of the daemon.
pub(super) async fn answer(
    attached: Arc<Attached>,
    request: Request<Incoming>,
) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        HEALTH => {
            let check = tower::service_fn(|_: tonic::Request<_>| async {
                Ok::<_, Status>(Response::new(HealthCheckResponse {
                    status: ServingStatus::Serving.into(),
                }))
            });
            let codec = ProstCodec::<_, kiln_proto::health::HealthCheckRequest>::default();
            Grpc::new(codec).unary(check, request).await
        }
        SYNC => {
            let handler = move |request| files::sync(Arc::clone(&attached), request);
            streaming(PacketCodec, request, handler).await
        }
        SEND => {
            // One method, two protocols: which one the output decides.
            let output = files::take_output(&attached, request.headers());
            match output {
                Ok(files::Taken::Directory { path, delete }) => {
                    let handler = move |request| files::receive_dir(path.clone(), delete, request);
                    streaming(PacketCodec, request, handler).await
                }
                Ok(files::Taken::File(target)) => {
                    let target = Arc::new(parking_lot::Mutex::new(Some(target)));
                    let handler = move |request| files::receive_file(target.lock().take(), request);
                    streaming(BytesCodec, request, handler).await
                }
                Err(status) => status.into_http(),
            }
        }
        CREDENTIALS => {
            let call = tower::service_fn(move |request: tonic::Request<_>| {
                auth::credentials(Arc::clone(&attached), request.into_inner())
            });
            Grpc::new(ProstCodec::default()).unary(call, request).await
        }
        SECRET => {
            let call = tower::service_fn(move |request: tonic::Request<_>| {
                secrets::get(Arc::clone(&attached), request.into_inner())
            });
            Grpc::new(ProstCodec::default()).unary(call, request).await
        }
        SSH_CHECK => {
            let call = tower::service_fn(move |request: tonic::Request<_>| {
                let answer = ssh::check(&attached, &request.into_inner());
                async move { answer }
            });
            Grpc::new(ProstCodec::default()).unary(call, request).await
        }
        SSH_FORWARD => {
            let handler = move |request| ssh::forward(Arc::clone(&attached), request);
            streaming(BytesCodec, request, handler).await
        }
        UPLOAD => {
            let handler = move |request| {
                let answer = upload::pull(&attached, &request);
                async move { answer }
            };
            streaming(BytesCodec, request, handler).await
        }
        path if path.starts_with(CONTENT) && !attached.stores.is_empty() => {
            content::serve(attached, request).await
        }
        path => Status::unimplemented(format!("unknown method {path}")).into_http(),
    }
}

async fn streaming<C, T, F, Fut>(
    codec: C,
    request: Request<Incoming>,
    handler: F,
) -> http::Response<Body>
where
    C: Codec<Encode = T, Decode = T> + Send + 'static,
    T: Send + Sync + 'static,
    F: Fn(tonic::Request<Streaming<T>>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Answers<T>> + Send + 'static,
{
    let call = tower::service_fn(handler);
    Grpc::new(codec)
        .apply_max_message_size_config(Some(MAX_MESSAGE), Some(MAX_MESSAGE))
        .streaming(call, request)
        .await
}

/// The answers that `work` sends through a channel, and its failure at the end.
pub(super) fn answers<T: Send + 'static>(
    receiver: mpsc::Receiver<T>,
    work: JoinHandle<Result<(), Status>>,
) -> Response<BoxStream<'static, Result<T, Status>>> {
    let guard = AbortOnDrop(work);
    let end = async move {
        let mut guard = guard;
        match (&mut guard.0).await {
            Ok(Ok(())) => None,
            Ok(Err(status)) => Some(Err(status)),
            Err(error) => Some(Err(Status::internal(error.to_string()))),
        }
    };
    let end = futures::stream::once(end).filter_map(|end| async { end });
    let all = ReceiverStream::new(receiver).map(Ok).chain(end);
    Response::new(all.boxed())
}

/// The work ends with the call.
struct AbortOnDrop(JoinHandle<Result<(), Status>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
