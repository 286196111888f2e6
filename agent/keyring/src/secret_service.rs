//! The Secret Service on the session's bus.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secret_service::{Collection, EncryptionType, Error, Item, SecretService};
use tokio::time::timeout;

use crate::{KeyringError, Login, PATIENCE, PROMPT_PATIENCE};

const SCHEMA: &str = "xdg:schema";
const LOGIN_SCHEMA: &str = "org.kiln.RegistryLogin";
const SECRET_SCHEMA: &str = "org.kiln.BuildSecret";
const REGISTRY: &str = "registry";
const NAME: &str = "name";
const USERNAME: &str = "username";

/// A session with the service.
pub struct Keyring {
    service: SecretService<'static>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

impl From<Error> for KeyringError {
    fn from(error: Error) -> Self {
        match error {
            Error::Locked => Self::Locked,
            // A prompt that can't be shown ends with nothing.
            Error::Prompt | Error::PromptDisconnected | Error::NoResult => Self::Dismissed,
            Error::Unavailable => Self::Absent {
                reason: "no Secret Service answers on the session's bus".to_owned(),
            },
            error => Self::Service(error),
        }
    }
}

/// Ends in time.
async fn within<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, KeyringError>>,
) -> Result<T, KeyringError> {
    timeout(patience, work)
        .await
        .unwrap_or(Err(KeyringError::Silent))
}

impl Keyring {
    /// Connects to the service of this session; the bus may start it.
    pub async fn open() -> Result<Self, KeyringError> {
        has_bus(
            std::env::var("DBUS_SESSION_BUS_ADDRESS").ok().as_deref(),
            &runtime_directory(),
        )?;
        within(PATIENCE, async {
            let connected = SecretService::connect(EncryptionType::Dh).await;
            match connected {
                Ok(service) => Ok(Self { service }),
                // Whatever fails before a session exists means that there is no keyring to use.
                Err(error) => Err(KeyringError::Absent {
                    reason: error.to_string(),
                }),
            }
        })
        .await
    }

    /// Registries that a login is kept for, in order; also those behind the lock.
    pub async fn registries(&self) -> Result<Vec<String>, KeyringError> {
        self.names(LOGIN_SCHEMA, REGISTRY).await
    }

    /// What is kept for a registry. Never prompts.
    pub async fn get(&self, registry: &str) -> Result<Option<Login>, KeyringError> {
        within(PATIENCE, async {
            let found = self.service.search_items(attributes(registry)).await?;
            let Some(item) = found.unlocked.first() else {
                return match found.locked.is_empty() {
                    true => Ok(None),
                    false => Err(KeyringError::Locked),
                };
            };
            login(registry, item).await.map(Some)
        })
        .await
    }

