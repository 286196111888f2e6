//! One build from the request to the response.
//!
//! The build runs in a task of its own. The caller waits for it and holds its token: a caller that goes
//! away (Ctrl-C, a killed client, a dropped connection) cancels the build, and the task still sees to
//! the end: it drops the solve, closes the progress and completes the history record.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use kiln_cache::OpResult;
use kiln_content::ContentStore;
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_frontend::{Bridge as _, SolveRequest, Solved};
use kiln_gateway::{Forwarder, Registrar, Rendezvous, WorkerInfo};
use kiln_history::trace::Gathering;
use kiln_history::{Details, History, Recording, Running, TraceContext};
use kiln_ids::{BuildRef, SessionId};
use kiln_progress::Hub;
use kiln_proto::moby::buildkit::v1 as control;
use kiln_session::SessionManager;
use kiln_solver::{Solver, VertexFacts};
use kiln_source::Sources;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bridge::EngineBridge;
use crate::ingredients::Gathered;
use crate::present::{Live, Present, unwound};
use crate::record::Afterwards;
use crate::{
    Entitlements, Frontends, RemoteCaches, Worker, caches, caps, client, exports, ingredients,
    project, record,
};

/// What an engine is made of.
#[expect(
    missing_debug_implementations,
    reason = "parts that are traits have no words for themselves"
)]
pub struct EngineParts {
    /// What clients see of the worker.
    pub worker: Worker,
    /// The graph engine.
    pub solver: Solver<OpResult>,
    /// Clients.
    pub sessions: SessionManager,
    /// Blobs.
    pub content: ContentStore,
    /// Build records.
    pub history: History,
    /// Frontends by name.
    pub frontends: Frontends,
    /// Looks sources up.
    pub sources: Sources,
    /// Caches of other builders.
    pub caches: RemoteCaches,
    /// What exporters work with.
    pub exporters: kiln_exporter::Services,
    /// What the daemon adds to provenance (`provenanceEnvDir`).
    pub provenance_environment: serde_json::Map<String, serde_json::Value>,
    /// What the daemon's configuration allows.
    pub entitlements: Entitlements,
}

/// The engine of a daemon. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    parts: EngineParts,
    present: Present,
    registrar: Registrar,
    tasks: TaskTracker,
    /// What is done for records after their builds ended.
    afterwards: TaskTracker,
    stop: CancellationToken,
    /// Progress of the builds that ended last: a build without a record may be over before its client's
    /// question for it arrives.
    recent: parking_lot::Mutex<VecDeque<(BuildRef, Arc<Hub>)>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// How many builds without a record are remembered after their end.
const RECENT: usize = 64;

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// The client's name for the build.
    pub build: String,
    /// The client's session; empty for none.
    pub session: String,
    /// A definition or a frontend; neither where the frontend runs at the client.
    pub solve: SolveRequest,
    /// What to make of the result.
    pub exporters: Vec<ExporterRequest>,
    /// Where to export the cache to.
    pub cache_exports: Vec<control::CacheOptionsEntry>,
    /// What the client consents to.
    pub entitlements: Vec<String>,
    /// Ask the client for exporters once the result is known.
    pub session_exporter: bool,
    /// Leaves no record.
    pub internal: bool,
    /// The client's trace.
    pub trace: Option<TraceContext>,
    /// What the client's calls say of it; empty for nothing.
    pub user_agent: String,
}

/// One output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExporterRequest {
    /// `image`, `local`, `tar`, `oci`, `docker`, `moby`.
    pub kind: String,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
}

/// What a client gets back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildResponse {
    /// `containerimage.digest` and its like.
    pub exporter: BTreeMap<String, String>,
}

/// What becomes of a build's record.
struct Memory {
    running: Running,
    log: Recording,
    gathering: Gathering,
    options: BTreeMap<String, String>,
    session: SessionId,
    /// Which program the client is; empty where that isn't known yet.
    client: &'static str,
    /// What the client calls its directory; empty where it didn't say, or isn't there yet.
    shared_key: String,
}

impl Memory {
    /// The client may come after its request, and be gone before its end.
    fn note_directory(&mut self, sessions: &SessionManager) {
        if self.shared_key.is_empty()
            && let Some(client) = sessions.attached(&self.session)
        {
            client.shared_key().clone_into(&mut self.shared_key);
        }
    }
}

/// What a build made, before and after export.
pub(crate) struct Outcome {
    pub(crate) response: BuildResponse,
    pub(crate) results: exports::RecordedResults,
    /// Keeps what was made from being pruned until the history names it.
    pub(crate) _keep: Vec<Arc<dyn std::any::Any + Send + Sync>>,
}

