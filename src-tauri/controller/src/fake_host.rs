//! An owner of a machine for tests: it keeps settings, says how the machine is, and has no machine.

use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use kiln_config::HostPaths;
use kiln_proto::host as wire;
use kiln_proto::host::host_server::{Host, HostServer};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::Controller;

/// What it is asked and tells.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeHost {
    pub(crate) settings: Arc<Mutex<wire::Settings>>,
    pub(crate) status: Arc<Mutex<wire::Status>>,
    pub(crate) uses: Arc<Mutex<Vec<wire::Use>>>,
}

impl FakeHost {
    /// A controller that it answers.
    pub(crate) fn serve(&self) -> (tempfile::TempDir, Controller) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let paths = HostPaths {
            runtime: at("r"),
            state: at("s"),
            config: at("c"),
        };
        std::fs::create_dir_all(&paths.runtime).unwrap();
        let listener = tokio::net::UnixListener::bind(paths.host_socket()).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(HostServer::new(self.clone()))
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::spawn(server);
        (directory, Controller::new(paths))
    }

    pub(crate) fn toml(&self) -> String {
        self.settings.lock().unwrap().buildkitd_toml.clone()
    }
}

type Reply<T> = Result<Response<T>, Status>;

fn none<T>() -> Reply<T> {
    Err(Status::unimplemented("there is no machine"))
}

#[tonic::async_trait]
impl Host for FakeHost {
    async fn get_status(&self, _: Request<wire::GetStatusRequest>) -> Reply<wire::Status> {
        Ok(Response::new(self.status.lock().unwrap().clone()))
    }

    type WatchStatusStream = BoxStream<'static, Result<wire::Status, Status>>;

    async fn watch_status(
        &self,
        _: Request<wire::WatchStatusRequest>,
    ) -> Reply<Self::WatchStatusStream> {
        Ok(Response::new(stream::pending().boxed()))
    }

    type WatchUseStream = BoxStream<'static, Result<wire::Use, Status>>;

    async fn watch_use(&self, _: Request<wire::WatchUseRequest>) -> Reply<Self::WatchUseStream> {
        let uses = self.uses.lock().unwrap().clone();
        Ok(Response::new(stream::iter(uses).map(Ok).boxed()))
    }

    async fn start(&self, _: Request<wire::StartRequest>) -> Reply<wire::Status> {
        none()
    }

    async fn stop(&self, _: Request<wire::StopRequest>) -> Reply<wire::Status> {
        none()
    }

    async fn restart(&self, _: Request<wire::RestartRequest>) -> Reply<wire::Status> {
        none()
    }

    async fn get_settings(&self, _: Request<wire::GetSettingsRequest>) -> Reply<wire::Settings> {
        Ok(Response::new(self.settings.lock().unwrap().clone()))
    }

    async fn set_settings(
        &self,
        request: Request<wire::SetSettingsRequest>,
    ) -> Reply<wire::SetSettingsResponse> {
        *self.settings.lock().unwrap() = request.into_inner().settings.unwrap_or_default();
        Ok(Response::new(wire::SetSettingsResponse {
            at_next_start: vec!["buildkitd-toml".into()],
        }))
    }

    type ReadConsoleStream = BoxStream<'static, Result<wire::ConsoleChunk, Status>>;

    async fn read_console(
        &self,
        _: Request<wire::ReadConsoleRequest>,
    ) -> Reply<Self::ReadConsoleStream> {
        none()
    }

    async fn reset(&self, _: Request<wire::ResetRequest>) -> Reply<wire::Status> {
        none()
    }

    type DiagnoseStream = BoxStream<'static, Result<wire::Check, Status>>;

    async fn diagnose(&self, _: Request<wire::DiagnoseRequest>) -> Reply<Self::DiagnoseStream> {
        none()
    }

    async fn quit(&self, _: Request<wire::QuitRequest>) -> Reply<wire::QuitResponse> {
        none()
    }
}