    /// Keeps a login, in place of another one for that registry.
    pub async fn put(&self, registry: &str, login: &Login) -> Result<(), KeyringError> {
        within(PROMPT_PATIENCE, async {
            let collection = self.collection().await?;
            if collection.is_locked().await? {
                collection.unlock().await?;
            }
            let before = self.service.search_items(attributes(registry)).await?;
            let mut all = attributes(registry);
            all.insert(USERNAME, &login.username);
            let label = format!("Kiln: registry {registry}");
            let secret = login.secret.as_bytes();
            collection
                .create_item(&label, all, secret, true, "text/plain")
                .await?;
            // That replaced the item of this account; one of another account has other attributes.
            for item in before.unlocked.iter().chain(&before.locked) {
                let attributes = item.get_attributes().await?;
                if attributes.get(USERNAME) != Some(&login.username) {
                    item.delete().await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Forgets what is kept for a registry; whether there was anything.
    pub async fn remove(&self, registry: &str) -> Result<bool, KeyringError> {
        self.forget(attributes(registry)).await
    }

    /// The value of a secret that is kept for builds. Never prompts.
    pub async fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, KeyringError> {
        within(PATIENCE, async {
            let found = self.service.search_items(secret_attributes(name)).await?;
            match found.unlocked.first() {
                Some(item) => Ok(Some(item.get_secret().await?)),
                None if found.locked.is_empty() => Ok(None),
                None => Err(KeyringError::Locked),
            }
        })
        .await
    }

    /// Names of the secrets that are kept for builds, in order; also of those behind the lock.
    pub async fn secrets(&self) -> Result<Vec<String>, KeyringError> {
        self.names(SECRET_SCHEMA, NAME).await
    }

    async fn names(&self, schema: &str, attribute: &str) -> Result<Vec<String>, KeyringError> {
        within(PATIENCE, async {
            let all = HashMap::from([(SCHEMA, schema)]);
            let found = self.service.search_items(all).await?;
            let mut names = Vec::new();
            for item in found.unlocked.iter().chain(&found.locked) {
                names.extend(item.get_attributes().await?.remove(attribute));
            }
            names.sort();
            Ok(names)
        })
        .await
    }

    /// Keeps a secret for builds, in place of another one of that name.
    pub async fn put_secret(&self, name: &str, value: &[u8]) -> Result<(), KeyringError> {
        within(PROMPT_PATIENCE, async {
            let collection = self.collection().await?;
            if collection.is_locked().await? {
                collection.unlock().await?;
            }
            let label = format!("Kiln: build secret {name}");
            let attributes = secret_attributes(name);
            collection
                .create_item(&label, attributes, value, true, "application/octet-stream")
                .await?;
            Ok(())
        })
        .await
    }

    /// Forgets a secret that was kept for builds; whether there was one.
    pub async fn remove_secret(&self, name: &str) -> Result<bool, KeyringError> {
        self.forget(secret_attributes(name)).await
    }

    async fn forget(&self, attributes: HashMap<&str, &str>) -> Result<bool, KeyringError> {
        within(PROMPT_PATIENCE, async {
            let found = self.service.search_items(attributes).await?;
            let mut any = false;
            for item in found.unlocked.iter().chain(&found.locked) {
                item.delete().await?;
                any = true;
            }
            Ok(any)
        })
        .await
    }

    /// Where new items go. A session that never had a keyring gets one, if a person gives it a password.
    async fn collection(&self) -> Result<Collection<'_>, KeyringError> {
        match self.service.get_default_collection().await {
            Err(Error::NoResult) => {
                let made = self.service.create_collection("Login", "default").await;
                Ok(made?)
            }
            outcome => Ok(outcome?),
        }
    }
}

fn attributes(registry: &str) -> HashMap<&str, &str> {
    HashMap::from([(SCHEMA, LOGIN_SCHEMA), (REGISTRY, registry)])
}

fn secret_attributes(name: &str) -> HashMap<&str, &str> {
    HashMap::from([(SCHEMA, SECRET_SCHEMA), (NAME, name)])
}

async fn login(registry: &str, item: &Item<'_>) -> Result<Login, KeyringError> {
    let mut attributes = item.get_attributes().await?;
    let secret = item.get_secret().await?;
    Ok(Login {
        username: attributes.remove(USERNAME).unwrap_or_default(),
        secret: String::from_utf8(secret).map_err(|_| KeyringError::NotText {
            registry: registry.to_owned(),
        })?,
    })
}

fn runtime_directory() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR").map_or_else(
        || PathBuf::from(format!("/run/user/{}", rustix::process::getuid().as_raw())),
        PathBuf::from,
    )
}

/// Whether there is a bus to ask: an address, or the usual socket.
fn has_bus(address: Option<&str>, runtime: &Path) -> Result<(), KeyringError> {
    let is_given = address.is_some_and(|address| !address.is_empty());
    if is_given || runtime.join("bus").exists() {
        return Ok(());
    }
    Err(KeyringError::Absent {
        reason: "it has no D-Bus (DBUS_SESSION_BUS_ADDRESS isn't set)".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_named_or_in_its_place() {
        let runtime = tempfile::tempdir().unwrap();
        let absent = has_bus(None, runtime.path()).unwrap_err();
        assert!(absent.to_string().contains("no D-Bus"), "{absent}");
        assert!(has_bus(Some(""), runtime.path()).is_err());
        assert!(has_bus(Some("unix:path=/x"), runtime.path()).is_ok());
        std::fs::write(runtime.path().join("bus"), "").unwrap();
        assert!(has_bus(None, runtime.path()).is_ok());
    }

    #[test]
    fn a_login_is_shown_without_its_secret() {
        let login = Login {
            username: "me".into(),
            secret: "hunter2".into(),
        };
        let text = format!("{login:?}");
        assert!(text.contains("me") && !text.contains("hunter2"), "{text}");
    }
}
