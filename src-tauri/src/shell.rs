//! Window and tray: what the desktop sees of the app.

use std::sync::{Mutex, PoisonError};

use kiln_controller::Controller;
use kiln_controller::tray::{self as pure, Item, Tray};
use tauri::image::Image;
use tauri::menu::{Menu, MenuBuilder, MenuItemBuilder};
use tauri::tray::TrayIconBuilder;
use tauri::{AppHandle, DragDropEvent, Emitter as _, Manager as _, Window, WindowEvent, Wry};

const TRAY: &str = "kiln";
const SCHEME: &str = "kiln://";
const TROUBLE: &str = "trouble";

/// A place that was asked for before the window listened.
#[derive(Default)]
pub struct Asked(Mutex<Option<String>>);

impl Asked {
    /// Once.
    pub fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Shows the window, at a place if one is named.
pub fn show(app: &AppHandle, route: &str) {
    if let Some(window) = app.get_webview_window("main") {
        let _ = window.show();
        let _ = window.unminimize();
        let _ = window.set_focus();
    }
    if !route.is_empty() {
        let route = format!("#/{route}");
        // Kept as well: a window that isn't there yet asks when it is.
        *app.state::<Asked>()
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(route.clone());
        let _ = app.emit("open-route", route);
    }
}

/// The first start, or another one that hands over to this: shows the window, at the place that its link names.
pub fn started(app: &AppHandle, arguments: &[String]) {
    let link = arguments
        .iter()
        .find_map(|argument| argument.strip_prefix(SCHEME));
    if link.is_some() || !arguments.iter().any(|argument| argument == "--tray") {
        show(app, link.unwrap_or_default().trim_end_matches('/'));
    }
}

/// Keeps the entry that starts the app at login as the settings say.
pub fn at_login(app: &AppHandle, controller: Controller) {
    let (Ok(config), Ok(program)) = (app.path().config_dir(), std::env::current_exe()) else {
        return;
    };
    tauri::async_runtime::spawn(async move {
        let mut settings = controller.watch_settings();
        loop {
            let wanted = settings.borrow_and_update().start_at_login;
            if let Err(error) = kiln_controller::autostart::apply(&config, &program, wanted) {
                tracing::warn!(%error, wanted, "the entry that starts the app at login stays as it is");
            }
            if settings.changed().await.is_err() {
                return;
            }
        }
    });
}

/// Hands failures of what goes on by itself to the window, which shows them.
pub fn troubles(app: &AppHandle, controller: &Controller) {
    let app = app.clone();
    let mut troubles = controller.troubles();
    tauri::async_runtime::spawn(async move {
        loop {
            match troubles.recv().await {
                Ok(failure) => drop(app.emit(TROUBLE, failure)),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    });
}

/// Close hides where the settings say so; what is dropped goes to the form of a new build.
pub fn window_event(window: &Window, event: &WindowEvent) {
    match event {
        WindowEvent::CloseRequested { api, .. }
            if window.state::<Controller>().settings().close_to_tray =>
        {
            api.prevent_close();
            let _ = window.hide();
        }
        WindowEvent::DragDrop(DragDropEvent::Drop { paths, .. }) => {
            if let Some(path) = paths.first() {
                let _ = window.emit("folder-dropped", path.display().to_string());
            }
        }
        _ => {}
    }
}

/// Draws the tray now and whenever machine or builds change.
pub fn tray(app: &AppHandle, controller: Controller) -> tauri::Result<()> {
    let drawn = tray_of(&controller);
    TrayIconBuilder::with_id(TRAY)
        .icon(icon(drawn.icon)?)
        .tooltip(&drawn.tooltip)
        .menu(&menu(app, &drawn)?)
        .on_menu_event(|app, event| chosen(app, event.id().as_ref()))
        .build(app)?;
    let app = app.clone();
    tauri::async_runtime::spawn(async move {
        let mut machine = controller.watch_machine();
        let mut builds = controller.builds();
        let mut settings = controller.watch_settings();
        let mut shown = drawn;
        loop {
            tokio::select! {
                changed = machine.changed() => if changed.is_err() { return },
                changed = settings.changed() => if changed.is_err() { return },
                change = builds.recv() => {
                    if matches!(change, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
                        return;
                    }
                }
            }
            let next = tray_of(&controller);
            if next != shown {
                draw(&app, &next);
                shown = next;
            }
        }
    });
    Ok(())
}

fn tray_of(controller: &Controller) -> Tray {
    let settings = controller.settings();
    pure::tray(
        &controller.machine(),
        &controller.known_builds(),
        &settings.quick_builds,
    )
}

fn draw(app: &AppHandle, tray: &Tray) {
    let Some(icon_of_tray) = app.tray_by_id(TRAY) else {
        return;
    };
    if let (Ok(image), Ok(menu)) = (icon(tray.icon), menu(app, tray)) {
        let _ = icon_of_tray.set_icon(Some(image));
        let _ = icon_of_tray.set_menu(Some(menu));
        let _ = icon_of_tray.set_tooltip(Some(&tray.tooltip));
    }
}

fn menu(app: &AppHandle, tray: &Tray) -> tauri::Result<Menu<Wry>> {
    let mut menu = MenuBuilder::new(app);
    for (index, item) in tray.items.iter().enumerate() {
        menu = match item {
            Item::Separator => menu.separator(),
            Item::Label(text) => menu.item(
                &MenuItemBuilder::with_id(format!("label:{index}"), text)
                    .enabled(false)
                    .build(app)?,
            ),
            Item::Action { id, text } => menu.item(&MenuItemBuilder::with_id(id, text).build(app)?),
        };
    }
    menu.build()
}

fn icon(state: &str) -> tauri::Result<Image<'static>> {
    Image::from_bytes(match state {
        "starting" => include_bytes!("../icons/tray-starting.png"),
        "idle" => include_bytes!("../icons/tray-idle.png"),
        "building" => include_bytes!("../icons/tray-building.png"),
        "attention" => include_bytes!("../icons/tray-attention.png"),
        _ => include_bytes!("../icons/tray-off.png"),
    })
}

fn chosen(app: &AppHandle, id: &str) {
    if let Some(route) = id.strip_prefix("open:") {
        return show(app, route);
    }
    if id == "quit" {
        return app.exit(0);
    }
    let controller = app.state::<Controller>().inner().clone();
    let id = id.to_owned();
    let app = app.clone();
    tauri::async_runtime::spawn(async move {
        let (verb, subject) = id.split_once(':').unwrap_or((&id, ""));
        let outcome = match verb {
            "start" => controller.start_machine().await,
            "stop" => controller.stop_machine(false).await,
            "cancel" => controller.cancel_build(subject).await,
            "quick" => controller.quick_build(subject).await,
            _ => Ok(()),
        };
        // The window is where a failure can be read.
        if let Err(failure) = outcome {
            show(&app, "");
            let _ = app.emit(TROUBLE, failure);
        }
    });
}
