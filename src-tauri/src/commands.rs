//! Commands of the window: each forwards to the controller's method of the same name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_controller::view::{
    BuildDetail, BuildRequest, BuildUpdate, Builder, BuilderAddress, BuildsChange, BundlePart,
    CacheMount, CacheRecord, Check, DockerfileAnswers, Explanation, FileEntry, FolderInfo, GcRun,
    Image, ImageDetail, MachineSettings, MachineStatus, MachineUse, Pick, Plan, Policy, Rebuild,
    Registry, Retention, TestStep, ToolState, Transfer, WatchState,
};
use kiln_controller::{AppSettings, Controller, Failure};
use tauri::async_runtime::{JoinHandle, spawn};
use tauri::ipc::{Channel, Invoke};
use tauri::{AppHandle, State, Wry};

use crate::dialogs;
use crate::shell::Asked;

type Here<'a> = State<'a, Controller>;
type Answer<T> = Result<T, Failure>;

/// Streams that the window listens to; each ends when it says so.
#[derive(Default)]
pub struct Subscriptions {
    next: AtomicU32,
    tasks: Mutex<HashMap<u32, JoinHandle<()>>>,
}

impl Subscriptions {
    fn add(&self, task: impl Future<Output = ()> + Send + 'static) -> u32 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|_, task| !task.inner().is_finished());
        tasks.insert(id, spawn(task));
        id
    }

    fn end(&self, id: u32) {
        if let Some(task) = self
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id)
        {
            task.abort();
        }
    }
}

#[tauri::command]
async fn unsubscribe(all: State<'_, Subscriptions>, subscription: u32) -> Answer<()> {
    all.end(subscription);
    Ok(())
}

#[tauri::command]
async fn watch_machine(
    here: Here<'_>,
    all: State<'_, Subscriptions>,
    channel: Channel<MachineStatus>,
) -> Answer<u32> {
    let mut machine = here.watch_machine();
    Ok(all.add(async move {
        loop {
            let now = machine.borrow_and_update().clone();
            if channel.send(now).is_err() || machine.changed().await.is_err() {
                return;
            }
        }
    }))
}

/// Of a machine that runs; the channel is silent where the engine can't say.
#[tauri::command]
async fn watch_use(
    here: Here<'_>,
    all: State<'_, Subscriptions>,
    channel: Channel<MachineUse>,
) -> Answer<u32> {
    let controller = here.inner().clone();
    Ok(all.add(async move {
        if let Err(failure) = controller.watch_use(|now| channel.send(now).is_ok()).await {
            tracing::debug!(%failure, "what the machine uses isn't known");
        }
    }))
}

#[tauri::command]
async fn watch_settings(
    here: Here<'_>,
    all: State<'_, Subscriptions>,
    channel: Channel<AppSettings>,
) -> Answer<u32> {
    let mut settings = here.watch_settings();
    Ok(all.add(async move {
        loop {
            let now = settings.borrow_and_update().clone();
            if channel.send(now).is_err() || settings.changed().await.is_err() {
                return;
            }
        }
    }))
}

/// The place that a link asked for before the window listened.
#[tauri::command]
async fn asked_route(asked: State<'_, Asked>) -> Answer<Option<String>> {
    Ok(asked.take())
}

/// Asks people for a place by the desktop's own dialog; none where they chose none.
#[tauri::command]
async fn pick(app: AppHandle, ask: Pick) -> Answer<Option<String>> {
    dialogs::pick(&app, ask).await
}

#[tauri::command]
async fn watch_builds(
    here: Here<'_>,
    all: State<'_, Subscriptions>,
    channel: Channel<BuildsChange>,
) -> Answer<u32> {
    let controller = here.inner().clone();
    Ok(all.add(async move {
        let mut changes = controller.builds();
        let whole = || BuildsChange {
            reset: true,
            changed: controller.known_builds(),
            removed: Vec::new(),
        };
        if channel.send(whole()).is_err() {
            return;
        }
        loop {
            let change = match changes.recv().await {
                Ok(change) => change,
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => whole(),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            };
            if channel.send(change).is_err() {
                return;
            }
        }
    }))
}

