//! Kiln as a builder of `docker buildx`: a JSON file in buildx's directory.
//!
//! ```text
//! $BUILDX_CONFIG, else $DOCKER_CONFIG/buildx, else ~/.docker/buildx
//!   instances/kiln    the builder, driver `remote`
//!   current           which builder buildx takes
//! ```
//! Invariant: the builder that is current stays current, unless it is asked for.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{Address, DockerConfig, Error};

/// How Kiln's builder is called there.
pub const NAME: &str = "kiln";

/// buildx's directory.
#[derive(Debug, Clone)]
pub struct Buildx {
    directory: PathBuf,
}

impl Buildx {
    /// The user's; none without a home directory.
    pub fn of_user() -> Option<Self> {
        let named = std::env::var_os("BUILDX_CONFIG").filter(|value| !value.is_empty());
        let directory = match named {
            Some(directory) => directory.into(),
            None => DockerConfig::default_dir()?.join("buildx"),
        };
        Some(Self { directory })
    }

    /// One elsewhere.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("instances").join(NAME)
    }

    /// Where buildx would reach Kiln; none where it doesn't know it.
    pub fn endpoint(&self) -> Option<String> {
        let instance: Value = serde_json::from_slice(&std::fs::read(self.file()).ok()?).ok()?;
        Some(instance["Nodes"][0]["Endpoint"].as_str()?.to_owned())
    }

    /// Whether it takes Kiln unless another builder is named.
    pub fn is_current(&self) -> bool {
        let current = std::fs::read(self.directory.join("current")).ok();
        let current = current.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        current.is_some_and(|current| current["Name"] == NAME)
    }

    /// Adds the builder, or corrects its address.
    pub fn install(&self, endpoint: &Address) -> Result<(), Error> {
        let instance = json!({
            "Name": NAME,
            "Driver": "remote",
            "Nodes": [{
                "Name": format!("{NAME}0"),
                "Endpoint": endpoint.to_string(),
                "Platforms": Value::Null,
                "DriverOpts": {},
                "Flags": Value::Null,
                "Files": Value::Null,
            }],
            "Dynamic": false,
        });
        write(&self.file(), &instance)
    }

    /// Makes it the current one: buildx keeps that for each of Docker's endpoints.
    pub fn make_current(&self) -> Result<(), Error> {
        let file = self.directory.join("current");
        let mut current: Value = std::fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_else(|| json!({"Key": "unix:///var/run/docker.sock", "Global": false}));
        current["Name"] = NAME.into();
        current["Global"] = true.into();
        write(&file, &current)
    }

    /// Removes it. Without a current builder buildx takes Docker's own.
    pub fn uninstall(&self) -> Result<(), Error> {
        if self.is_current() {
            remove(&self.directory.join("current"))?;
        }
        remove(&self.file())
    }
}

fn write(file: &Path, value: &Value) -> Result<(), Error> {
    let directory = file.parent().unwrap_or(file);
    std::fs::create_dir_all(directory).map_err(|source| Error::io("create", directory, source))?;
    std::fs::write(file, value.to_string()).map_err(|source| Error::io("write", file, source))
}

fn remove(file: &Path) -> Result<(), Error> {
    match std::fs::remove_file(file) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", file, source))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_builder_stays() {
        let base = tempfile::tempdir().unwrap();
        let current = base.path().join("current");
        std::fs::write(&current, r#"{"Key":"k","Name":"mine","Global":false}"#).unwrap();
        let buildx = Buildx::at(base.path());
        assert_eq!(buildx.endpoint(), None);
        buildx.install(&"unix:///x.sock".parse().unwrap()).unwrap();
        assert!(!buildx.is_current());
        assert_eq!(buildx.endpoint().as_deref(), Some("unix:///x.sock"));
        buildx.make_current().unwrap();
        assert!(buildx.is_current());
        buildx.uninstall().unwrap();
        buildx.uninstall().unwrap();
        assert_eq!((buildx.endpoint(), current.exists()), (None, false));
    }
}