impl Engine {
    /// An engine that waits for builds.
    pub fn new(parts: EngineParts) -> Self {
        Self(Arc::new(Inner {
            parts,
            present: Present::default(),
            registrar: Registrar::default(),
            tasks: TaskTracker::new(),
            afterwards: TaskTracker::new(),
            stop: CancellationToken::new(),
            recent: parking_lot::Mutex::default(),
        }))
    }

    /// What clients see of the worker.
    pub fn worker(&self) -> &Worker {
        &self.0.parts.worker
    }

    /// Build records.
    pub fn history(&self) -> &History {
        &self.0.parts.history
    }

    /// Clients.
    pub fn sessions(&self) -> &SessionManager {
        &self.0.parts.sessions
    }

    /// Blobs.
    pub fn content(&self) -> &ContentStore {
        &self.0.parts.content
    }

    /// Joins gateway calls to builds.
    pub fn registrar(&self) -> &Registrar {
        &self.0.registrar
    }

    /// How many builds run.
    pub fn active(&self) -> usize {
        self.0.present.count()
    }

    /// How many builds run, now and with each change.
    pub fn watch_active(&self) -> tokio::sync::watch::Receiver<usize> {
        self.0.present.watch()
    }

    pub(crate) fn running(&self) -> &Rendezvous<Live> {
        self.0.present.running()
    }

    pub(crate) fn frontends(&self) -> &Frontends {
        &self.0.parts.frontends
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.0.parts.sources
    }

    pub(crate) fn caches(&self) -> &RemoteCaches {
        &self.0.parts.caches
    }

    /// Builds. Dropping the future cancels the build.
    pub async fn build(&self, request: BuildRequest) -> Result<BuildResponse, SharedError> {
        let cancel = self.0.stop.child_token();
        let caller = cancel.clone().drop_guard();
        let engine = self.clone();
        let task = self
            .0
            .tasks
            .spawn(async move { engine.run(request, cancel).await });
        let outcome = task.await;
        caller.disarm();
        outcome.unwrap_or_else(|panicked| {
            Err(WithDetail::kind(Arc::new(panicked), Kind::Internal).shared())
        })
    }

    /// Cancels a running build, whichever client began it; its client is told that it was cancelled. Returns
    /// false where no such build runs.
    pub fn cancel(&self, build: &BuildRef) -> bool {
        let live = self.running().wait_for(build).now();
        live.inspect(|live| live.cancel.cancel()).is_some()
    }

    /// Cancels all builds, and waits until they have ended and nothing of them is left.
    pub async fn shut_down(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.afterwards.close();
        self.0.afterwards.wait().await;
        self.0.parts.solver.close().await;
        self.0.parts.history.close();
    }

    /// Waits for a build to end, or returns at once if one has ended since the last call.
    pub async fn build_ended(&self) {
        self.0.present.ended().await;
    }

