//! What the controller does with events, settings and its files.

use super::*;
use crate::view::BuilderAddress;

fn controller() -> (tempfile::TempDir, Controller) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let paths = HostPaths {
        runtime: at("r"),
        state: at("s"),
        config: at("c"),
    };
    (directory, Controller::new(paths))
}

fn event(
    kind: control::BuildHistoryEventType,
    reference: &str,
    cached: i32,
) -> control::BuildHistoryEvent {
    let record = control::BuildHistoryRecord {
        r#ref: reference.into(),
        num_cached_steps: cached,
        ..Default::default()
    };
    control::BuildHistoryEvent {
        r#type: kind as i32,
        record: Some(record),
    }
}

#[test]
fn events_change_the_list_once_each() {
    use control::BuildHistoryEventType::{Complete, Deleted, Started};
    let (_directory, controller) = controller();
    let mut changes = controller.builds();
    assert_eq!(
        controller.take(event(Started, "a", 0)).as_deref(),
        Some("a")
    );
    assert_eq!(controller.take(event(Started, "a", 0)), None);
    controller.take(event(Complete, "a", 3));
    controller.take(event(Deleted, "a", 0));
    let seen: Vec<(usize, usize)> = std::iter::from_fn(|| changes.try_recv().ok())
        .map(|c| (c.changed.len(), c.removed.len()))
        .collect();
    assert_eq!(seen, [(1, 0), (1, 0), (0, 1)]);
    assert!(controller.known_builds().is_empty());
}

#[test]
fn a_build_keeps_its_client() {
    use control::BuildHistoryEventType::{Complete, Started};
    let (_directory, controller) = controller();
    let mut changes = controller.builds();
    assert_eq!(ended(&event(Started, "a", 0)), None);
    controller.take(event(Complete, "a", 0));
    assert_eq!(ended(&event(Complete, "a", 0)).as_deref(), Some("a"));
    let named = |name: &str| vec![(name.to_owned(), "buildx".to_owned())];
    controller.name_clients(named("nobody's"));
    controller.name_clients(named("a"));
    controller.name_clients(named("a"));
    // A later change of its record says nothing of the client.
    controller.take(event(Complete, "a", 3));
    let clients: Vec<String> = std::iter::from_fn(|| changes.try_recv().ok())
        .flat_map(|change| change.changed)
        .map(|build| build.client)
        .collect();
    assert_eq!(clients, ["", "buildx", "buildx"]);
}

#[test]
fn a_stopped_machine_is_not_woken_to_look_at_it() {
    let (_directory, controller) = controller();
    assert!(!controller.may_look());
    let mut status = controller.machine();
    status.state = "running".into();
    controller.shared.machine.send_replace(status);
    assert!(controller.may_look());
}

fn builder(name: &str, address: &str) -> BuilderAddress {
    BuilderAddress {
        name: name.into(),
        address: address.into(),
        ..BuilderAddress::default()
    }
}

#[test]
fn builders_are_kept_with_the_settings() {
    let (_directory, controller) = controller();
    controller.add_builder(builder("ci", "tcp://h:1")).unwrap();
    for (name, address) in [("ci", "tcp://h:2"), ("x", "ssh://h")] {
        let failure = controller.add_builder(builder(name, address)).unwrap_err();
        assert_eq!(failure.kind, "user");
    }
    controller.use_builder("ci").unwrap();
    let again = Controller::new(controller.shared.paths.clone());
    assert_eq!(again.settings().builder, "ci");
    again.remove_builder("ci").unwrap();
    assert_eq!(again.settings(), AppSettings::default());
}

#[test]
fn references_differ() {
    let (_directory, controller) = controller();
    let (a, b) = (controller.new_reference(), controller.new_reference());
    assert_eq!(a.len(), 25);
    assert_ne!(a, b);
}

#[test]
fn the_windows_form_leaves_the_builders_alone() {
    let (_directory, controller) = controller();
    let form = controller.settings();
    controller.add_builder(builder("ci", "tcp://h:1")).unwrap();
    controller
        .save_settings(AppSettings {
            theme: "dark".into(),
            ..form
        })
        .unwrap();
    assert_eq!(controller.settings().theme, "dark");
    assert_eq!(controller.settings().builders.len(), 1);
}

#[tokio::test]
async fn an_edit_of_the_file_is_taken_up_and_a_broken_one_is_not() {
    let (directory, controller) = controller();
    let file = directory.path().join("c/desktop.json");
    std::fs::create_dir(directory.path().join("c")).unwrap();
    let mut settings = controller.watch_settings();
    let edit = async {
        // Written again and again, since nobody says when the watch has begun.
        loop {
            std::fs::write(&file, "{").unwrap();
            std::fs::write(file.with_extension("x"), r#"{"theme":"dark"}"#).unwrap();
            std::fs::rename(file.with_extension("x"), &file).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        changed = settings.changed() => changed.unwrap(),
        () = controller.reload_always() => unreachable!("it lasts"),
        () = edit => unreachable!(),
    }
    assert_eq!(controller.settings().theme, "dark");
}
