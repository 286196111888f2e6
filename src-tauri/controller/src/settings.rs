//! The app's own settings: `desktop.json` in the directory of settings.
//!
//! Its schema is [`SCHEMA`]; a file that names it in `$schema` is checked by editors. Somebody's edit is taken up while
//! the app runs.
//!
//! Invariant: a file that can't be read never overwrites what is known: at the start that is the default, later what
//! was read last.

use std::path::Path;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::Failure;
use crate::view::{BuilderAddress, QuickBuild};

/// The JSON schema of the file.
pub const SCHEMA: &str = include_str!("../desktop.schema.json");

/// What the settings file holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AppSettings {
    /// Where the schema is, for editors.
    #[serde(rename = "$schema", skip_serializing_if = "String::is_empty")]
    pub schema: String,
    /// `system`, `light` or `dark`.
    pub theme: String,
    /// Whether the app starts, in the tray, when the user logs in.
    pub start_at_login: bool,
    /// Whether closing the window leaves the tray.
    pub close_to_tray: bool,
    /// `never`, `failed` or `all`.
    pub notify_finished: String,
    /// Checks of the doctor that don't count.
    pub muted_checks: Vec<String>,
    /// Folders that were built, newest first.
    pub recent_folders: Vec<String>,
    /// Builds that the tray offers.
    pub quick_builds: Vec<QuickBuild>,
    /// Builders beside the machine.
    pub builders: Vec<BuilderAddress>,
    /// Name of the one in use; empty: the machine.
    pub builder: String,
}

/// Why a file of settings isn't used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// It can't be read.
    #[error("settings in {}", .file.display())]
    Read {
        file: std::path::PathBuf,
        source: std::io::Error,
    },
    /// It isn't JSON, or a value has another type.
    #[error("settings in {}: {source}", .file.display())]
    Json {
        file: std::path::PathBuf,
        source: serde_json::Error,
    },
    /// A word that means nothing.
    #[error("settings in {}: {key} is {value:?}, not one of {known}", .file.display())]
    Value {
        file: std::path::PathBuf,
        key: &'static str,
        value: String,
        known: String,
    },
}

/// Tells when somebody wrote, replaced or removed the file, as long as the watcher lives.
pub(crate) fn changes(file: &Path) -> notify::Result<(RecommendedWatcher, mpsc::Receiver<()>)> {
    let (changed, changes) = mpsc::channel(1);
    let name = file.file_name().map(ToOwned::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        // Reading is an event too, and it is what this leads to.
        let wrote = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) => false,
            _ => true,
        };
        if wrote
            && event
                .paths
                .iter()
                .any(|path| path.file_name() == name.as_deref())
        {
            // A full channel means that a change is already announced.
            let _ = changed.try_send(());
        }
    })?;
    let directory = file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory)?;
    // The directory, since editors and this app replace the file.
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok((watcher, changes))
}

impl Default for AppSettings {
    fn default() -> Self {
        Self {
            schema: String::new(),
            theme: "system".into(),
            start_at_login: false,
            close_to_tray: true,
            notify_finished: "failed".into(),
            muted_checks: Vec::new(),
            recent_folders: Vec::new(),
            quick_builds: Vec::new(),
            builders: Vec::new(),
            builder: String::new(),
        }
    }
}

impl AppSettings {
    pub(crate) fn load(file: &Path) -> Self {
        Self::read(file).unwrap_or_else(|error| {
            tracing::warn!(%error, "the default settings are used");
            Self::default()
        })
    }

    /// A file that isn't there holds the defaults.
    pub(crate) fn read(file: &Path) -> Result<Self, SettingsError> {
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => {
                return Err(SettingsError::Read {
                    file: file.into(),
                    source,
                });
            }
        };
        let read: Self = serde_json::from_slice(&text).map_err(|source| SettingsError::Json {
            file: file.into(),
            source,
        })?;
        for (key, value, known) in [
            ("theme", &read.theme, &["system", "light", "dark"]),
            (
                "notifyFinished",
                &read.notify_finished,
                &["never", "failed", "all"],
            ),
        ] {
            if !known.contains(&value.as_str()) {
                return Err(SettingsError::Value {
                    file: file.into(),
                    key,
                    value: value.clone(),
                    known: known.join(", "),
                });
            }
        }
        Ok(read)
    }

    /// Written beside and renamed, so that a crash leaves the old or the new.
    pub(crate) fn save(&self, file: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| Failure::internal(&error))?;
        let write = || {
            if let Some(directory) = file.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let new = file.with_extension("new");
            std::fs::write(&new, &text)?;
            std::fs::rename(&new, file)
        };
        write().map_err(|error| {
            Failure::user(
                format!("The settings can’t be written: {error}."),
                file.display().to_string(),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_and_new_ones_have_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a/desktop.json");
        assert_eq!(AppSettings::load(&file), AppSettings::default());
        let settings = AppSettings {
            theme: "dark".into(),
            muted_checks: vec!["kvm".into()],
            ..AppSettings::default()
        };
        settings.save(&file).unwrap();
        assert_eq!(AppSettings::load(&file), settings);
        std::fs::write(&file, r#"{"theme":"light"}"#).unwrap();
        assert_eq!(AppSettings::load(&file).notify_finished, "failed");
        std::fs::write(&file, "{").unwrap();
        assert_eq!(AppSettings::load(&file), AppSettings::default());
    }

    #[test]
    fn a_wrong_file_says_what_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("desktop.json");
        for (text, says) in [
            ("{", "EOF"),
            (
                r#"{"theme":"pink"}"#,
                r#"theme is "pink", not one of system"#,
            ),
            (r#"{"closeToTray":1}"#, "invalid type"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = AppSettings::read(&file).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_schema_describes_every_setting_and_its_default() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let settings = AppSettings {
            schema: "x".into(),
            ..AppSettings::default()
        };
        let ours = serde_json::to_value(settings).unwrap();
        let described = schema["properties"].as_object().unwrap();
        let names = |map: &serde_json::Map<String, serde_json::Value>| {
            let mut names: Vec<String> = map.keys().cloned().collect();
            names.sort();
            names
        };
        assert_eq!(names(ours.as_object().unwrap()), names(described));
        for (name, property) in described {
            if let Some(default) = property.get("default") {
                assert_eq!(&ours[name], default, "{name}");
            }
        }
    }
}