    /// Waits until no build runs.
    pub async fn idle(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn remember(&self, build: BuildRef, hub: Arc<Hub>) {
        let mut recent = self.0.recent.lock();
        recent.push_back((build, hub));
        if recent.len() > RECENT {
            recent.pop_front();
        }
    }

    /// The progress of a build without a record that ended a short while ago.
    pub(crate) fn recent(&self, build: &BuildRef) -> Option<Arc<Hub>> {
        let recent = self.0.recent.lock();
        let found = recent.iter().rev().find(|(name, _)| name == build);
        found.map(|(_, hub)| Arc::clone(hub))
    }

    async fn run(
        &self,
        request: BuildRequest,
        cancel: CancellationToken,
    ) -> Result<BuildResponse, SharedError> {
        let build = BuildRef::new(request.build.clone());
        let hub = Hub::new();
        let live = Live {
            hub: Arc::clone(&hub),
            cancel: cancel.clone(),
        };
        let Some(presence) = self.0.present.enter(build.clone(), live) else {
            return Err(
                WithDetail::message(Kind::Conflict, format!("job ID {build} exists")).shared(),
            );
        };
        let started = SystemTime::now();
        let mut memory = (!request.internal).then(|| {
            let running = self
                .history()
                .start(crate::record::begin(&request, started));
            let trace = request.trace;
            let trace = trace.unwrap_or_else(|| TraceContext::of_build(&request.build));
            Memory {
                log: running.spool(hub.record()),
                running,
                gathering: self.history().traces().gather(trace),
                options: request.solve.options.clone(),
                session: SessionId::new(request.session.clone()),
                client: client::of_user_agent(&request.user_agent),
                shared_key: String::new(),
            }
        });
        if let Some(memory) = &mut memory {
            memory.note_directory(self.sessions());
        }
        let bridge = OnceLock::new();
        let work = self.solve_and_export(&build, request, &hub, &bridge);
        let outcome = tokio::select! {
            outcome = unwound(work) => outcome,
            () = cancel.cancelled() => {
                Err(WithDetail::message(Kind::Cancelled, "context canceled").shared())
            }
        };
        hub.finish();
        let facts = bridge
            .get()
            .filter(|_| memory.is_some())
            .map(|bridge| bridge.job().facts());
        // From here on nothing of the build is at work.
        drop(bridge);
        match memory {
            Some(memory) => self.keep(memory, &hub, facts, started, &outcome).await,
            None => self.remember(build, hub),
        }
        drop(presence);
        outcome.map(|outcome| outcome.response)
    }

    /// Completes the record of a build; what takes longer is done after its client has the answer.
    async fn keep(
        &self,
        mut memory: Memory,
        hub: &Hub,
        facts: Option<Vec<VertexFacts<OpResult>>>,
        started: SystemTime,
        outcome: &Result<Outcome, SharedError>,
    ) {
        memory.note_directory(self.sessions());
        let history = self.history();
        let vertices = hub.vertices();
        // Results are let go of before the client has its answer: the next build needs its directories.
        let gathered = facts.map(|facts| ingredients::gather(&facts, &vertices, history.salt()));
        let project = project::project(&memory.options, &memory.shared_key);
        let details = Details {
            project,
            client: memory.client.to_owned(),
            images: gathered.as_ref().map_or_else(Vec::new, Gathered::images),
            ..Details::default()
        };
        let completed =
            record::complete(history, memory.running, memory.log, hub, details, outcome).await;
        let afterwards = Afterwards {
            completed,
            gathered,
            gathering: memory.gathering,
            vertices,
            started,
            ended: SystemTime::now(),
        };
        let (history, stop) = (history.clone(), self.0.stop.clone());
        let work = async move { afterwards.run(&history, stop.cancelled_owned()).await };
        self.0.afterwards.spawn(work);
    }

    async fn solve_and_export(
        &self,
        build: &BuildRef,
        request: BuildRequest,
        hub: &Arc<Hub>,
        kept: &OnceLock<EngineBridge>,
    ) -> Result<Outcome, SharedError> {
        let started = SystemTime::now();
        let parts = &self.0.parts;
        let session = SessionId::new(request.session.clone());
        let entitlements = Entitlements::grant(&request.entitlements, &parts.entitlements)?;
        let exporters = exports::prepare(&request.exporters, 0, &parts.exporters)?;
        let cache_exports = caches::prepare(&request.cache_exports)?;
        let job = parts
            .solver
            .job(build.clone(), session.clone(), Arc::clone(hub) as _)?;
        let bridge = EngineBridge::new(
            self.clone(),
            build.clone(),
            session,
            job,
            Arc::clone(hub),
            entitlements,
            request.solve.source_policies.clone(),
        )?;
        // Set once: this is the only place.
        let bridge = kept.get_or_init(|| bridge);
        let mut solve = request.solve.clone();
        solve.source_policies.clear();
        let solved = self.solve(build, bridge, solve).await?;
        let all = solved
            .refs
            .values()
            .flatten()
            .map(|reference| reference.evaluate());
        futures::future::try_join_all(all).await?;
        exports::run(
            bridge,
            &request,
            solved,
            exporters,
            &cache_exports,
            parts,
            started,
        )
        .await
    }

    /// A definition, a frontend here, or a frontend at the client.
    async fn solve(
        &self,
        build: &BuildRef,
        bridge: &EngineBridge,
        request: SolveRequest,
    ) -> Result<Solved, SharedError> {
        if request.definition.is_some() || !request.frontend.is_empty() {
            return bridge.solve(request).await;
        }
        let forwarder = Forwarder::new(
            Arc::new(bridge.clone()),
            request.inputs,
            WorkerInfo {
                record: self.worker().record(),
                llb_caps: caps::LLB.iter().map(|&cap| cap.to_owned()).collect(),
            },
        );
        let Some(_registration) = self
            .0
            .registrar
            .register(build.clone(), Arc::clone(&forwarder))
        else {
            return Err(
                WithDetail::message(Kind::Conflict, format!("job ID {build} exists")).shared(),
            );
        };
        forwarder.returned().await
    }
}
