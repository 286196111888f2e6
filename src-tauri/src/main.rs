//! The desktop app: a window and a tray over [`kiln_controller`].
//!
//! `kiln-desktop [--tray] [kiln://ROUTE]`: `--tray` starts without showing the window; the link opens a screen, such as
//! `kiln://build/REF`. `KILN_LOG` is what it logs to standard error.
//!
//! Invariant: nothing is decided here. Commands forward, the tray draws what a pure function says, and the
//! app's end leaves the machine and its builds alone.

#![cfg_attr(not(debug_assertions), windows_subsystem = "windows")]

mod commands;
mod dialogs;
mod notifications;
mod shell;

use kiln_controller::{Controller, surroundings};
use tauri::Manager as _;
use tracing_subscriber::EnvFilter;

fn main() {
    complete_surroundings();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("KILN_LOG").unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .init();
    let controller = match Controller::of_user() {
        Ok(controller) => controller,
        Err(failure) => {
            eprintln!("kiln-desktop: {failure}");
            std::process::exit(1);
        }
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = tauri::Builder::default()
        .plugin(tauri_plugin_single_instance::init(|app, arguments, _| {
            shell::started(app, &arguments);
        }))
        .manage(controller)
        .manage(commands::Subscriptions::default())
        .manage(shell::Asked::default())
        .invoke_handler(commands::handler())
        .setup(move |app| {
            let controller = app.state::<Controller>().inner().clone();
            tauri::async_runtime::spawn({
                let controller = controller.clone();
                async move { controller.run().await }
            });
            shell::tray(app.handle(), controller.clone())?;
            shell::at_login(app.handle(), controller.clone());
            shell::troubles(app.handle(), &controller);
            notifications::follow(app.handle(), controller);
            shell::started(app.handle(), &arguments);
            Ok(())
        })
        .on_window_event(shell::window_event)
        .run(tauri::generate_context!());
    if let Err(error) = outcome {
        eprintln!("kiln-desktop: {error}");
        std::process::exit(1);
    }
}

/// Starts anew with what the environment lacks: a process that runs can't change its own.
fn complete_surroundings() {
    use std::os::unix::process::CommandExt as _;
    let missing = surroundings::missing();
    if missing.is_empty() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let error = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .envs(missing)
            .exec();
        eprintln!("kiln-desktop: can't start anew with what WebKit needs: {error}");
    }
}