#[tauri::command]
async fn watch_build(
    here: Here<'_>,
    all: State<'_, Subscriptions>,
    reference: String,
    logs: bool,
    channel: Channel<BuildUpdate>,
) -> Answer<u32> {
    let controller = here.inner().clone();
    Ok(all.add(async move {
        let send = |update| channel.send(update).is_ok();
        if controller
            .watch_build(&reference, logs, send)
            .await
            .is_err()
        {
            // The record says why; the window must not wait for more.
            let _ = channel.send(BuildUpdate {
                end: true,
                ..BuildUpdate::default()
            });
        }
    }))
}

#[tauri::command]
async fn watch_folder(
    here: Here<'_>,
    all: State<'_, Subscriptions>,
    request: BuildRequest,
    channel: Channel<WatchState>,
) -> Answer<u32> {
    let controller = here.inner().clone();
    Ok(all.add(async move {
        let send = |state| channel.send(state).is_ok();
        if let Err(failure) = controller.watch_folder(request, send).await {
            let _ = channel.send(WatchState {
                phase: "ended".into(),
                error: failure.message,
                ..WatchState::default()
            });
        }
    }))
}

/// A command that moves an image and tells how far it is.
macro_rules! transfer {
    ($name:ident) => {
        #[tauri::command]
        async fn $name(
            here: Here<'_>,
            all: State<'_, Subscriptions>,
            name: String,
            channel: Channel<Transfer>,
        ) -> Answer<u32> {
            let controller = here.inner().clone();
            Ok(all.add(async move {
                let send = |transfer| channel.send(transfer).is_ok();
                controller.$name(name, send).await;
            }))
        }
    };
}

transfer!(pull_image);
transfer!(push_image);

/// A command that forwards its arguments.
macro_rules! forward {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        $(#[tauri::command]
        async fn $name(here: Here<'_>, $($argument: $kind),*) -> Answer<$answer> {
            here.$name($($argument),*).await
        })*
    };
}

forward! {
    start_machine() -> ();
    stop_machine(force: bool) -> ();
    restart_machine() -> ();
    machine_settings() -> MachineSettings;
    save_machine_settings(settings: MachineSettings) -> Vec<String>;
    console() -> String;
    diagnose() -> Vec<Check>;
    inspect_folder(path: String, dockerfile: String) -> FolderInfo;
    start_build(request: BuildRequest) -> String;
    ask_dockerfile(request: BuildRequest) -> DockerfileAnswers;
    kept_secrets() -> Vec<String>;
    keep_secret(name: String, value: String) -> ();
    forget_secret(name: String) -> ();
    registries() -> Vec<Registry>;
    save_registry(registry: Registry) -> Vec<String>;
    forget_registry(host: String) -> Vec<String>;
    retention() -> Retention;
    save_retention(retention: Retention) -> Vec<String>;
    test_builder(builder: BuilderAddress) -> Vec<TestStep>;
    images() -> Vec<Image>;
    inspect_image(name: String) -> ImageDetail;
    tag_image(source: String, target: String) -> ();
    remove_images(names: Vec<String>) -> i64;
    cache_records() -> Vec<CacheRecord>;
    plan_cleanup(keep_bytes: i64) -> Plan;
    run_cleanup(plan_id: String) -> GcRun;
    gc_runs() -> Vec<GcRun>;
    gc_policies() -> Vec<Policy>;
    save_gc_policies(policies: Vec<Policy>) -> Vec<String>;
    cache_mounts() -> Vec<CacheMount>;
    browse_mount(record_id: String, path: String) -> Vec<FileEntry>;
    clear_mount(record_id: String) -> i64;
    export_mount(record_id: String, path: String) -> i64;
    import_mount(record_id: String, path: String) -> ();
    plan_policies(policies: Vec<Policy>) -> Plan;
    save_images(names: Vec<String>, path: String) -> i64;
    load_images(path: String) -> Vec<String>;
    import_build(path: String) -> String;
}

#[tauri::command]
async fn reset_machine(here: Here<'_>, confirm: String) -> Answer<()> {
    here.reset_machine(&confirm).await
}

#[tauri::command]
async fn build_detail(here: Here<'_>, reference: String) -> Answer<BuildDetail> {
    here.build_detail(&reference).await
}

#[tauri::command]
async fn rebuild(here: Here<'_>, reference: String) -> Answer<Rebuild> {
    here.rebuild(&reference).await
}

