//! `moby.buildkit.v1.Control`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use futures::{Stream, StreamExt as _};
use kiln_engine::{Engine, StatusSource};
use kiln_filesync::MessageIo;
use kiln_history::TraceContext;
use kiln_ids::BuildRef;
use kiln_progress::wire;
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::moby::buildkit::v1::control_server::Control;
use kiln_session::SessionHeaders;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::prune::Records;
use crate::{convert, history, prune};

/// Clients show times relative to the daemon's clock.
const TIMESTAMP_HEADER: &str = "buildkit-current-timestamp";

/// Updates wait in a queue this long; a client that reads slower gets merged ones.
const STATUS_QUEUE: usize = 4;

/// Chunks of a session that wait for the client.
const SESSION_QUEUE: usize = 32;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The control API of one engine.
#[derive(Clone)]
pub struct ControlService {
    engine: Engine,
    records: Arc<dyn Records>,
}

impl std::fmt::Debug for ControlService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlService").finish_non_exhaustive()
    }
}

impl ControlService {
    /// Over `engine` and the records of its cache.
    pub fn new(engine: Engine, records: Arc<dyn Records>) -> Self {
        Self { engine, records }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }
}

fn with_timestamp<T>(body: T) -> Response<T> {
    let mut response = Response::new(body);
    let now = time::OffsetDateTime::from(SystemTime::now());
    if let Some(now) = now
        .format(&time::format_description::well_known::Rfc3339)
        .ok()
        .and_then(|now| MetadataValue::try_from(now).ok())
    {
        response.metadata_mut().insert(TIMESTAMP_HEADER, now);
    }
    response
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn disk_usage(
        &self,
        request: Request<control::DiskUsageRequest>,
    ) -> Result<Response<control::DiskUsageResponse>, Status> {
        let records = self
            .records
            .usage(prune::usage_request(request.into_inner()))
            .await
            .map_err(convert::status)?;
        Ok(Response::new(control::DiskUsageResponse {
            record: records.into_iter().map(prune::usage_record).collect(),
        }))
    }

    type PruneStream = Messages<control::UsageRecord>;

    async fn prune(
        &self,
        request: Request<control::PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        let (sender, receiver) = mpsc::channel(32);
        let records = Arc::clone(&self.records);
        let request = prune::prune_request(request.into_inner());
        // The stream owns the work: a client that leaves stops it between two records.
        let work = async move { records.prune(request, sender).await };
        let removed = ReceiverStream::new(receiver).map(|record| Ok(prune::usage_record(record)));
        let failure = futures::stream::once(work)
            .filter_map(|outcome| async { outcome.err().map(|error| Err(convert::status(error))) });
        Ok(Response::new(Box::pin(futures::stream::select(
            removed, failure,
        ))))
    }

    async fn solve(
        &self,
        request: Request<control::SolveRequest>,
    ) -> Result<Response<control::SolveResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let mut request = convert::build(request)?;
        request.trace = metadata
            .get("traceparent")
            .and_then(|header| TraceContext::from_header(header.to_str().ok()?));
        if let Some(agent) = metadata.get("user-agent").and_then(|it| it.to_str().ok()) {
            agent.clone_into(&mut request.user_agent);
        }
        let response = self
            .engine
            .build(request)
            .await
            .map_err(|error| kiln_errdefs::to_build_status(error.as_ref()))?;
        Ok(Response::new(control::SolveResponse {
            exporter_response: response.exporter.into_iter().collect(),
        }))
    }

    type StatusStream = Messages<control::StatusResponse>;

    async fn status(
        &self,
        request: Request<control::StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let build = BuildRef::new(request.into_inner().r#ref);
        let engine = self.engine.clone();
        let (sender, receiver) = mpsc::channel(STATUS_QUEUE);
        // Headers go out at once, also while the build isn't there yet. The task ends with the build, or
        // when the client has left: then the next send fails.
        tokio::spawn(async move {
            let source = tokio::select! {
                source = engine.status(&build) => source,
                () = sender.closed() => return,
            };
            match source {
                Ok(StatusSource::Finished(log)) => {
                    for response in log {
                        if sender.send(Ok(response)).await.is_err() {
                            return;
                        }
                    }
                }
                Ok(StatusSource::Running(mut reader)) => loop {
                    let update = tokio::select! {
                        update = reader.next() => update,
                        () = sender.closed() => return,
                    };
                    let Some(update) = update else {
                        return;
                    };
                    for response in wire::responses(update) {
                        if sender.send(Ok(response)).await.is_err() {
                            return;
                        }
                    }
                },
                Err(error) => {
                    let _ = sender.send(Err(convert::status(error))).await;
                }
            }
        });
        Ok(with_timestamp(Box::pin(ReceiverStream::new(receiver))))
    }

    type SessionStream = Messages<control::BytesMessage>;

    async fn session(
        &self,
        request: Request<Streaming<control::BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (metadata, _, messages) = request.into_parts();
        let headers = SessionHeaders::from_http(&metadata.into_headers())
            .map_err(|error| kiln_errdefs::to_status(&error))?;
        let (sender, receiver) = mpsc::channel(SESSION_QUEUE);
        let incoming = messages.map(|message| message.map(|message| message.data.into()));
        let io = MessageIo::new(incoming, sender);
        let sessions = self.engine.sessions().clone();
        // Ends when the client hangs up, which the stream of its messages tells.
        tokio::spawn(async move {
            let id = headers.id.clone();
            if let Err(error) = sessions.serve(headers, io).await {
                tracing::debug!(session = %id, error = kiln_errdefs::text(&error), "session ended");
            }
        });
        let outgoing = ReceiverStream::new(receiver).map(|data| {
            Ok(control::BytesMessage {
                data: data.to_vec(),
            })
        });
        Ok(Response::new(Box::pin(outgoing)))
    }

    async fn list_workers(
        &self,
        _: Request<control::ListWorkersRequest>,
    ) -> Result<Response<control::ListWorkersResponse>, Status> {
        Ok(Response::new(control::ListWorkersResponse {
            record: vec![self.engine.worker().record()],
        }))
    }

    async fn info(
        &self,
        _: Request<control::InfoRequest>,
    ) -> Result<Response<control::InfoResponse>, Status> {
        Ok(Response::new(control::InfoResponse {
            buildkit_version: Some(self.engine.worker().version()),
        }))
    }

    type ListenBuildHistoryStream = Messages<control::BuildHistoryEvent>;

    async fn listen_build_history(
        &self,
        request: Request<control::BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        let listener = self
            .engine
            .history()
            .listen(history::listen(request.into_inner())?);
        let events = futures::stream::unfold(listener, |mut listener| async move {
            let event = listener.next().await?;
            Some((Ok(history::event(event)), listener))
        });
        Ok(with_timestamp(Box::pin(events)))
    }

    async fn update_build_history(
        &self,
        request: Request<control::UpdateBuildHistoryRequest>,
    ) -> Result<Response<control::UpdateBuildHistoryResponse>, Status> {
        history::update(self.engine.history(), request.into_inner()).await?;
        Ok(Response::new(control::UpdateBuildHistoryResponse {}))
    }
}
