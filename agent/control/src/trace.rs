//! The collector that clients send their spans to.
//!
//! Spans of builds that run are kept with their records, and all are sent on where the daemon has a collector of
//! its own. A refusal is reported to users as a failure of tracing, so those that nobody wants are taken and let
//! go.

use kiln_history::Traces;
use kiln_proto::otlp_trace as api;
use kiln_proto::otlp_trace::trace_service_server::TraceService;
use tonic::{Request, Response, Status};

/// Takes spans.
#[derive(Debug, Clone)]
pub(crate) struct Collector(pub(crate) Traces);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<api::ExportTraceServiceRequest>,
    ) -> Result<Response<api::ExportTraceServiceResponse>, Status> {
        self.0.take(request.into_inner());
        Ok(Response::new(api::ExportTraceServiceResponse::default()))
    }
}
