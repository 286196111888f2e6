//! Picks the implementations and puts them together: the only place that knows them all.
//!
//! ```text
//! StateRoot ─► ContentStore ─► Snapshots ─► CacheManager ─┬─► Sources ─► Resolver (ops) ─► Solver ─┐
//!     └──────► keys, results ────────────────────────────┴────────────────────────────────────────┴─► Engine ─► ControlService, AgentApi
//! ```

use std::sync::Arc;

use anyhow::Context as _;
use kiln_agent_api::{AgentApi, BuildsService, CacheService, ImagesService, MachineService};
use kiln_cache::CacheManager;
use kiln_content::{ContentStore, Documents, ImageTable};
use kiln_control::{ControlService, TlsOptions};
use kiln_dockerfile::DockerfileFrontend;
use kiln_engine::{Engine, EngineParts, Frontends, RemoteCaches, Results};
use kiln_gc::{Collector, Disk};
use kiln_history::{History, Retention};
use kiln_images::Images;
use kiln_ops::{OpParts, Resolver, StepNetwork};
use kiln_registry::Registry;
use kiln_session::SessionManager;
use kiln_snapshot::{Driver, Snapshots};
use kiln_solver::store::DatabaseKeys;
use kiln_solver::{Solver, SolverOptions};
use kiln_source::local::LocalSource;
use kiln_source::{ClientDirectories, GitSources, ImageSources, SessionCredentials, Sources};
use kiln_store::StateRoot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::collect;
use crate::machine::{Surroundings, ThisMachine, after_collection};
use crate::records::CacheRecords;
use crate::serve::Daemon;
use crate::settings::{Address, Settings};
use crate::{telemetry, worker};

/// What a person should know whose builds are slow.
const COPIES: &str =
    "overlayfs isn't used here: each step copies what it is based on, which takes time and space";

/// Opens the state and makes a daemon of it.
pub(crate) async fn compose(
    settings: &Settings,
    surroundings: Surroundings,
) -> anyhow::Result<Daemon> {
    let state = StateRoot::open(&settings.root)
        .with_context(|| format!("opening the state in {}", settings.root.display()))?;
    let content = ContentStore::open(&state)?;
    let snapshots = Snapshots::open(state.snapshots_dir())?;
    let driver = snapshots.driver();
    let cache = CacheManager::new(&state, content.clone(), snapshots).await?;
    let sessions = SessionManager::new();
    let history = History::open(&state, content.clone(), retention(settings)).await?;
    keep_history_blobs(&cache, &history);
    let courier = telemetry::send_on(history.traces())?;

    let results = Results::new(cache.clone());
    let keys = {
        let (database, cache) = (state.db(), cache.clone());
        tokio::task::spawn_blocking(move || {
            DatabaseKeys::open(&database, |id| Results::new(cache.clone()).has(id))
        })
        .await??
    };
    let policies = collect::policies(settings)?;
    let mut worker = worker::describe(settings, collect::shown(&policies.policies))?;
    if driver == Driver::Copy {
        worker::says_copies(&mut worker);
        surroundings.warnings.lock().push(COPIES.to_owned());
    }
    let registry = Registry::new(
        settings.config.registries.clone(),
        settings.config.system.max_registry_concurrency,
    )?;
    let named_images = Images::new(
        content.clone(),
        ImageTable::new(&state),
        Documents::new(&state),
        registry.clone(),
        worker.platforms.first().cloned().unwrap_or_default(),
    );
    let images = ImageSources::new(
        registry.clone(),
        sessions.clone(),
        content.clone(),
        ImageTable::new(&state),
        Documents::new(&state),
        cache.clone(),
    );
    cache.set_provider_source(Arc::new(images.clone()));
    let sources = sources(images.clone(), &cache, &sessions, state.tmp_dir())?;
    let exec = crate::steps::runner(settings, &cache, &sessions)?;
    let executor = Arc::clone(&exec.executor);
    let cache_mounts = exec.mounts.caches();
    let bridge = match &exec.surroundings.network {
        StepNetwork::Bridge(bridge) => Some(Arc::clone(bridge)),
        StepNetwork::Host | StepNetwork::None => None,
    };
    if let Some(bridge) = bridge
        .as_ref()
        .filter(|bridge| !bridge.offered().is_empty())
    {
        worker::add_host_gateway(&mut worker, bridge.gateway());
    }
    let resolver = Resolver::new(OpParts {
        cache: cache.clone(),
        sources: sources.clone(),
        platform: worker.platforms.first().cloned().unwrap_or_default(),
        exec,
        sessions: sessions.clone(),
        scratch: state.tmp_dir(),
    });
    let solver = Solver::new(SolverOptions {
        resolver: Arc::clone(&resolver) as _,
        results: Arc::new(results),
        keys: Arc::new(keys),
        max_parallel: settings.max_parallelism,
    });
    resolver.set_solver(solver.clone());
    release_with_records(&cache, &solver);

    let engine = Engine::new(EngineParts {
        worker,
        solver,
        sessions: sessions.clone(),
        content: content.clone(),
        history,
        frontends: frontends(settings),
        sources,
        caches: RemoteCaches {
            registry: registry.clone(),
            providers: Arc::new(images),
            sessions: sessions.clone(),
            content: content.clone(),
            cache: cache.clone(),
        },
        exporters: exporters(registry, &state, content, sessions),
        provenance_environment: provenance_environment(settings)?,
        entitlements: settings.entitlements.clone(),
    });
    let collector = Arc::new(Collector::new(&state, cache, engine.content().clone()));
    collector.configure(policies);
    {
        let engine = engine.clone();
        collector.set_quiet_check(Arc::new(move || engine.active() == 0));
    }
    collector.set_after_run(after_collection(&surroundings, &settings.root));
    let background = TaskTracker::new();
    let stop_background = CancellationToken::new();
    background.spawn(collect::run(
        engine.clone(),
        Arc::clone(&collector),
        stop_background.clone(),
    ));
    if let Some(courier) = courier {
        background.spawn(courier.run(stop_background.clone().cancelled_owned()));
    }
    let control = ControlService::new(
        engine.clone(),
        Arc::new(CacheRecords::new(Arc::clone(&collector))),
    );
    let agent = AgentApi {
        builds: BuildsService::new(engine.clone()),
        cache: CacheService::new(Arc::clone(&collector), cache_mounts),
        images: ImagesService::new(named_images, engine.history().clone()),
        machine: MachineService::new(Arc::new(ThisMachine {
            surroundings: surroundings.clone(),
            root: settings.root.clone(),
            engine: engine.clone(),
            collector,
            started: std::time::SystemTime::now(),
        })),
    };
    Ok(Daemon {
        surroundings,
        executor,
        bridge,
        engine,
        routes: agent.add_to(kiln_control::routes(control)),
        state,
        sockets: settings
            .addresses
            .iter()
            .filter_map(|address| match address {
                Address::Unix(path) => Some(path.clone()),
                Address::Tcp(_) | Address::Inherited => None,
            })
            .collect(),
        tls: tls(settings)?,
        background,
        stop_background,
    })
}

