//! The desktop's own dialogs for files and folders.
//!
//! They are GTK's, over the window and on its thread; where `GTK_USE_PORTAL=1` says so, and inside of a sandbox, GTK
//! asks the desktop's portal in its place.
//!
//! Invariant: a dialog gives a path and nothing else happens: no file is opened, made or overwritten here.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use gtk::prelude::{FileChooserExt as _, NativeDialogExt as _};
use gtk::{FileChooserAction, FileChooserNative, FileFilter, ResponseType};
use kiln_controller::view::Pick;
use kiln_controller::{Failure, picker};
use tauri::{AppHandle, Manager as _};
use tokio::sync::oneshot;

/// What people choose; none where they choose nothing.
pub async fn pick(app: &AppHandle, ask: Pick) -> Result<Option<String>, Failure> {
    let (chosen, answer) = oneshot::channel();
    let window = app.get_webview_window("main");
    let shown = ask.clone();
    app.run_on_main_thread(move || {
        let parent = window.and_then(|window| window.gtk_window().ok());
        show(parent.as_ref(), &shown, chosen);
    })
    .map_err(|error| Failure::internal(&error))?;
    // A dialog that goes away with its window chooses nothing.
    let Some(path) = answer.await.ok().flatten() else {
        return Ok(None);
    };
    match picker::with_ending(path, &ask)
        .into_os_string()
        .into_string()
    {
        Ok(path) => Ok(Some(path)),
        Err(path) => Err(Failure::user(
            format!("{} can’t be written as text.", path.display()),
            "Choose a place whose name is UTF-8.",
        )),
    }
}

fn show(
    parent: Option<&gtk::ApplicationWindow>,
    ask: &Pick,
    chosen: oneshot::Sender<Option<PathBuf>>,
) {
    let (action, accept) = match ask.what.as_str() {
        "folder" => (FileChooserAction::SelectFolder, "Choose"),
        "save" => (FileChooserAction::Save, "Choose"),
        _ => (FileChooserAction::Open, "Open"),
    };
    let dialog = FileChooserNative::new(
        Some(&ask.title),
        parent,
        action,
        Some(accept),
        Some("Cancel"),
    );
    dialog.set_modal(true);
    let begin = picker::begin(ask);
    if let Some(directory) = begin.directory {
        dialog.set_current_folder(directory);
    }
    if action == FileChooserAction::Save {
        dialog.set_current_name(&begin.name);
    }
    if !ask.kinds.is_empty() && action == FileChooserAction::Open {
        dialog.add_filter(filter(&ask.kinds));
        let all = FileFilter::new();
        all.set_name(Some("All files"));
        all.add_pattern("*");
        dialog.add_filter(all);
    }
    // The dialog lives as long as nobody has answered: its answer holds it, and is what lets it go.
    let holder = Rc::new(RefCell::new(Some((dialog.clone(), chosen))));
    dialog.connect_response(move |_, response| {
        let Some((dialog, chosen)) = holder.borrow_mut().take() else {
            return;
        };
        let path = match response {
            ResponseType::Accept => dialog.filename(),
            _ => None,
        };
        // Whoever asked may be gone.
        let _ = chosen.send(path);
    });
    dialog.show();
}

fn filter(kinds: &[String]) -> FileFilter {
    let patterns: Vec<String> = kinds.iter().map(|kind| format!("*.{kind}")).collect();
    let filter = FileFilter::new();
    filter.set_name(Some(&patterns.join(", ")));
    for pattern in &patterns {
        filter.add_pattern(pattern);
    }
    filter
}
