//! `kiln.host.v1`, on `host.sock`: conversions, and questions to the task of `life`.

mod convert;
mod usage;

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use kiln_config::{HostPaths, HostSettings};
use kiln_proto::host::host_server::Host;
use kiln_proto::host::{
    Check, ConsoleChunk, DiagnoseRequest, GetSettingsRequest, GetStatusRequest, QuitRequest,
    QuitResponse, ReadConsoleRequest, ResetRequest, RestartRequest, SetSettingsRequest,
    SetSettingsResponse, Settings, StartRequest, Status, StopRequest, Use, WatchStatusRequest,
    WatchUseRequest,
};
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};

use crate::console::Console;
use crate::diagnose::{self, Bench};
use crate::life::{Failure, Life};
use crate::settings::{SaveError, SettingsStore};

/// Of one message of the console.
const CHUNK: usize = 64 << 10;

/// The service.
#[derive(Debug)]
pub(crate) struct HostService {
    pub(crate) life: Life,
    pub(crate) settings: Arc<SettingsStore>,
    pub(crate) console: Console,
    pub(crate) paths: HostPaths,
    pub(crate) bench: Bench,
    /// Ends the process.
    pub(crate) quit: CancellationToken,
    /// Ends streams when the process stops.
    pub(crate) stop: CancellationToken,
}

impl HostService {
    fn status(&self) -> Status {
        convert::status(&self.life.status().borrow().clone(), &self.paths)
    }

    /// Lets the disk of a machine that runs grow at once. Whether that worked.
    async fn grow(&self, settings: &HostSettings) -> bool {
        let (Some(size), Some(machine)) = (settings.disk, self.life.running().await) else {
            return false;
        };
        let length = std::fs::metadata(self.paths.data_disk()).map_or(0, |file| file.len());
        if size.0 <= length {
            return false;
        }
        match machine.grow_disk(size.0).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the disk grows at the next start");
                false
            }
        }
    }

    fn answer(&self, outcome: Result<(), Failure>) -> Result<Response<Status>, tonic::Status> {
        match outcome {
            Ok(()) => Ok(Response::new(self.status())),
            Err(failure) => Err(tonic::Status::unavailable(failure.reason)),
        }
    }
}

type Reply<T> = Result<Response<T>, tonic::Status>;

#[tonic::async_trait]
impl Host for HostService {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Reply<Status> {
        let disk = self.life.disk().await;
        let mut known = self.life.status().borrow().clone();
        known.disk = disk.unwrap_or(known.disk);
        Ok(Response::new(convert::status(&known, &self.paths)))
    }

    type WatchStatusStream = BoxStream<'static, Result<Status, tonic::Status>>;

    async fn watch_status(&self, _: Request<WatchStatusRequest>) -> Reply<Self::WatchStatusStream> {
        let paths = self.paths.clone();
        let changes = WatchStream::new(self.life.status())
            .map(move |status| Ok(convert::status(&status, &paths)))
            .take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(changes.boxed()))
    }

    type WatchUseStream = BoxStream<'static, Result<Use, tonic::Status>>;

    async fn watch_use(&self, request: Request<WatchUseRequest>) -> Reply<Self::WatchUseStream> {
        let Some(machine) = self.life.running().await else {
            return Err(tonic::Status::failed_precondition(
                "the machine doesn't run",
            ));
        };
        let interval = request.into_inner().interval_milliseconds;
        let gauge = usage::Gauge::connect(machine, self.life.status(), self.paths.clone()).await?;
        let uses = gauge
            .watch(interval)
            .take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(uses.boxed()))
    }

    async fn start(&self, request: Request<StartRequest>) -> Reply<Status> {
        let repair_disk = request.into_inner().repair_disk;
        self.answer(self.life.start(repair_disk).await)
    }

    async fn stop(&self, request: Request<StopRequest>) -> Reply<Status> {
        self.answer(self.life.stop(request.into_inner().force).await)
    }

    async fn restart(&self, _: Request<RestartRequest>) -> Reply<Status> {
        self.answer(self.life.restart().await)
    }

    async fn get_settings(&self, _: Request<GetSettingsRequest>) -> Reply<Settings> {
        let settings = self
            .settings
            .read()
            .map_err(|error| tonic::Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(convert::to_wire(&settings)))
    }

    async fn set_settings(
        &self,
        request: Request<SetSettingsRequest>,
    ) -> Reply<SetSettingsResponse> {
        let settings = request.into_inner().settings.unwrap_or_default();
        let settings = convert::from_wire(settings)
            .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
        let waiting = self.settings.save(&settings).map_err(|error| match error {
            SaveError::Setting(error) => tonic::Status::invalid_argument(error.to_string()),
            SaveError::Form(error) => tonic::Status::internal(error.to_string()),
            SaveError::Io { ref source, .. } => {
                tonic::Status::failed_precondition(format!("{error}: {source}"))
            }
        })?;
        let mut waiting = waiting;
        if waiting.contains(&"disk") && self.grow(&settings).await {
            waiting.retain(|name| *name != "disk");
        }
        Ok(Response::new(SetSettingsResponse {
            at_next_start: waiting.into_iter().map(str::to_owned).collect(),
        }))
    }

    type ReadConsoleStream = BoxStream<'static, Result<ConsoleChunk, tonic::Status>>;

    async fn read_console(
        &self,
        request: Request<ReadConsoleRequest>,
    ) -> Reply<Self::ReadConsoleStream> {
        let ReadConsoleRequest { follow, tail } = request.into_inner();
        let (kept, live) = self.console.read(tail as usize);
        let kept: Vec<_> = kept
            .chunks(CHUNK)
            .map(|data| Ok(ConsoleChunk { data: data.into() }))
            .collect();
        let kept = stream::iter(kept);
        if !follow {
            return Ok(Response::new(kept.boxed()));
        }
        let live: Pin<Box<dyn Stream<Item = _> + Send>> =
            Box::pin(stream::unfold(live, |mut live| async {
                let data = match live.recv().await {
                    Ok(bytes) => bytes.to_vec(),
                    // A slow reader misses some rather than holding anybody up.
                    Err(RecvError::Lagged(_)) => b"\n--- some is left out here\n".to_vec(),
                    Err(RecvError::Closed) => return None,
                };
                Some((Ok(ConsoleChunk { data }), live))
            }));
        let all = kept
            .chain(live)
            .take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(all.boxed()))
    }

    async fn reset(&self, request: Request<ResetRequest>) -> Reply<Status> {
        if request.into_inner().confirm != "reset" {
            return Err(tonic::Status::invalid_argument(
                "a reset deletes every image, cache record and build: confirm it by \"reset\"",
            ));
        }
        self.answer(self.life.reset().await)
    }

    type DiagnoseStream = BoxStream<'static, Result<Check, tonic::Status>>;

    async fn diagnose(&self, _: Request<DiagnoseRequest>) -> Reply<Self::DiagnoseStream> {
        let checks = diagnose::checks(self.bench.clone(), self.life.clone());
        Ok(Response::new(checks.map(Ok).boxed()))
    }

    async fn quit(&self, _: Request<QuitRequest>) -> Reply<QuitResponse> {
        // The answer goes out before the server does: it drains.
        self.life
            .quit()
            .await
            .map_err(|failure| tonic::Status::unavailable(failure.reason))?;
        self.quit.cancel();
        Ok(Response::new(QuitResponse {}))
    }
}
