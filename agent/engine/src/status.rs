//! The progress of a build that will run, runs or has run.

use std::time::Duration;

use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_ids::BuildRef;
use kiln_progress::Reader;
use kiln_proto::moby::buildkit::v1::StatusResponse;

use crate::Engine;

/// A client may ask for the progress of a build before the build has arrived.
const PATIENCE: Duration = Duration::from_secs(6);

/// Where the progress comes from.
#[derive(Debug)]
pub enum StatusSource {
    /// The build runs.
    Running(Reader),
    /// It is over; this is its whole log.
    Finished(Vec<StatusResponse>),
}

impl Engine {
    /// The progress of the build, from its beginning. Waits a little for a build that isn't there yet.
    pub async fn status(&self, build: &BuildRef) -> Result<StatusSource, SharedError> {
        // In this order nothing falls between: a build is in the history, or remembered, before it stops
        // running.
        let waiter = self.running().wait_for(build);
        let live = waiter.now().map(|live| live.hub);
        if let Some(hub) = live.or_else(|| self.recent(build)) {
            return Ok(StatusSource::Running(hub.read()));
        }
        let log = self
            .history()
            .log(build.as_str())
            .await
            .map_err(|error| -> SharedError { std::sync::Arc::new(error) })?;
        if let Some(log) = log {
            return Ok(StatusSource::Finished(log));
        }
        match waiter.within(PATIENCE).await {
            Some(live) => Ok(StatusSource::Running(live.hub.read())),
            None => {
                Err(WithDetail::message(Kind::NotFound, format!("no such job {build}")).shared())
            }
        }
    }
}
