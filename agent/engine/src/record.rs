//! A build's history record, at its beginning, at its end, and what is added to it afterwards.
//!
//! ```text
//! begin ──► log spooled ──► complete: clients have their answer ──► ingredients ──► trace ──► durable
//!                                                                   (when asked for, or after a while)
//! ```

use std::time::{Duration, SystemTime};

use kiln_errdefs::{SharedError, to_status};
use kiln_history::trace::{BuildSpans, TRACE_MEDIA_TYPE};
use kiln_history::{Completed, Details, History, LOG_MEDIA_TYPE, Recording, Running, encode_log};
use kiln_progress::{Hub, VertexState, wire};
use kiln_proto::google;
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::otlp_trace::Span;
use kiln_provenance::redact;
use prost::Message as _;

use crate::build::Outcome;
use crate::ingredients::Gathered;
use crate::{BuildRequest, client};

const ERROR_MEDIA_TYPE: &str = "application/vnd.googeapis.google.rpc.status+proto";

/// Clients send their last spans after their builds ended.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// The record of a build that begins.
pub(crate) fn begin(request: &BuildRequest, now: SystemTime) -> control::BuildHistoryRecord {
    control::BuildHistoryRecord {
        r#ref: request.build.clone(),
        frontend: request.solve.frontend.clone(),
        frontend_attrs: request
            .solve
            .options
            .iter()
            .map(|(key, value)| (key.clone(), redact(value).into_owned()))
            .collect(),
        exporters: request
            .exporters
            .iter()
            .map(|exporter| control::Exporter {
                r#type: exporter.kind.clone(),
                attrs: exporter.attributes.clone().into_iter().collect(),
            })
            .collect(),
        created_at: Some(wire::timestamp(now)),
        ..Default::default()
    }
}

/// Completes the record: log, error and results. What can't be stored is left out, since a record
/// is no condition of a build.
pub(crate) async fn complete(
    history: &History,
    running: Running,
    log: Recording,
    hub: &Hub,
    details: Details,
    outcome: &Result<Outcome, SharedError>,
) -> Completed {
    let mut record = running.record().clone();
    record.completed_at = Some(wire::timestamp(SystemTime::now()));
    let counts = hub.counts();
    record.num_total_steps = counts.total as i32;
    record.num_cached_steps = counts.cached as i32;
    record.num_completed_steps = counts.completed as i32;
    record.num_warnings = counts.warnings as i32;
    let log = log.finish().await;
    let log = log.unwrap_or_else(|| encode_log(&wire::responses(hub.snapshot())));
    record.logs = put(history, LOG_MEDIA_TYPE, log).await;
    match outcome {
        Ok(outcome) => {
            record.exporter_response = outcome.response.exporter.clone().into_iter().collect();
            record.result = outcome.results.single.clone();
            record.results = outcome.results.by_platform.clone().into_iter().collect();
        }
        Err(error) => {
            let status = to_status(error.as_ref());
            let whole = google::rpc::Status::decode(status.details()).unwrap_or_default();
            let message = redact(status.message()).into_owned();
            let whole = google::rpc::Status {
                code: status.code() as i32,
                message: message.clone(),
                details: whole.details,
            };
            record.external_error =
                put(history, ERROR_MEDIA_TYPE, whole.encode_to_vec().into()).await;
            record.error = Some(google::rpc::Status {
                code: status.code() as i32,
                message,
                details: Vec::new(),
            });
        }
    }
    let details = Details {
        bytes: size(&record),
        ..details
    };
    running.complete(record, details)
}

/// Bytes of the blobs that a record brought.
fn size(record: &control::BuildHistoryRecord) -> u64 {
    let results = record.result.iter().chain(record.results.values());
    [&record.logs, &record.external_error, &record.trace]
        .into_iter()
        .flatten()
        .chain(results.flat_map(|result| &result.attestations))
        .filter_map(|blob| u64::try_from(blob.size).ok())
        .sum()
}

/// What is done for a record after its build's client has the answer.
pub(crate) struct Afterwards {
    pub(crate) completed: Completed,
    pub(crate) gathered: Option<Gathered>,
    pub(crate) gathering: kiln_history::trace::Gathering,
    pub(crate) vertices: Vec<VertexState>,
    pub(crate) started: SystemTime,
    pub(crate) ended: SystemTime,
}

impl Afterwards {
    /// Sends spans on, adds ingredients and trace, and makes the record durable. `stop` cuts the wait for
    /// clients' spans short.
    pub(crate) async fn run(mut self, history: &History, stop: impl Future<Output = ()>) {
        let own = self.own_spans(history);
        let warn = |error: kiln_history::Error| {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "a build record stays incomplete");
        };
        if let Some(gathered) = self.gathered.take() {
            let stored = gathered.store(history, &self.completed).await;
            stored.unwrap_or_else(warn);
        }
        self.completed.set_detailed();
        tokio::select! {
            () = self.completed.wanted() => {}
            () = tokio::time::sleep(LAST_SPANS) => {}
            () = stop => {}
        }
        self.add_trace(history, &own).await.unwrap_or_else(warn);
        self.completed.settle().await.unwrap_or_else(warn);
    }

    fn own_spans(&self, history: &History) -> Vec<Span> {
        let reference = self.completed.reference();
        let record = history.get(reference);
        let error = record.as_ref().and_then(|record| record.error.as_ref());
        self.gathering.own(&BuildSpans {
            reference,
            started: self.started,
            ended: self.ended,
            error: error.map_or("", |error| error.message.as_str()),
            steps: &self.vertices,
        })
    }

    async fn add_trace(&self, history: &History, own: &[Span]) -> Result<(), kiln_history::Error> {
        let reference = self.completed.reference();
        // Deleted meanwhile.
        if history.get(reference).is_none() {
            return Ok(());
        }
        // The change of the record tells listeners that there is more to know.
        if let Some(client) = self
            .gathering
            .caller()
            .as_deref()
            .and_then(client::of_service)
        {
            history.add_details(reference, |details| client.clone_into(&mut details.client))?;
        }
        let blob = self.gathering.blob(own);
        let blob = history.put(TRACE_MEDIA_TYPE, Vec::new(), blob).await?;
        history.add_details(reference, |details| details.bytes += blob.size)?;
        history.change(reference, |record| record.trace = Some(blob.to_wire()))
    }
}

async fn put(
    history: &History,
    media_type: &str,
    bytes: bytes::Bytes,
) -> Option<control::Descriptor> {
    history
        .put(media_type, Vec::new(), bytes)
        .await
        .inspect_err(|error| {
            let error: &dyn std::error::Error = error;
            tracing::warn!(error, media_type, "a build record stays incomplete");
        })
        .ok()
        .map(|blob| blob.to_wire())
}
