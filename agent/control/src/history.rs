//! Build history on the wire.

use std::time::SystemTime;

use kiln_history::{Event, Filter, History, Listen};
use kiln_proto::moby::buildkit::v1 as control;
use tonic::Status;

pub(crate) fn listen(request: control::BuildHistoryRequest) -> Result<Listen, Status> {
    let filter = Filter::parse(&request.filter, SystemTime::now())
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let limit = usize::try_from(request.limit)
        .map_err(|_| Status::invalid_argument(format!("invalid limit {}", request.limit)))?;
    Ok(Listen {
        reference: request.r#ref,
        active_only: request.active_only,
        early_exit: request.early_exit,
        filter,
        limit,
    })
}

pub(crate) fn event(event: Event) -> control::BuildHistoryEvent {
    let (kind, record) = match event {
        Event::Started(record) => (
            control::BuildHistoryEventType::Started,
            record.as_ref().clone(),
        ),
        Event::Completed(record) => (
            control::BuildHistoryEventType::Complete,
            record.as_ref().clone(),
        ),
        Event::Deleted(reference) => (
            control::BuildHistoryEventType::Deleted,
            control::BuildHistoryRecord {
                r#ref: reference,
                ..Default::default()
            },
        ),
    };
    control::BuildHistoryEvent {
        r#type: kind as i32,
        record: Some(record),
    }
}

/// A record goes after what is still added to it.
async fn delete(history: &History, reference: &str) -> Result<(), kiln_history::Error> {
    history.finalize(reference).await?;
    history.delete(reference).await?;
    history.settle().await
}

/// Pins, finalizes or deletes. Answers once the change is durable.
pub(crate) async fn update(
    history: &History,
    request: control::UpdateBuildHistoryRequest,
) -> Result<(), Status> {
    let outcome = if request.delete {
        delete(history, &request.r#ref).await
    } else if request.finalize {
        history.finalize(&request.r#ref).await
    } else {
        history.pin(&request.r#ref, request.pinned).await
    };
    outcome.map_err(|error| match error {
        kiln_history::Error::NoSuchRecord(_) => Status::not_found(error.to_string()),
        kiln_history::Error::Running(_) => Status::failed_precondition(error.to_string()),
        other => kiln_errdefs::to_status(&other),
    })
}
