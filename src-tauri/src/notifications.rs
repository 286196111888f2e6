//! Tells the desktop that a build ended (freedesktop.org's notifications); a click opens the build.
//!
//! Invariant: a desktop without notifications costs nothing but a line in the log.

use std::collections::HashMap;

use futures::StreamExt as _;
use kiln_controller::{Controller, Notice, Notices};
use tauri::{AppHandle, Manager as _};
use tokio::sync::broadcast::error::RecvError;
use zbus::zvariant::Value;

use crate::shell;

const SERVICE: &str = "org.freedesktop.Notifications";
const OBJECT: &str = "/org/freedesktop/Notifications";

/// Follows the builds as long as the app runs.
pub fn follow(app: &AppHandle, controller: Controller) {
    let app = app.clone();
    let mut builds = controller.builds();
    tauri::async_runtime::spawn(async move {
        let mut notices = Notices::default();
        loop {
            let change = match builds.recv().await {
                Ok(change) => change,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            for notice in notices.take(&change, &controller.settings()) {
                let in_front = app
                    .get_webview_window("main")
                    .is_some_and(|window| window.is_focused().unwrap_or(false));
                if !in_front {
                    let app = app.clone();
                    tauri::async_runtime::spawn(async move {
                        if let Err(error) = tell(&app, notice).await {
                            tracing::info!(%error, "the desktop shows no notifications");
                        }
                    });
                }
            }
        }
    });
}

/// Shows it, and waits until it is clicked or goes.
async fn tell(app: &AppHandle, notice: Notice) -> zbus::Result<()> {
    let bus = zbus::Connection::session().await?;
    let service = zbus::Proxy::new(&bus, SERVICE, OBJECT, SERVICE).await?;
    let mut signals = service.receive_all_signals().await?;
    let hints: HashMap<&str, Value<'_>> =
        HashMap::from([("desktop-entry", Value::from("dev.kiln.desktop"))]);
    let actions = ["default", "Show the build"];
    let body = notice.body.replace('&', "&amp;").replace('<', "&lt;");
    let id: u32 = service
        .call(
            "Notify",
            &(
                "Kiln",
                0_u32,
                "kiln-desktop",
                &notice.title,
                body,
                &actions[..],
                hints,
                -1_i32,
            ),
        )
        .await?;
    while let Some(signal) = signals.next().await {
        let header = signal.header();
        match header.member().map(|name| name.as_str()) {
            Some("ActionInvoked") => {
                let (which, _): (u32, String) = signal.body().deserialize()?;
                if which == id {
                    shell::show(app, &format!("build/{}", notice.reference));
                    return Ok(());
                }
            }
            Some("NotificationClosed") => {
                let (which, _): (u32, u32) = signal.body().deserialize()?;
                if which == id {
                    return Ok(());
                }
            }
            _ => {}
        }
    }
    Ok(())
}
