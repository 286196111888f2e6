//! What the engine offers to frontends: one bridge per build.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use kiln_cache::OpResult;
use kiln_errdefs::{Kind, SharedError, WithDetail, text};
use kiln_frontend::{Bridge, ResolveImage, SolveRequest, Solved, SourceMeta, Warning};
use kiln_ids::{BuildRef, SessionId};
use kiln_llb::{Edge, post_order};
use kiln_oci::Digest;
use kiln_progress::{BuildReceiver as _, Hub, Step};
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::moby::buildkit::v1::sourcepolicy::Policy;
use kiln_proto::pb;
use kiln_solver::{CacheSource, Job};
use kiln_source::SourceContext;
use tokio::sync::OnceCell;

use crate::policy::Policies;
use crate::reference::EdgeReference;
use crate::{Engine, Entitlements, caps, errors};

type Import = Arc<OnceCell<Vec<Arc<dyn CacheSource<OpResult>>>>>;

/// The bridge of one build. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EngineBridge(Arc<Parts>);

struct Parts {
    engine: Engine,
    build: BuildRef,
    session: SessionId,
    job: Job<OpResult>,
    hub: Arc<Hub>,
    entitlements: Entitlements,
    /// The client's policies, as they came and compiled.
    asked_policies: Vec<Policy>,
    policies: Policies,
    imports: Mutex<HashMap<String, Import>>,
    /// The last frontend that ran, with its options: what the build's result was made by.
    request: Mutex<(String, BTreeMap<String, String>)>,
}

impl std::fmt::Debug for EngineBridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EngineBridge").field(&self.0.build).finish()
    }
}

impl EngineBridge {
    pub(crate) fn new(
        engine: Engine,
        build: BuildRef,
        session: SessionId,
        job: Job<OpResult>,
        hub: Arc<Hub>,
        entitlements: Entitlements,
        asked_policies: Vec<Policy>,
    ) -> Result<Self, SharedError> {
        let policies = Policies::compile(&asked_policies)?;
        Ok(Self(Arc::new(Parts {
            engine,
            build,
            session,
            job,
            hub,
            entitlements,
            asked_policies,
            policies,
            imports: Mutex::default(),
            request: Mutex::default(),
        })))
    }

    /// The build's own policies and those of one request.
    fn policies(&self, more: &[Policy]) -> Result<Policies, SharedError> {
        Policies::compile(self.0.asked_policies.iter().chain(more))
    }

    pub(crate) fn job(&self) -> &Job<OpResult> {
        &self.0.job
    }

