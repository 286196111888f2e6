//! The server: services together, limits, and health.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use kiln_gateway::BridgeService;
use kiln_proto::content::content_server::ContentServer;
use kiln_proto::health as api;
use kiln_proto::health::health_server::{Health, HealthServer};
use kiln_proto::moby::buildkit::v1::control_server::ControlServer;
use kiln_proto::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridgeServer;
use kiln_proto::otlp_trace::trace_service_server::TraceServiceServer;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::service::Routes;
pub use tonic::transport::server::Connected;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::ControlService;
use crate::content::ContentService;
use crate::trace::Collector;

/// BuildKit's limit for messages in both directions.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// What a session moves through one call would stall in the default windows of 64 KiB.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// How to serve.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Look for dead peers: for TCP, where a peer may vanish without a word.
    pub keep_alive: bool,
    /// Certificates, for TCP.
    pub tls: Option<TlsOptions>,
}

/// Certificates as PEM.
#[derive(Clone)]
pub struct TlsOptions {
    /// The server's chain.
    pub cert: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// Where clients' certificates must come from; without it clients need none.
    pub client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsOptions")
    }
}

/// All services.
pub fn routes(service: ControlService) -> Routes {
    let engine = service.engine().clone();
    let bridge = LlbBridgeServer::new(BridgeService::joined(engine.registrar().clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let content = ContentServer::new(ContentService::new(engine.content().clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let control = ControlServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let traces = TraceServiceServer::new(Collector(engine.history().traces().clone()))
        .max_decoding_message_size(MAX_MESSAGE);
    Routes::new(control)
        .add_service(bridge)
        .add_service(content)
        .add_service(traces)
        .add_service(HealthServer::new(Serving))
}

/// Serves connections until `shutdown` is done, then waits for calls to end.
pub async fn serve<I, C, E>(
    routes: Routes,
    connections: I,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = Result<C, E>>,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    C::ConnectInfo: Clone + Send + Sync + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut server = Server::builder();
    if let Some(tls) = options.tls {
        let mut config = ServerTlsConfig::new().identity(Identity::from_pem(tls.cert, tls.key));
        if let Some(ca) = tls.client_ca {
            config = config.client_ca_root(Certificate::from_pem(ca));
        }
        server = server.tls_config(config)?;
    }
    server
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(options.keep_alive.then_some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, shutdown)
        .await
}

/// A daemon that answers is healthy.
#[derive(Debug, Clone, Copy)]
struct Serving;

fn serving() -> api::HealthCheckResponse {
    api::HealthCheckResponse {
        status: api::health_check_response::ServingStatus::Serving as i32,
    }
}

#[tonic::async_trait]
impl Health for Serving {
    async fn check(
        &self,
        _: Request<api::HealthCheckRequest>,
    ) -> Result<Response<api::HealthCheckResponse>, Status> {
        Ok(Response::new(serving()))
    }

    async fn list(
        &self,
        _: Request<api::HealthListRequest>,
    ) -> Result<Response<api::HealthListResponse>, Status> {
        Ok(Response::new(api::HealthListResponse {
            statuses: [(String::new(), serving())].into(),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<api::HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        _: Request<api::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // It stays healthy until the connection ends with the daemon.
        let first = futures::stream::once(async { Ok(serving()) });
        Ok(Response::new(Box::pin(futures::StreamExt::chain(
            first,
            futures::stream::pending(),
        ))))
    }
}
