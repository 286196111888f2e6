//! The tray's icon and menu: a pure function of the state.

use crate::view::{BuildSummary, MachineStatus, QuickBuild};

/// What the tray looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tray {
    /// `off`, `starting`, `idle`, `building` or `attention`.
    pub icon: &'static str,
    /// For those who hover.
    pub tooltip: String,
    /// From top to bottom.
    pub items: Vec<Item>,
}

/// A line of the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Words only.
    Label(String),
    /// Something to click: its id says what to do.
    Action {
        /// Such as `cancel:REF`.
        id: String,
        /// The words.
        text: String,
    },
    /// A line.
    Separator,
}

fn action(id: impl Into<String>, text: impl Into<String>) -> Item {
    Item::Action {
        id: id.into(),
        text: text.into(),
    }
}

/// The tray for a state. `builds` are newest first.
pub fn tray(machine: &MachineStatus, builds: &[BuildSummary], quick: &[QuickBuild]) -> Tray {
    let running: Vec<&BuildSummary> = builds.iter().filter(|b| b.status == "running").collect();
    let last: Vec<&BuildSummary> = builds
        .iter()
        .filter(|b| b.status != "running")
        .take(3)
        .collect();
    let words = match (machine.state.as_str(), running.len()) {
        ("running", 0) => "Kiln is running".to_owned(),
        ("running", 1) => "Kiln is building".to_owned(),
        ("running", n) => format!("Kiln runs {n} builds"),
        ("starting", _) => "The machine is starting".to_owned(),
        ("stopping", _) => "The machine is stopping".to_owned(),
        ("failed", _) => format!("The machine failed: {}", first_line(&machine.reason)),
        ("unreachable", _) => format!("Kiln isn’t reachable: {}", first_line(&machine.reason)),
        _ => "The machine is stopped".to_owned(),
    };
    let icon = match machine.state.as_str() {
        "running" if running.is_empty() => "idle",
        "running" => "building",
        "starting" | "stopping" => "starting",
        "failed" | "unreachable" => "attention",
        _ => "off",
    };
    let mut items = vec![Item::Label(words.clone()), Item::Separator];
    for build in &running {
        items.push(action(
            format!("open:build/{}", build.r#ref),
            format!("{} – {} %", name(build), percent(build)),
        ));
        items.push(action(
            format!("cancel:{}", build.r#ref),
            format!("Cancel {}", name(build)),
        ));
    }
    for build in &last {
        let end = match build.status.as_str() {
            "done" => "done",
            "cancelled" => "cancelled",
            _ => "failed",
        };
        items.push(action(
            format!("open:build/{}", build.r#ref),
            format!("{} – {end}", name(build)),
        ));
    }
    if !running.is_empty() || !last.is_empty() {
        items.push(Item::Separator);
    }
    for build in quick {
        let id = format!("quick:{}", build.name);
        items.push(action(id, format!("Build {}", build.name)));
    }
    items.push(action("open:new", "New build…"));
    items.push(action("open:cache?plan=1", "Free up space…"));
    items.push(match machine.state.as_str() {
        "running" | "starting" => action("stop", "Stop the machine"),
        "stopping" => Item::Label("Stopping…".into()),
        _ => action("start", "Start the machine"),
    });
    items.push(Item::Separator);
    items.push(action("open:", "Open Kiln"));
    items.push(action("quit", "Quit; builds go on"));
    Tray {
        icon,
        tooltip: words,
        items,
    }
}

fn name(build: &BuildSummary) -> &str {
    if build.name.is_empty() {
        &build.r#ref
    } else {
        &build.name
    }
}

fn percent(build: &BuildSummary) -> i32 {
    100 * build.completed_steps.min(build.total_steps) / build.total_steps.max(1)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(name: &str, status: &str, completed: i32, total: i32) -> BuildSummary {
        BuildSummary {
            r#ref: format!("ref-{name}"),
            name: name.into(),
            status: status.into(),
            completed_steps: completed,
            total_steps: total,
            ..BuildSummary::default()
        }
    }

    fn drawn(state: &str, builds: &[BuildSummary]) -> (&'static str, Vec<String>) {
        let machine = MachineStatus {
            state: state.into(),
            reason: "no space\nmore".into(),
            ..MachineStatus::default()
        };
        let quick = QuickBuild {
            name: "shop".into(),
            ..QuickBuild::default()
        };
        let tray = tray(&machine, builds, &[quick]);
        let lines = tray
            .items
            .into_iter()
            .map(|item| match item {
                Item::Label(text) => text,
                Item::Action { id, text } => format!("{text} [{id}]"),
                Item::Separator => "--".into(),
            })
            .collect();
        (tray.icon, lines)
    }

    #[test]
    fn the_icon_follows_the_state() {
        for (state, icon, first) in [
            ("stopped", "off", "The machine is stopped"),
            ("starting", "starting", "The machine is starting"),
            ("running", "idle", "Kiln is running"),
            ("failed", "attention", "The machine failed: no space"),
            ("unreachable", "attention", "Kiln isn’t reachable: no space"),
        ] {
            let (drawn_icon, lines) = drawn(state, &[]);
            assert_eq!((drawn_icon, lines[0].as_str()), (icon, first));
        }
    }

    #[test]
    fn builds_at_work_can_be_cancelled_and_the_last_three_opened() {
        let builds = [
            build("web", "running", 3, 12),
            build("a", "done", 1, 1),
            build("b", "failed", 1, 2),
            build("c", "cancelled", 1, 2),
            build("d", "done", 1, 1),
        ];
        let (icon, lines) = drawn("running", &builds);
        assert_eq!(icon, "building");
        assert_eq!(
            lines,
            [
                "Kiln is building",
                "--",
                "web – 25 % [open:build/ref-web]",
                "Cancel web [cancel:ref-web]",
                "a – done [open:build/ref-a]",
                "b – failed [open:build/ref-b]",
                "c – cancelled [open:build/ref-c]",
                "--",
                "Build shop [quick:shop]",
                "New build… [open:new]",
                "Free up space… [open:cache?plan=1]",
                "Stop the machine [stop]",
                "--",
                "Open Kiln [open:]",
                "Quit; builds go on [quit]",
            ]
        );
    }
}