    /// Which frontend made the result, with which options.
    pub(crate) fn request(&self) -> (String, BTreeMap<String, String>) {
        self.0
            .request
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn session_id(&self) -> SessionId {
        self.0.session.clone()
    }

    /// A step of this build that isn't an op.
    pub(crate) fn step(&self, id: &str, name: impl Into<String>) -> Step {
        Step::begin(Arc::clone(&self.0.hub) as _, id, name)
    }

    /// Runs `work` as a step of this build.
    pub(crate) async fn in_step<T>(
        &self,
        id: &str,
        name: impl Into<String>,
        work: impl AsyncFnOnce(&Step) -> Result<T, SharedError>,
    ) -> Result<T, SharedError> {
        let step = self.step(id, name);
        let outcome = work(&step).await;
        step.end(outcome.as_ref().err().map(|error| text(error.as_ref())));
        outcome
    }

    /// Refuses what a graph may not ask for.
    fn check(&self, edge: &Edge) -> Result<(), SharedError> {
        self.0.entitlements.check(edge)?;
        for vertex in post_order(&edge.vertex) {
            if let Some(unknown) = vertex.options.caps.iter().find(|cap| !caps::has(cap)) {
                return Err(WithDetail::message(
                    Kind::Unimplemented,
                    format!("requested capability {unknown:?} is not supported by this builder"),
                )
                .shared());
            }
        }
        Ok(())
    }

    async fn solve_definition(
        &self,
        definition: pb::Definition,
        request: &SolveRequest,
    ) -> Result<Solved, SharedError> {
        let mut solved = Solved::default();
        // An empty definition is the empty file system.
        if definition.def.is_empty() {
            solved.refs.insert(String::new(), None);
            return Ok(solved);
        }
        let edge = if request.source_policies.is_empty() {
            self.0.policies.decode(definition.clone())?
        } else {
            self.policies(&request.source_policies)?
                .decode(definition.clone())?
        };
        self.check(&edge).map_err(errors::not_loaded)?;
        let imports = self.imports(&request.cache_imports).await;
        let reference = EdgeReference::new(self.clone(), definition, edge, imports);
        if request.evaluate {
            reference.result().await?;
        }
        solved.refs.insert(String::new(), Some(reference));
        Ok(solved)
    }

    /// The imported caches, each of which is fetched once per build. One that can't be had is left out:
    /// a cache is no condition of a build.
    async fn imports(
        &self,
        entries: &[control::CacheOptionsEntry],
    ) -> Vec<Arc<dyn CacheSource<OpResult>>> {
        let fetch = entries.iter().map(|entry| async move {
            let name = import_name(entry);
            let cell = Arc::clone(
                self.0
                    .imports
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(name.clone())
                    .or_default(),
            );
            cell.get_or_init(|| async {
                self.in_step(
                    &format!("import-{name}"),
                    format!("importing cache manifest from {name}"),
                    async |_| {
                        self.0
                            .engine
                            .caches()
                            .import(entry, &self.session_id())
                            .await
                    },
                )
                .await
                .inspect_err(|error| {
                    tracing::debug!(
                        cache = name,
                        error = text(error.as_ref()),
                        "no cache import"
                    );
                })
                .unwrap_or_default()
            })
            .await
            .clone()
        });
        futures::future::join_all(fetch)
            .await
            .into_iter()
            .flatten()
            .collect()
    }
}

/// What people call an imported cache.
fn import_name(entry: &control::CacheOptionsEntry) -> String {
    match (entry.r#type.as_str(), entry.attrs.get("ref")) {
        ("registry", Some(name)) => name.clone(),
        (kind, _) => {
            let attributes: std::collections::BTreeMap<_, _> = entry.attrs.iter().collect();
            let id = Digest::of(format!("{attributes:?}")).hex();
            format!("{kind}:{}", &id[..12])
        }
    }
}

#[async_trait]
impl Bridge for EngineBridge {
    async fn solve(&self, mut request: SolveRequest) -> kiln_frontend::Result<Solved> {
        if let Some(definition) = request.definition.take() {
            if !request.frontend.is_empty() {
                return Err(WithDetail::message(
                    Kind::User,
                    "cannot solve with both Definition and Frontend specified",
                )
                .shared());
            }
            return self.solve_definition(definition, &request).await;
        }
        if request.frontend.is_empty() {
            return Ok(Solved::default());
        }
        *self
            .0
            .request
            .lock()
            .unwrap_or_else(PoisonError::into_inner) =
            (request.frontend.clone(), request.options.clone());
        let (frontend, options) = self
            .0
            .engine
            .frontends()
            .find(&request.frontend, request.options)?;
        let solved = frontend
            .solve(Arc::new(self.clone()), options, request.inputs)
            .await?;
        if request.evaluate {
            let all = solved
                .refs
                .values()
                .flatten()
                .map(|reference| reference.evaluate());
            futures::future::try_join_all(all).await?;
        }
        Ok(solved)
    }

    async fn resolve_source(
        &self,
        mut source: pb::SourceOp,
        options: ResolveImage,
    ) -> kiln_frontend::Result<SourceMeta> {
        if options.source_policies.is_empty() {
            self.0.policies.apply(&mut source)?;
        } else {
            self.policies(&options.source_policies)?
                .apply(&mut source)?;
        }
        let name = if options.log_name.is_empty() {
            format!("resolve image config for {}", source.identifier)
        } else {
            options.log_name.clone()
        };
        let id = format!("{}:{:?}", source.identifier, options.platform);
        self.in_step(&id, name, async |step| {
            let cx = SourceContext {
                sessions: vec![self.session_id()],
                progress: step.progress(),
            };
            self.0.engine.sources().look_up(source, &options, &cx).await
        })
        .await
    }

    fn warn(&self, vertex: Option<Digest>, warning: Warning) {
        self.0.hub.warn(
            vertex,
            kiln_progress::Warning {
                level: i64::from(warning.level),
                short: warning.short.into(),
                detail: warning.detail.into_iter().map(Into::into).collect(),
                url: warning.url,
                source: warning.source,
                ranges: warning.ranges,
            },
        );
    }

    fn session(&self) -> SessionId {
        self.session_id()
    }

    fn worker_platforms(&self) -> Vec<pb::Platform> {
        self.0.engine.worker().wire_platforms()
    }

    fn has_cap(&self, cap: &str) -> bool {
        caps::has(cap)
    }
}