#[tauri::command]
async fn explain_build(here: Here<'_>, reference: String) -> Answer<Vec<Explanation>> {
    here.explain_build(&reference).await
}

#[tauri::command]
async fn cancel_build(here: Here<'_>, reference: String) -> Answer<()> {
    here.cancel_build(&reference).await
}

#[tauri::command]
async fn pin_build(here: Here<'_>, reference: String, pinned: bool) -> Answer<()> {
    here.pin_build(&reference, pinned).await
}

#[tauri::command]
async fn export_build(here: Here<'_>, reference: String, path: String) -> Answer<()> {
    here.export_build(&reference, path).await
}

#[tauri::command]
async fn support_parts(here: Here<'_>) -> Answer<Vec<BundlePart>> {
    Ok(here.support_parts().await)
}

#[tauri::command]
async fn save_support(here: Here<'_>, path: String, parts: Vec<BundlePart>) -> Answer<()> {
    here.save_support(&path, parts)
}

#[tauri::command]
async fn tools(here: Here<'_>) -> Answer<ToolState> {
    here.tools()
}

#[tauri::command]
async fn install_tools(here: Here<'_>, make_current: bool) -> Answer<ToolState> {
    here.install_tools(make_current)
}

#[tauri::command]
async fn remove_tools(here: Here<'_>) -> Answer<ToolState> {
    here.remove_tools()
}

#[tauri::command]
async fn support_path(here: Here<'_>) -> Answer<String> {
    Ok(here.support_path())
}

#[tauri::command]
async fn delete_builds(here: Here<'_>, references: Vec<String>) -> Answer<()> {
    here.delete_builds(&references).await
}

#[tauri::command]
async fn builders(here: Here<'_>) -> Answer<Vec<Builder>> {
    Ok(here.builders())
}

#[tauri::command]
async fn add_builder(here: Here<'_>, builder: BuilderAddress) -> Answer<()> {
    here.add_builder(builder)
}

#[tauri::command]
async fn remove_builder(here: Here<'_>, name: String) -> Answer<()> {
    here.remove_builder(&name)
}

#[tauri::command]
async fn use_builder(here: Here<'_>, name: String) -> Answer<()> {
    here.use_builder(&name)
}

#[tauri::command]
async fn login_registry(
    here: Here<'_>,
    host: String,
    username: String,
    secret: String,
) -> Answer<()> {
    here.login_registry(&host, username, secret).await
}

#[tauri::command]
async fn logout_registry(here: Here<'_>, host: String) -> Answer<()> {
    here.logout_registry(&host).await
}

#[tauri::command]
async fn test_registry(here: Here<'_>, host: String) -> Answer<Vec<TestStep>> {
    here.test_registry(&host).await
}

#[tauri::command]
async fn save_settings(here: Here<'_>, settings: AppSettings) -> Answer<()> {
    here.save_settings(settings)
}

/// All of them.
pub fn handler() -> impl Fn(Invoke<Wry>) -> bool + Send + Sync + 'static {
    tauri::generate_handler![
        unsubscribe,
        watch_machine,
        watch_use,
        watch_builds,
        watch_build,
        start_machine,
        stop_machine,
        restart_machine,
        machine_settings,
        save_machine_settings,
        console,
        reset_machine,
        diagnose,
        build_detail,
        explain_build,
        rebuild,
        cancel_build,
        pin_build,
        delete_builds,
        import_build,
        export_build,
        support_parts,
        tools,
        install_tools,
        remove_tools,
        support_path,
        save_support,
        export_mount,
        import_mount,
        plan_policies,
        save_images,
        load_images,
        inspect_folder,
        start_build,
        ask_dockerfile,
        watch_folder,
        kept_secrets,
        keep_secret,
        forget_secret,
        images,
        inspect_image,
        pull_image,
        push_image,
        tag_image,
        remove_images,
        cache_records,
        plan_cleanup,
        run_cleanup,
        gc_runs,
        gc_policies,
        save_gc_policies,
        cache_mounts,
        browse_mount,
        clear_mount,
        builders,
        add_builder,
        remove_builder,
        use_builder,
        test_builder,
        registries,
        test_registry,
        save_registry,
        forget_registry,
        retention,
        save_retention,
        login_registry,
        logout_registry,
        save_settings,
        watch_settings,
        asked_route,
        pick,
    ]
}
