//! Registries: logins, and a test that goes layer by layer.
//!
//! A login is kept by the credential helper that the docker command's configuration names for the registry, where docker
//! and buildx find it too; without one, in the system's keyring, where Kiln finds it.
//!
//! Invariant: a password is tested, handed over to be kept, and dropped; it is in no answer, no log and no file.

use kiln_client::login::{self, Probed, Reach};
use kiln_client::{Credential, CredentialSource as _, DockerConfig, Logins, registry_of};
use kiln_keyring::{Keyring, KeyringError, Login};

use crate::view::{Registry, TestStep};
use crate::{Controller, Failure, keys};

const HUB: &str = kiln_client::HUB;

/// A registry's host, as Docker's configuration names it, from what people type.
pub(crate) fn host_of(text: &str) -> String {
    let text = text.trim();
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    match text.split('/').next().unwrap_or_default() {
        "" | "hub.docker.com" => HUB.to_owned(),
        host => registry_of(host).to_owned(),
    }
}

fn config() -> Result<DockerConfig, Failure> {
    let directory = DockerConfig::default_dir().ok_or_else(|| {
        Failure::user("There is no home directory.", "Set HOME or DOCKER_CONFIG.")
    })?;
    Ok(DockerConfig::load(&directory)?)
}

impl Controller {
    /// Registries that there are logins for, in Docker's configuration or in the keyring, or that the machine is told of.
    pub async fn registries(&self) -> Result<Vec<Registry>, Failure> {
        let directory = DockerConfig::default_dir();
        let text =
            directory.and_then(|directory| std::fs::read(directory.join("config.json")).ok());
        let json = text
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let mut all = logins(&json);
        match Keyring::open().await {
            Ok(keyring) => {
                for host in keyring.registries().await? {
                    // The configuration's login goes first, wherever one is looked for.
                    if !all.iter().any(|known| known.host == host) {
                        all.push(Registry {
                            host,
                            login: "system’s keyring".into(),
                            ..Registry::default()
                        });
                    }
                }
            }
            Err(KeyringError::Absent { .. }) => {}
            Err(error) => keys::passed_over(&error),
        }
        for configured in self.configured_registries().await? {
            match all.iter_mut().find(|known| known.host == configured.host) {
                Some(known) => {
                    let login = std::mem::take(&mut known.login);
                    *known = Registry {
                        login,
                        ..configured
                    };
                }
                None => all.push(configured),
            }
        }
        all.sort_by(|a, b| a.host.cmp(&b.host));
        Ok(all)
    }

    /// Mirrors and then the registry itself, layer by layer, as the machine reaches them, with the login that is kept or
    /// without any.
    pub async fn test_registry(&self, host: &str) -> Result<Vec<TestStep>, Failure> {
        let host = host_of(host);
        let reach = self.reach().await?;
        let logins = Logins::load(keys::passed_over)?;
        Ok(test(&host, &reach, &logins).await)
    }

    /// Tests a login, then has it kept.
    pub async fn login_registry(
        &self,
        host: &str,
        username: String,
        secret: String,
    ) -> Result<(), Failure> {
        let host = host_of(host);
        let mut config = config()?;
        // Where it will be kept is known before a registry is asked.
        let keyring = match config.helper_of(&host) {
            Some(_) => None,
            None => Some(Keyring::open().await?),
        };
        let credential = Credential { username, secret };
        let reach = self.reach().await?;
        login::test(&host, &credential, &reach)
            .await
            .map_err(|error| {
                let message = format!("{host}: {}: {}", error.layer.name(), error.reason);
                Failure::user(message, error.layer.hint())
            })?;
        let Some(keyring) = keyring else {
            return Ok(config.store(&host, &credential, false).await?);
        };
        let login = Login {
            username: credential.username,
            secret: credential.secret,
        };
        keyring.put(&host, &login).await?;
        // An entry of the configuration without a helper is an older login, which would be used first.
        config.erase(&host).await?;
        Ok(())
    }

