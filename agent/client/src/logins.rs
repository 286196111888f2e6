//! Where registries' credentials come from.
//!
//! | | place | kept there by |
//! |---|---|---|
//! | 1 | what the docker command's configuration names: helpers, then its own entries | `docker login`, `kiln login` and the app where a helper is named |
//! | 2 | the system's keyring | `kiln login`, the app |
//!
//! Invariant: a build is never held up by a keyring: nothing prompts here, and one that doesn't serve is told and
//! passed over.

use async_trait::async_trait;
use kiln_keyring::{Keyring, KeyringError};
use tokio::sync::OnceCell;

use crate::{Credential, CredentialSource, DockerConfig, Error};

/// Docker Hub, by each of its names.
const HUB_HOSTS: [&str; 3] = ["registry-1.docker.io", "index.docker.io", "docker.io"];
/// The name under which logins of Docker Hub are kept.
pub const HUB: &str = "docker.io";

/// The one name under which a registry's login is kept.
pub fn registry_of(host: &str) -> &str {
    if HUB_HOSTS.contains(&host) { HUB } else { host }
}

/// All places, by precedence.
#[derive(Debug)]
pub struct Logins {
    docker: DockerConfig,
    keyring: OnceCell<Option<Keyring>>,
    passed_over: fn(&KeyringError),
}

impl Logins {
    /// Reads the configuration; asks no helper and no keyring yet. `passed_over` is told of a keyring that is there
    /// and doesn't serve.
    pub fn load(passed_over: fn(&KeyringError)) -> Result<Self, Error> {
        let docker = match DockerConfig::default_dir() {
            Some(directory) => DockerConfig::load(&directory)?,
            None => DockerConfig::default(),
        };
        Ok(Self {
            docker,
            keyring: OnceCell::new(),
            passed_over,
        })
    }

    /// The keyring, connected when it is first needed.
    async fn keyring(&self) -> Option<&Keyring> {
        let open = async {
            match Keyring::open().await {
                Ok(keyring) => Some(keyring),
                Err(KeyringError::Absent { reason }) => {
                    tracing::debug!(%reason, "no keyring");
                    None
                }
                Err(error) => {
                    (self.passed_over)(&error);
                    None
                }
            }
        };
        self.keyring.get_or_init(|| open).await.as_ref()
    }
}

#[async_trait]
impl CredentialSource for Logins {
    async fn credentials(&self, host: &str) -> Result<Option<Credential>, Error> {
        if let Some(found) = self.docker.credentials(host).await? {
            return Ok(Some(found));
        }
        let Some(keyring) = self.keyring().await else {
            return Ok(None);
        };
        match keyring.get(registry_of(host)).await {
            Ok(found) => Ok(found.map(|login| Credential {
                username: login.username,
                secret: login.secret,
            })),
            Err(error) => {
                (self.passed_over)(&error);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn docker_hub_has_one_name() {
        for (host, name) in [
            ("registry-1.docker.io", "docker.io"),
            ("docker.io", "docker.io"),
            ("registry.example.com:5000", "registry.example.com:5000"),
        ] {
            assert_eq!(super::registry_of(host), name);
        }
    }
}
