//! Which builds' ends are worth telling people who don't look at the window.

use std::collections::BTreeSet;

use crate::AppSettings;
use crate::view::{BuildSummary, BuildsChange};

/// A notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The build that it leads to.
    pub reference: String,
    /// One line.
    pub title: String,
    /// What more there is to say; may be empty.
    pub body: String,
}

/// Follows the list: only the end of a build that was seen running is news.
#[derive(Debug, Default)]
pub struct Notices {
    running: BTreeSet<String>,
}

impl Notices {
    /// What a change is worth with these settings.
    pub fn take(&mut self, change: &BuildsChange, settings: &AppSettings) -> Vec<Notice> {
        if change.reset {
            self.running.clear();
        }
        let mut notices = Vec::new();
        for build in &change.changed {
            if build.status == "running" {
                self.running.insert(build.r#ref.clone());
            } else if self.running.remove(&build.r#ref) {
                let wanted = match settings.notify_finished.as_str() {
                    "all" => true,
                    "failed" => build.status == "failed",
                    _ => false,
                };
                notices.extend(wanted.then(|| notice(build)));
            }
        }
        for reference in &change.removed {
            self.running.remove(reference);
        }
        notices
    }
}

fn notice(build: &BuildSummary) -> Notice {
    let name = if build.name.is_empty() {
        "A build"
    } else {
        &build.name
    };
    let (title, body) = match build.status.as_str() {
        "done" => (format!("{name} is built"), build.tags.join(", ")),
        "cancelled" => (format!("{name} was cancelled"), String::new()),
        _ => {
            let first = build.error.lines().next().unwrap_or_default();
            (format!("{name} failed"), first.to_owned())
        }
    };
    Notice {
        reference: build.r#ref.clone(),
        title,
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(reference: &str, status: &str) -> BuildsChange {
        BuildsChange {
            changed: vec![BuildSummary {
                r#ref: reference.into(),
                name: "shop".into(),
                status: status.into(),
                error: "exit code: 3\nmore".into(),
                ..BuildSummary::default()
            }],
            ..BuildsChange::default()
        }
    }

    #[test]
    fn only_the_end_of_what_ran_is_told_and_only_if_wanted() {
        for (setting, status, title) in [
            ("failed", "failed", Some("shop failed")),
            ("failed", "done", None),
            ("all", "done", Some("shop is built")),
            ("all", "cancelled", Some("shop was cancelled")),
            ("never", "failed", None),
        ] {
            let settings = AppSettings {
                notify_finished: setting.into(),
                ..AppSettings::default()
            };
            let mut notices = Notices::default();
            // History that was there already.
            assert_eq!(notices.take(&change("old", status), &settings), []);
            assert_eq!(notices.take(&change("a", "running"), &settings), []);
            let told = notices.take(&change("a", status), &settings);
            assert_eq!(told.first().map(|notice| notice.title.as_str()), title);
            assert_eq!(notices.take(&change("a", status), &settings), []);
        }
    }
}
