//! A small OpenTelemetry collector: it takes spans over gRPC and over HTTP, and remembers them.
//!
//! Invariant: what isn't a request to export spans is refused.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use kiln_proto::otlp_trace as otlp;
use kiln_proto::otlp_trace::any_value::Value;
use kiln_proto::otlp_trace::trace_service_server::{TraceService, TraceServiceServer};
use prost::Message as _;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    grpc: u16,
    http: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    // Ends with the collector.
    _runtime: Runtime,
}

/// A span, with what came along.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `service.name` of what it comes from.
    pub service: String,
    /// Headers of the request.
    pub headers: BTreeMap<String, String>,
    /// The span.
    pub span: otlp::Span,
}

impl Collector {
    /// Starts one that has seen nothing.
    pub fn start() -> Result<Self> {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let http = listener.local_addr()?.port();
        let of_http = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&of_http);
                thread::spawn(move || {
                    // A client that hangs up in the middle is normal.
                    let _ = serve_http(&stream, &seen);
                });
            }
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let grpc = listener.local_addr()?.port();
        let service = TraceServiceServer::new(Grpc(Arc::clone(&seen)));
        runtime.spawn(async move {
            let connections = TcpListenerStream::new(listener);
            let server = Server::builder().add_service(service);
            // It ends with the runtime.
            let _ = server.serve_with_incoming(connections).await;
        });
        Ok(Self {
            grpc,
            http,
            seen,
            _runtime: runtime,
        })
    }

    /// Where it takes spans over gRPC.
    pub fn grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// Where it takes spans over HTTP, without the path.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// The spans that came so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> std::sync::MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember(
    seen: &Mutex<Vec<Seen>>,
    headers: &BTreeMap<String, String>,
    request: otlp::ExportTraceServiceRequest,
) {
    for of_resource in request.resource_spans {
        let attributes = of_resource.resource.unwrap_or_default().attributes;
        let name = attributes.into_iter().find(|one| one.key == "service.name");
        let service = match name.and_then(|one| one.value?.value) {
            Some(Value::StringValue(name)) => name,
            _ => String::new(),
        };
        let spans = of_resource.scope_spans.into_iter();
        lock(seen).extend(spans.flat_map(|scope| scope.spans).map(|span| Seen {
            service: service.clone(),
            headers: headers.clone(),
            span,
        }));
    }
}

struct Grpc(Arc<Mutex<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: Request<otlp::ExportTraceServiceRequest>,
    ) -> Result<Response<otlp::ExportTraceServiceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let headers = metadata.into_headers();
        let headers = headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect();
        remember(&self.0, &headers, request);
        Ok(Response::new(otlp::ExportTraceServiceResponse::default()))
    }
}

fn serve_http(stream: &TcpStream, seen: &Mutex<Vec<Seen>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream.try_clone()?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut headers = BTreeMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers
            .get("content-length")
            .and_then(|one| one.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let is_protobuf = headers
            .get("content-type")
            .is_some_and(|one| one == "application/x-protobuf");
        let request = otlp::ExportTraceServiceRequest::decode(body.as_slice());
        let status = match request {
            Ok(request) if is_protobuf && line.starts_with("POST /v1/traces ") => {
                remember(seen, &headers, request);
                "200 OK"
            }
            _ => "400 Bad Request",
        };
        write!(
            out,
            "HTTP/1.1 {status}\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
        )?;
    }
}
