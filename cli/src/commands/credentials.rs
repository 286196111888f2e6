//! Where registries' credentials come from.
//!
//! | | place | kept there by |
//! |---|---|---|
//! | 1 | what the docker command's configuration names: helpers, then its own entries | `docker login`, `kiln login` where a helper is named |
//! | 2 | the system's keyring | `kiln login` |
//!
//! Invariant: a build is never held up by a keyring: nothing prompts here, and one that doesn't serve is told once
//! and passed over.

use async_trait::async_trait;
use kiln_client::{Credential, CredentialSource, DockerConfig, Error};
use kiln_keyring::{Keyring, KeyringError};
use tokio::sync::OnceCell;

use crate::console;
use crate::failure::{Outcome, chain};

/// Docker Hub, by each of its names.
const HUB_HOSTS: [&str; 3] = ["registry-1.docker.io", "index.docker.io", "docker.io"];
pub(crate) const HUB: &str = "docker.io";

/// All places, by precedence.
pub(crate) struct Sources {
    docker: DockerConfig,
    keyring: OnceCell<Option<Keyring>>,
}

impl Sources {
    /// Reads the configuration; asks no helper and no keyring yet.
    pub(crate) fn load() -> Outcome<Self> {
        let docker = match DockerConfig::default_dir() {
            Some(directory) => DockerConfig::load(&directory)?,
            None => DockerConfig::default(),
        };
        Ok(Self {
            docker,
            keyring: OnceCell::new(),
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
                    pass_over(&error);
                    None
                }
            }
        };
        self.keyring.get_or_init(|| open).await.as_ref()
    }
}

fn pass_over(error: &KeyringError) {
    console::note(&format!(
        "The keyring's logins aren't used: {}",
        chain(error)
    ));
}

/// The one name under which a registry's login is kept.
pub(crate) fn registry(host: &str) -> &str {
    if HUB_HOSTS.contains(&host) { HUB } else { host }
}

#[async_trait]
impl CredentialSource for Sources {
    async fn credentials(&self, host: &str) -> Result<Option<Credential>, Error> {
        if let Some(found) = self.docker.credentials(host).await? {
            return Ok(Some(found));
        }
        let Some(keyring) = self.keyring().await else {
            return Ok(None);
        };
        match keyring.get(registry(host)).await {
            Ok(found) => Ok(found.map(|login| Credential {
                username: login.username,
                secret: login.secret,
            })),
            Err(error) => {
                pass_over(&error);
                Ok(None)
            }
        }
    }
}
