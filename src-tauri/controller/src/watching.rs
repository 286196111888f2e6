//! A folder that is watched: what a build would see changes, and it is built anew.
//!
//! ```text
//!              change              quiet for 300 ms, or 2 s after the first
//!  waiting ────────────► settling ──────────────────────────────────────────► building
//!     ▲                     ▲                                                  │    │ change
//!     │                     └──────────── ended ◄──── cancelling ◄─────────────┼────┘
//!     └────────────────────────────────── ended ◄──────────────────────────────┘
//! ```
//! It begins with a build. A change while one runs cancels that one, since its result would be out of date; what its
//! steps have done stays in the cache. The next begins when it has ended and the folder is quiet.
//!
//! Invariants: one build at a time; it ends when nobody listens any more, and then leaves a build that runs alone.

mod changes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::starting::Begun;
use crate::view::{BuildRequest, WatchState};
use crate::{Controller, Failure};
use changes::Changes;

const QUIET: Duration = Duration::from_millis(300);
const AT_MOST: Duration = Duration::from_secs(2);
/// As many changed paths are shown.
const SHOWN: usize = 5;

/// What a watch does with builds. A test has none that take time.
trait Builds {
    /// Starts the build that is repeated.
    async fn begin(&self) -> Result<Begun, Failure>;
    /// Asks for its end, which need not come at once.
    async fn cancel(&self, reference: &str) -> Result<(), Failure>;
}

struct Form<'a> {
    controller: &'a Controller,
    request: BuildRequest,
}

impl Builds for Form<'_> {
    async fn begin(&self) -> Result<Begun, Failure> {
        self.controller.begin(self.request.clone()).await
    }

    async fn cancel(&self, reference: &str) -> Result<(), Failure> {
        self.controller.cancel_build(reference).await
    }
}

impl Controller {
    /// Builds a folder, and again whenever it changes, until `tell` says that nobody listens.
    pub async fn watch_folder(
        &self,
        request: BuildRequest,
        tell: impl FnMut(WatchState) -> bool,
    ) -> Result<(), Failure> {
        let folder = PathBuf::from(&request.context);
        if !folder.is_dir() {
            return Err(Failure::user(
                format!("{} isn’t a folder of this computer.", folder.display()),
                "Only folders can be watched.",
            ));
        }
        let name = match request.dockerfile.as_str() {
            "" => "Dockerfile",
            name => name,
        };
        // What a build writes into its own folder must not lead to the next.
        let own = Path::new(&request.destination);
        let own = (!request.destination.is_empty()).then(|| folder.join(own));
        let changes = Changes::of(&folder, &folder.join(name), own)?;
        let form = Form {
            controller: self,
            request,
        };
        watch(&form, changes.stream(), tell).await
    }
}

enum Phase {
    Waiting,
    Settling,
    Building {
        end: JoinHandle<Result<(), Failure>>,
        stale: bool,
    },
}

/// When the folder counts as quiet.
#[derive(Clone, Copy)]
struct Quiet {
    first: Instant,
    last: Instant,
}

impl Quiet {
    fn now() -> Self {
        let now = Instant::now();
        Self {
            first: now,
            last: now,
        }
    }

    fn due(self) -> Instant {
        (self.last + QUIET).min(self.first + AT_MOST)
    }
}

async fn watch(
    builds: &impl Builds,
    changes: impl Stream<Item = String>,
    mut tell: impl FnMut(WatchState) -> bool,
) -> Result<(), Failure> {
    let mut changes = std::pin::pin!(changes);
    let mut state = WatchState::default();
    let mut phase = begin(builds, &mut state).await;
    // Changes since the last build began.
    let mut since: Option<Quiet> = None;
    loop {
        state.phase = match &phase {
            Phase::Waiting => "waiting",
            Phase::Settling => "settling",
            Phase::Building { stale: false, .. } => "building",
            Phase::Building { stale: true, .. } => "cancelling",
        }
        .into();
        if !tell(state.clone()) {
            return Ok(());
        }
        let due = match (&phase, since) {
            (Phase::Settling, Some(quiet)) => Some(quiet.due()),
            _ => None,
        };
        tokio::select! {
            change = changes.next() => {
                let Some(path) = change else { return Ok(()) };
                if since.is_none() {
                    state.changed.clear();
                }
                if state.changed.len() < SHOWN && !state.changed.contains(&path) {
                    state.changed.push(path);
                }
                let quiet = since.get_or_insert_with(Quiet::now);
                quiet.last = Instant::now();
                match &mut phase {
                    Phase::Waiting => phase = Phase::Settling,
                    Phase::Building { stale: stale @ false, .. } => {
                        *stale = true;
                        if let Err(failure) = builds.cancel(&state.reference).await {
                            // It may have ended by itself just now.
                            tracing::debug!(%failure, "a build that is out of date isn't cancelled");
                        }
                    }
                    Phase::Settling | Phase::Building { .. } => {}
                }
            }
            () = settled(due) => {
                since = None;
                phase = begin(builds, &mut state).await;
            }
            ended = end(&mut phase) => {
                state.error = ended.err().map(|failure| failure.message).unwrap_or_default();
                phase = if since.is_some() { Phase::Settling } else { Phase::Waiting };
            }
        }
    }
}

async fn begin(builds: &impl Builds, state: &mut WatchState) -> Phase {
    match builds.begin().await {
        Ok(begun) => {
            state.reference = begun.reference;
            state.builds += 1;
            state.error.clear();
            Phase::Building {
                end: begun.end,
                stale: false,
            }
        }
        Err(failure) => {
            state.error = failure.message;
            Phase::Waiting
        }
    }
}

async fn settled(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn end(phase: &mut Phase) -> Result<(), Failure> {
    match phase {
        Phase::Building { end, .. } => match end.await {
            Ok(outcome) => outcome,
            Err(error) => Err(Failure::internal(&error)),
        },
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
