//! The one task that follows the machine and the engine, and the state that it leaves for others.
//!
//! ```text
//!   ┌─ connect to kiln-vmd ◄───────────── 1 s ──┐
//!   └─► status … status … status ── ended ──────┘
//!          │ running                 │ not running
//!          ▼                         ▼
//!       history of the engine     what was known stays
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use kiln_client::{Address, Client, HostClient};
use kiln_config::HostPaths;
use kiln_proto::moby::buildkit::v1 as control;
use tokio::sync::{broadcast, watch};

use crate::clients::{Asked, Named};
use crate::progress::{Counts, Following};
use crate::projects::Notes;
use crate::records::Imported;
use crate::settings::{self, AppSettings};
use crate::view::{BuildSummary, BuildsChange, MachineStatus};
use crate::{Failure, builders, builds, clients, machine};

/// Changes that a slow listener may be behind; one that is more so starts anew.
const BEHIND: usize = 1024;
const AGAIN: Duration = Duration::from_secs(1);

/// The connection that lasts, and what is heard through it.
struct Engine {
    client: Client,
    history: BoxStream<'static, Result<control::BuildHistoryEvent, kiln_client::Error>>,
    progress: Following,
    clients: Asked,
}

enum Event {
    History(Box<control::BuildHistoryEvent>),
    Counts(String, Counts),
    Clients(Named),
}

/// What the window and the tray talk to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Controller {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    paths: HostPaths,
    notes: Notes,
    imported: Imported,
    machine: watch::Sender<MachineStatus>,
    builds: broadcast::Sender<BuildsChange>,
    known: Mutex<BTreeMap<String, BuildSummary>>,
    settings: watch::Sender<AppSettings>,
    troubles: broadcast::Sender<Failure>,
    counter: std::sync::atomic::AtomicU64,
}

impl Controller {
    /// For the user's own directories.
    pub fn new(paths: HostPaths) -> Self {
        // Whoever installed one before is fine too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let settings = AppSettings::load(&paths.config.join("desktop.json"));
        let shared = Shared {
            machine: watch::Sender::new(machine::unreachable("Asking the machine’s owner…".into())),
            builds: broadcast::Sender::new(BEHIND),
            known: Mutex::default(),
            settings: watch::Sender::new(settings),
            troubles: broadcast::Sender::new(16),
            counter: std::sync::atomic::AtomicU64::new(0),
            notes: Notes::new(&paths),
            imported: Imported::new(&paths),
            paths,
        };
        let controller = Self {
            shared: Arc::new(shared),
        };
        for summary in controller.imported().summaries() {
            controller.add_imported(summary);
        }
        controller
    }

    /// For the user that this process runs as.
    pub fn of_user() -> Result<Self, Failure> {
        let uid = rustix::process::getuid().as_raw();
        let paths = HostPaths::of_user(uid).map_err(|error| Failure::internal(&error))?;
        Ok(Self::new(paths))
    }

    /// Follows machine, engine and the settings file until it is dropped.
    pub async fn run(&self) {
        tokio::join!(self.follow_always(), self.reload_always());
    }

    /// Takes up what somebody writes into the settings file.
    async fn reload_always(&self) {
        let file = self.settings_file();
        // Nothing happens to the file when the watcher is dropped.
        let (_watcher, mut changes) = match settings::changes(&file) {
            Ok(both) => both,
            Err(error) => {
                tracing::warn!(%error, "changes of the settings file aren't seen");
                return;
            }
        };
        while changes.recv().await.is_some() {
            match AppSettings::read(&file) {
                Ok(read) => self.change_settings(read),
                Err(error) => tracing::warn!(%error, "the settings stay as they are"),
            }
        }
    }

    fn change_settings(&self, next: AppSettings) {
        self.shared.settings.send_if_modified(|current| {
            let differs = *current != next;
            if differs {
                *current = next;
            }
            differs
        });
    }

