//! The settings file while the owner runs.
//!
//! Invariants: the file is read anew at each use, so that a change by hand counts; what is written was checked
//! as a whole and replaces the file in one step; a file that can't be used is never overwritten without a copy.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use kiln_config::paths::variable;
use kiln_config::{ConfigError, DriverChoice, HostSettings, SettingsError};
use tokio::sync::watch;

/// The file, and the settings as they were last read from it.
#[derive(Debug)]
pub(crate) struct SettingsStore {
    path: PathBuf,
    driver: Option<DriverChoice>,
    current: watch::Sender<HostSettings>,
}

/// Why settings weren't written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    /// They can't be.
    #[error(transparent)]
    Setting(#[from] SettingsError),
    /// They have no form as text.
    #[error("the settings have no form as TOML")]
    Form(#[from] toml::ser::Error),
    /// The file system said no.
    #[error("can't write {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl SettingsStore {
    /// Reads them for the first time. A file that can't be used is told to whoever asks for a machine.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let driver = match std::env::var(variable::DRIVER) {
            Ok(name) if name == "native" => Some(DriverChoice::Native),
            Ok(name) if name == "qemu" => Some(DriverChoice::Qemu),
            Ok(name) if !name.is_empty() => {
                anyhow::bail!("{}={name:?}: want qemu or native", variable::DRIVER)
            }
            _ => None,
        };
        let (current, _) = watch::channel(HostSettings::default());
        let store = Self {
            path: path.to_owned(),
            driver,
            current,
        };
        if let Err(error) = store.read() {
            tracing::warn!(%error, "the settings can't be used");
        }
        Ok(store)
    }

    /// What the file says now; the environment's driver goes first.
    pub(crate) fn read(&self) -> Result<HostSettings, ConfigError> {
        let mut settings = HostSettings::load(&self.path)?;
        if let Some(driver) = self.driver {
            settings.driver = driver;
        }
        self.current.send_if_modified(|current| {
            let differs = *current != settings;
            current.clone_from(&settings);
            differs
        });
        Ok(settings)
    }

    /// Tells of changes.
    pub(crate) fn watch(&self) -> watch::Receiver<HostSettings> {
        self.current.subscribe()
    }

    /// Writes them. Gives the names of those that wait for the next start.
    pub(crate) fn save(&self, settings: &HostSettings) -> Result<Vec<&'static str>, SaveError> {
        settings.check()?;
        let text = format!(
            "# Kiln's settings; kiln-vmd --help and the app write and explain them.\n{}",
            settings.to_toml()?
        );
        let failed = |source| SaveError::Io {
            path: self.path.clone(),
            source,
        };
        if HostSettings::load(&self.path).is_err() {
            fs::copy(&self.path, self.path.with_extension("toml.unusable")).map_err(failed)?;
        }
        let fresh = self.path.with_extension("toml.new");
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&fresh, &self.path).map_err(failed)?;
        let mut effective = settings.clone();
        if let Some(driver) = self.driver {
            effective.driver = driver;
        }
        let waiting = self.current.borrow().needing_restart(&effective);
        self.current.send_replace(effective);
        Ok(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_config::IdleStop;

    #[test]
    fn what_was_saved_counts_and_what_was_there_is_not_lost() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("settings.toml");
        fs::write(&path, "cpus = \"many\"").unwrap();
        let store = SettingsStore::open(&path).unwrap();
        let error = store.read().unwrap_err().to_string();
        assert!(
            error.contains("settings.toml") && error.contains("line 1"),
            "{error}"
        );
        let mut settings = HostSettings {
            cpus: Some(2),
            idle_stop: Some(IdleStop::Never),
            ..HostSettings::default()
        };
        assert_eq!(store.save(&settings).unwrap(), ["cpus"]);
        assert_eq!(store.read().unwrap(), settings);
        let kept = fs::read_to_string(path.with_extension("toml.unusable")).unwrap();
        assert_eq!(kept, "cpus = \"many\"");
        settings.cpus = Some(0);
        store.save(&settings).unwrap_err();
        assert_eq!(store.read().unwrap().cpus, Some(2));
    }
}