/// What outputs are made with. Pushes go with the credentials of the build's clients.
fn exporters(
    registry: Registry,
    state: &StateRoot,
    content: ContentStore,
    sessions: SessionManager,
) -> kiln_exporter::Services {
    let clients = sessions.clone();
    kiln_exporter::Services {
        sessions,
        content,
        images: ImageTable::new(state),
        registry,
        credentials: Arc::new(move |ids| Arc::new(SessionCredentials::new(clients.clone(), ids))),
    }
}

fn retention(settings: &Settings) -> Retention {
    let config = &settings.config.history;
    let default = Retention::default();
    Retention {
        max_age: config.max_age.map_or(default.max_age, |age| age.0),
        max_entries: config
            .max_entries
            .and_then(|entries| usize::try_from(entries).ok())
            .unwrap_or(default.max_entries),
        max_bytes: config.max_size.map_or(default.max_bytes, |size| {
            size.bytes_of(Disk::of(&settings.root).map_or(0, |disk| disk.total))
        }),
    }
}

/// The cache removes blobs of the records that it removes, but not those that history names.
fn keep_history_blobs(cache: &CacheManager, history: &History) {
    let history = history.clone();
    cache.on_delete_blob(Arc::new(move |digest| history.holds(digest)));
}

/// A record that is gone takes its keys along, or the database would grow for ever.
fn release_with_records(cache: &CacheManager, solver: &Solver<kiln_cache::OpResult>) {
    let solver = solver.clone();
    cache.on_removed(Arc::new(move |id| solver.release_result(id.as_str())));
}

fn sources(
    images: ImageSources,
    cache: &CacheManager,
    sessions: &SessionManager,
    scratch: std::path::PathBuf,
) -> anyhow::Result<Sources> {
    let git = GitSources::new(cache.clone(), sessions.clone(), scratch.clone());
    let client = reqwest::Client::builder()
        .user_agent(concat!("kilnd/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("HTTP client")?;
    let local = LocalSource::new(sessions.clone(), cache.clone(), scratch);
    let files = kiln_source::http::Files::new(client, cache.clone(), sessions.clone());
    Ok(Sources::default()
        .with(Arc::new(images))
        .with(Arc::new(ClientDirectories::new(local)))
        .with(Arc::new(files))
        .with(Arc::new(git)))
}

fn frontends(settings: &Settings) -> Frontends {
    let dockerfile = settings.config.frontend.dockerfile.enabled.unwrap_or(true);
    Frontends {
        dockerfile: dockerfile.then(|| Arc::new(DockerfileFrontend) as _),
        gateway: None,
    }
}

/// The JSON objects of the files in `provenanceEnvDir`, in the order of their names.
fn provenance_environment(
    settings: &Settings,
) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
    /// What builds say themselves.
    const RESERVED: [&str; 3] = ["buildConfig", "builderPlatform", "platform"];
    let mut environment = serde_json::Map::new();
    let Some(directory) = &settings.config.provenance_env_dir else {
        return Ok(environment);
    };
    let mut files: Vec<_> = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(environment),
        entries => entries
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .with_context(|| directory.display().to_string())?,
    };
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "json")
    });
    files.sort();
    for file in files {
        let shown = || file.display().to_string();
        let object: serde_json::Map<_, _> =
            serde_json::from_slice(&std::fs::read(&file).with_context(shown)?)
                .with_context(shown)?;
        environment.extend(object);
    }
    if let Some(key) = RESERVED.iter().find(|key| environment.contains_key(**key)) {
        anyhow::bail!("key {key:?} is builtin and not allowed to be modified in provenance config");
    }
    Ok(environment)
}

fn tls(settings: &Settings) -> anyhow::Result<Option<TlsOptions>> {
    let Some(tls) = &settings.tls else {
        return Ok(None);
    };
    let read = |path: &std::path::Path| {
        std::fs::read(path).with_context(|| format!("reading {}", path.display()))
    };
    Ok(Some(TlsOptions {
        cert: read(&tls.cert)?,
        key: read(&tls.key)?,
        client_ca: tls.client_ca.as_deref().map(read).transpose()?,
    }))
}