    async fn follow_always(&self) {
        loop {
            let reason = match self.follow().await {
                Ok(()) => "Kiln’s background process has ended; it is started again.".to_owned(),
                Err(failure) => failure.message,
            };
            self.shared
                .machine
                .send_replace(machine::unreachable(reason));
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Until the owner of the machine ends.
    async fn follow(&self) -> Result<(), Failure> {
        let host = HostClient::connect_or_start(&self.shared.paths).await?;
        let mut status = host.watch_status().await?;
        let mut settings = self.shared.settings.subscribe();
        let mut builder = settings.borrow_and_update().builder.clone();
        let mut engine: Option<Engine> = None;
        loop {
            if engine.is_none() && self.may_look() {
                // A machine that runs may still not accept; the next status or second is another chance.
                engine = self.look().await.ok();
            }
            let retry = engine.is_none() && self.may_look();
            tokio::select! {
                next = status.next() => match next {
                    Some(next) => {
                        let next = machine::status(next?);
                        if next.state != "running" && builder.is_empty() {
                            engine = None;
                        }
                        self.shared.machine.send_replace(next);
                    }
                    None => return Ok(()),
                },
                event = next_event(&mut engine) => match event {
                    Some(Event::History(event)) => {
                        let ended = ended(&event);
                        let begun = self.take(*event);
                        if let Some(engine) = &mut engine {
                            if let Some(reference) = begun {
                                engine.progress.follow(&engine.client, reference);
                            }
                            if let Some(reference) = ended {
                                engine.clients.ask(&engine.client, &reference);
                            }
                        }
                    }
                    Some(Event::Clients(named)) => self.name_clients(named),
                    Some(Event::Counts(reference, counts)) => self.count(&reference, counts),
                    None => engine = None,
                },
                // Another builder may be in use now.
                changed = settings.changed() => {
                    let now = settings.borrow_and_update().builder.clone();
                    if changed.is_ok() && now != builder {
                        builder = now;
                        engine = None;
                    }
                }
                () = tokio::time::sleep(AGAIN), if retry => {}
            }
        }
    }

    /// Whether to connect to the engine without being asked: never to wake the machine.
    fn may_look(&self) -> bool {
        !self.shared.settings.borrow().builder.is_empty()
            || self.shared.machine.borrow().state == "running"
    }

    async fn look(&self) -> Result<Engine, Failure> {
        let client = self.engine().await?;
        // What was and what is first, so that the list is whole when it appears.
        let mut past = client
            .history(control::BuildHistoryRequest {
                early_exit: true,
                ..Default::default()
            })
            .await?;
        let mut all = BTreeMap::new();
        while let Some(event) = past.next().await {
            if let Some(record) = event?.record {
                all.insert(record.r#ref.clone(), self.known_summary(&record));
            }
        }
        let history = client
            .history(control::BuildHistoryRequest::default())
            .await?
            .boxed();
        for (reference, client) in clients::of(&client, &[]).await {
            if let Some(build) = all.get_mut(&reference) {
                build.client = client;
            }
        }
        let mut progress = Following::default();
        for running in all.values().filter(|build| build.status == "running") {
            progress.follow(&client, running.r#ref.clone());
        }
        for summary in self.imported().summaries() {
            all.entry(summary.r#ref.clone()).or_insert(summary);
        }
        let changed = all.values().cloned().collect();
        *self.known() = all;
        self.tell_builds(BuildsChange {
            reset: true,
            changed,
            removed: Vec::new(),
        });
        Ok(Engine {
            client,
            history,
            progress,
            clients: Asked::default(),
        })
    }

    /// Takes up an event; the reference of a build that has begun.
    fn take(&self, event: control::BuildHistoryEvent) -> Option<String> {
        let deleted = event.r#type() == control::BuildHistoryEventType::Deleted;
        let record = event.record?;
        let mut change = BuildsChange::default();
        let mut begun = None;
        if deleted {
            self.known().remove(&record.r#ref);
            self.shared.notes.forget(&record.r#ref);
            change.removed.push(record.r#ref);
        } else {
            let summary = self.known_summary(&record);
            let before = self.known().insert(summary.r#ref.clone(), summary.clone());
            if before.as_ref() == Some(&summary) {
                return None;
            }
            if summary.status == "running" && before.is_none() {
                begun = Some(summary.r#ref.clone());
            }
            change.changed.push(summary);
        }
        drop(self.shared.builds.send(change));
        begun
    }

    /// Takes up how far a running build is.
    fn count(&self, reference: &str, counts: Counts) {
        let changed = {
            let mut known = self.known();
            match known.get_mut(reference) {
                Some(build) if build.status == "running" => {
                    counts.put_into(build).then(|| build.clone())
                }
                _ => None,
            }
        };
        if let Some(build) = changed {
            drop(self.shared.builds.send(BuildsChange {
                changed: vec![build],
                ..BuildsChange::default()
            }));
        }
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, BTreeMap<String, BuildSummary>> {
        self.shared
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell_builds(&self, change: BuildsChange) {
        // Nobody listening is fine.
        drop(self.shared.builds.send(change));
    }

    pub(crate) fn paths(&self) -> &HostPaths {
        &self.shared.paths
    }

    pub(crate) fn imported(&self) -> &Imported {
        &self.shared.imported
    }

    /// A build as the list has it.
    pub(crate) fn listed(&self, reference: &str) -> Option<BuildSummary> {
        self.known().get(reference).cloned()
    }

    /// Whether that build is known from a file alone.
    pub(crate) fn is_imported(&self, reference: &str) -> bool {
        self.known()
            .get(reference)
            .is_some_and(|build| build.imported)
    }

    /// Adds what a file tells, unless the engine tells it; whether it was added.
    pub(crate) fn add_imported(&self, summary: BuildSummary) -> bool {
        let mut known = self.known();
        let of_engine = known
            .get(&summary.r#ref)
            .is_some_and(|build| !build.imported);
        if !of_engine {
            known.insert(summary.r#ref.clone(), summary);
        }
        !of_engine
    }

    pub(crate) fn remove_known(&self, reference: &str) {
        self.known().remove(reference);
    }

    /// The machine, now and whenever it changes.
    pub fn watch_machine(&self) -> watch::Receiver<MachineStatus> {
        self.shared.machine.subscribe()
    }

    /// The machine as it was last heard of.
    pub fn machine(&self) -> MachineStatus {
        self.shared.machine.borrow().clone()
    }

    /// Changes of the list from now on.
    pub fn builds(&self) -> broadcast::Receiver<BuildsChange> {
        self.shared.builds.subscribe()
    }

    /// Failures of what goes on by itself, from now on.
    pub fn troubles(&self) -> broadcast::Receiver<Failure> {
        self.shared.troubles.subscribe()
    }

    pub(crate) fn trouble(&self, failure: Failure) {
        tracing::warn!(%failure, "a build of the app");
        // Nobody listening is fine.
        drop(self.shared.troubles.send(failure));
    }

    /// All builds that are known, newest first.
    pub fn known_builds(&self) -> Vec<BuildSummary> {
        let mut all: Vec<BuildSummary> = self.known().values().cloned().collect();
        all.sort_by_key(|build| std::cmp::Reverse(build.created));
        all
    }

    /// The app's settings, now and whenever they change.
    pub fn watch_settings(&self) -> watch::Receiver<AppSettings> {
        self.shared.settings.subscribe()
    }

    /// The app's settings.
    pub fn settings(&self) -> AppSettings {
        self.shared.settings.borrow().clone()
    }

    /// Keeps what the window's form holds; the builders have a screen of their own and stay as they are.
    pub fn save_settings(&self, settings: AppSettings) -> Result<(), Failure> {
        let known = self.settings();
        self.keep_settings(AppSettings {
            schema: known.schema,
            builders: known.builders,
            builder: known.builder,
            ..settings
        })
    }

    pub(crate) fn keep_settings(&self, settings: AppSettings) -> Result<(), Failure> {
        settings.save(&self.settings_file())?;
        self.change_settings(settings);
        Ok(())
    }

    fn settings_file(&self) -> PathBuf {
        self.shared.paths.config.join("desktop.json")
    }

    /// The owner of the machine, started where it doesn't run.
    pub(crate) async fn host(&self) -> Result<HostClient, Failure> {
        Ok(HostClient::connect_or_start(&self.shared.paths).await?)
    }

    /// The engine in use. Connecting to the machine's socket wakes it; being connected to this one, which serves
    /// BuildKit's API as well, doesn't keep it from stopping when it is idle.
    pub(crate) async fn engine(&self) -> Result<Client, Failure> {
        match self.builder_in_use() {
            Some(builder) => builders::connect(&builder).await,
            None => {
                let address = Address::Unix(self.shared.paths.agent_socket());
                Ok(Client::connect(&address).await?)
            }
        }
    }

    /// What the record tells, what the client noted, and whose build it is where the engine has told.
    pub(crate) fn known_summary(&self, record: &control::BuildHistoryRecord) -> BuildSummary {
        let mut summary = builds::summary(record);
        self.shared.notes.place(&mut summary);
        if let Some(listed) = self.listed(&record.r#ref) {
            summary.client = listed.client;
        }
        summary
    }

    /// Folders of builds.
    pub(crate) fn notes(&self) -> &Notes {
        &self.shared.notes
    }

    /// A reference for a build of the app: 25 characters, as clients make them.
    pub(crate) fn new_reference(&self) -> String {
        use std::hash::{BuildHasher as _, RandomState};
        let count = self
            .shared
            .counter
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let word = || RandomState::new().hash_one(count);
        let text = format!("k{:016x}{:016x}", word(), word());
        text[..25].to_owned()
    }
}

/// The build that the event is the end of, or a later change.
fn ended(event: &control::BuildHistoryEvent) -> Option<String> {
    let complete = event.r#type() == control::BuildHistoryEventType::Complete;
    let record = event.record.as_ref().filter(|_| complete)?;
    Some(record.r#ref.clone())
}

async fn next_event(engine: &mut Option<Engine>) -> Option<Event> {
    let Some(engine) = engine else {
        return std::future::pending().await;
    };
    tokio::select! {
        event = engine.history.next() => event.and_then(Result::ok).map(Box::new).map(Event::History),
        (reference, counts) = engine.progress.next() => Some(Event::Counts(reference, counts)),
        named = engine.clients.next() => Some(Event::Clients(named)),
    }
}

#[cfg(test)]
mod tests;
