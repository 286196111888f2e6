//! Registries: logins, and a test that goes layer by layer.
//!
//! A login is kept by the credential helper that the docker command's configuration names for the registry, where docker
//! and buildx find it too; without one, in the system's keyring, where Kiln finds it.
//!
//! Invariant: a password is tested, handed over to be kept, and dropped; it is in no answer, no log and no file.

use kiln_client::login::{self, Layer};
use kiln_client::{Credential, CredentialSource as _, DockerConfig, Logins, registry_of};
use kiln_keyring::{Keyring, KeyringError, Login};

use crate::builders::step;
use crate::view::{Registry, TestStep};
use crate::{Controller, Failure, keys};

const HUB: &str = kiln_client::HUB;

/// A registry's host, as Docker's configuration names it, from what people type.
fn host_of(text: &str) -> String {
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
    /// Registries that the user's Docker configuration or keyring has logins for.
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
                all.sort_by(|a, b| a.host.cmp(&b.host));
            }
            Err(KeyringError::Absent { .. }) => {}
            Err(error) => keys::passed_over(&error),
        }
        Ok(all)
    }

    /// Name, TCP, then what the registry says to the login that is kept, or to none.
    pub async fn test_registry(&self, host: &str) -> Result<Vec<TestStep>, Failure> {
        let host = host_of(host);
        let reached = if host == HUB {
            "registry-1.docker.io"
        } else {
            &host
        };
        let target = if reached.contains(':') {
            reached.to_owned()
        } else {
            format!("{reached}:443")
        };
        let mut steps = Vec::new();
        let lookup = async {
            Ok::<_, std::io::Error>(tokio::net::lookup_host(&target).await?.collect::<Vec<_>>())
        };
        let found = step(&mut steps, "Name", lookup, |addresses| {
            addresses
                .iter()
                .map(|address| address.ip().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        })
        .await;
        let Some(addresses) = found else {
            return Ok(steps);
        };
        let connection = tokio::net::TcpStream::connect(addresses.as_slice());
        let words = |_: &_| format!("{target} accepts");
        if step(&mut steps, "TCP", connection, words).await.is_none() {
            return Ok(steps);
        }
        let logins = Logins::load(keys::passed_over)?;
        let kept = logins.credentials(&host).await.ok().flatten();
        let as_whom = kept.as_ref().map_or_else(
            || "it answers; there is no login".to_owned(),
            |credential| match credential.username.as_str() {
                "" => "it takes the token that is kept".to_owned(),
                name => format!("it takes the login of {name}"),
            },
        );
        let credential = kept.unwrap_or_else(|| Credential {
            username: String::new(),
            secret: String::new(),
        });
        let begun = std::time::Instant::now();
        let (title, ok, detail) = match login::test(&host, &credential).await {
            Ok(()) => ("TLS, login and scope", true, as_whom),
            Err(error) => (
                title_of(error.layer),
                false,
                format!("{}; {}", error.reason, error.layer.hint()),
            ),
        };
        steps.push(TestStep {
            title: title.into(),
            ok,
            detail,
            milliseconds: i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
        });
        Ok(steps)
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
        login::test(&host, &credential).await.map_err(|error| {
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

fn title_of(layer: Layer) -> &'static str {
    match layer {
        Layer::Dns => "Name",
        Layer::Tcp => "TCP",
        Layer::Tls => "TLS",
        Layer::Protocol => "Protocol",
        Layer::Auth => "Login",
        Layer::Scope => "Scope",
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