    /// Forgets a login, in every place.
    pub async fn logout_registry(&self, host: &str) -> Result<(), Failure> {
        let host = host_of(host);
        config()?.erase(&host).await?;
        match Keyring::open().await {
            Ok(keyring) => drop(keyring.remove(&host).await?),
            Err(KeyringError::Absent { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

async fn test(host: &str, reach: &Reach, logins: &Logins) -> Vec<TestStep> {
    let config = reach.registries.get(host);
    let mut steps = Vec::new();
    for mirror in config.into_iter().flat_map(|config| &config.mirrors) {
        // A mirror may be a path of a host; it is the host that answers.
        let at = mirror.split('/').next().unwrap_or_default();
        let login = logins.credentials(at).await.ok().flatten();
        let probed = login::probe(at, login.as_ref(), reach).await;
        steps.extend(
            probed
                .into_iter()
                .map(|one| step(&format!("Mirror {at}: "), one)),
        );
    }
    let login = logins.credentials(host).await.ok().flatten();
    let probed = login::probe(host, login.as_ref(), reach).await;
    steps.extend(probed.into_iter().map(|one| step("", one)));
    steps
}

fn step(of: &str, probed: Probed) -> TestStep {
    let name = probed.layer.name();
    let mut title = format!("{of}{name}");
    if of.is_empty() {
        title[..1].make_ascii_uppercase();
    }
    let (ok, detail) = match probed.outcome {
        Ok(words) => (true, words),
        Err(reason) => (false, format!("{reason}; {}", probed.layer.hint())),
    };
    TestStep {
        title,
        ok,
        detail,
        milliseconds: i64::try_from(probed.took.as_millis()).unwrap_or(i64::MAX),
    }
}

/// Hosts with a login; never the login itself.
fn logins(config: &serde_json::Value) -> Vec<Registry> {
    let keys = |name: &str| -> Vec<String> {
        let object = config.get(name).and_then(serde_json::Value::as_object);
        object
            .map(|object| object.keys().cloned().collect())
            .unwrap_or_default()
    };
    let store = config
        .get("credsStore")
        .and_then(serde_json::Value::as_str)
        .filter(|store| !store.is_empty());
    let mut all = std::collections::BTreeMap::new();
    for host in keys("auths") {
        let place = store.map_or_else(
            || "Docker configuration file".into(),
            |store| format!("credential helper {store}"),
        );
        all.insert(clean(&host), place);
    }
    for host in keys("credHelpers") {
        let helper = config["credHelpers"][&host].as_str().unwrap_or_default();
        all.insert(clean(&host), format!("credential helper {helper}"));
    }
    all.into_iter()
        .map(|(host, login)| Registry {
            host,
            login,
            ..Registry::default()
        })
        .collect()
}

fn clean(host: &str) -> String {
    let host = host
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or_default();
    if host == "index.docker.io" {
        "docker.io".into()
    } else {
        host.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_named_and_never_shown() {
        let config = serde_json::json!({
            "auths": {"https://index.docker.io/v1/": {"auth": "c2VjcmV0"}, "registry.example.com": {}},
            "credHelpers": {"quay.example.com": "pass"},
        });
        let found = logins(&config);
        let hosts: Vec<&str> = found
            .iter()
            .map(|registry| registry.host.as_str())
            .collect();
        assert_eq!(
            hosts,
            ["docker.io", "quay.example.com", "registry.example.com"]
        );
        assert!(!serde_json::to_string(&found).unwrap().contains("c2VjcmV0"));
    }

    #[test]
    fn hosts_are_named_as_docker_does() {
        for (typed, host) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            (" registry.example.com/team ", "registry.example.com"),
            ("http://localhost:5000/", "localhost:5000"),
        ] {
            assert_eq!(host_of(typed), host);
        }
    }
}
