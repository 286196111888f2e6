//! A daemon that does nothing: it takes a session and answers every build at once. What a build costs on it is the
//! floor that no daemon can get under with this client.

use std::net::Shutdown;
use std::path::Path;
use std::pin::Pin;

use anyhow::Result;
use futures::{Stream, StreamExt as _};
use kiln_proto::moby::buildkit::v1 as api;
use kiln_proto::moby::buildkit::v1::control_server::{Control, ControlServer};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// A running null daemon.
#[derive(Debug)]
pub(crate) struct NullDaemon {
    _runtime: Runtime,
}

impl NullDaemon {
    pub(crate) fn start(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(async { tokio::net::UnixListener::bind(socket) })?;
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(ControlServer::new(Nothing))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        std::os::unix::net::UnixStream::connect(socket)?.shutdown(Shutdown::Both)?;
        Ok(Self { _runtime: runtime })
    }
}

struct Nothing;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn nothing<T: Send + 'static>() -> Response<Answers<T>> {
    Response::new(futures::stream::empty().boxed())
}

fn refused<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the null daemon only builds"))
}

#[tonic::async_trait]
impl Control for Nothing {
    type PruneStream = Answers<api::UsageRecord>;
    type StatusStream = Answers<api::StatusResponse>;
    type SessionStream = Answers<api::BytesMessage>;
    type ListenBuildHistoryStream = Answers<api::BuildHistoryEvent>;

    async fn solve(
        &self,
        _: Request<api::SolveRequest>,
    ) -> Result<Response<api::SolveResponse>, Status> {
        Ok(Response::new(api::SolveResponse::default()))
    }

    async fn status(
        &self,
        _: Request<api::StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        Ok(nothing())
    }

    async fn session(
        &self,
        request: Request<Streaming<api::BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        // Open as long as the client's end, like a session that nobody calls.
        let messages = request
            .into_inner()
            .filter_map(|message| async move { message.err().map(Err) });
        Ok(Response::new(messages.boxed()))
    }

    async fn prune(
        &self,
        _: Request<api::PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        refused()
    }

    async fn disk_usage(
        &self,
        _: Request<api::DiskUsageRequest>,
    ) -> Result<Response<api::DiskUsageResponse>, Status> {
        refused()
    }

    async fn list_workers(
        &self,
        _: Request<api::ListWorkersRequest>,
    ) -> Result<Response<api::ListWorkersResponse>, Status> {
        refused()
    }

    async fn info(
        &self,
        _: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        refused()
    }

    async fn listen_build_history(
        &self,
        _: Request<api::BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        refused()
    }

    async fn update_build_history(
        &self,
        _: Request<api::UpdateBuildHistoryRequest>,
    ) -> Result<Response<api::UpdateBuildHistoryResponse>, Status> {
        refused()
    }
}
