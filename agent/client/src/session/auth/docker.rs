//! Credentials of docker's configuration: with the helper that it names, or as text in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use base64::Engine as _;
use serde::Deserialize;

use super::{Credential, CredentialSource, helper};
use crate::Error;

/// Docker Hub's key in the configuration, and the host that stands for it.
const HUB_KEY: &str = "https://index.docker.io/v1/";
const HUB_HOSTS: [&str; 3] = ["registry-1.docker.io", "index.docker.io", "docker.io"];

/// `config.json` of the docker CLI.
#[derive(Debug, Clone, Default)]
pub struct DockerConfig {
    file: ConfigFile,
    path: PathBuf,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: String,
    #[serde(default)]
    proxies: BTreeMap<String, Proxies>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Proxies {
    #[serde(rename = "httpProxy")]
    http: String,
    #[serde(rename = "httpsProxy")]
    https: String,
    #[serde(rename = "noProxy")]
    none: String,
    #[serde(rename = "ftpProxy")]
    ftp: String,
}

#[derive(Clone, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry")
    }
}

impl DockerConfig {
    /// Reads `config.json` in `dir`. A directory without one has no credentials.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("config.json");
        let file = match std::fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map_err(|source| Error::DockerConfig {
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => ConfigFile::default(),
            Err(source) => {
                return Err(Error::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        Ok(Self { file, path })
    }

    /// The proxies for builds at Docker's address (else its `default` ones), as build arguments.
    pub fn proxies(&self, address: &str) -> Vec<(&'static str, &str)> {
        let all = &self.file.proxies;
        let Some(proxies) = all.get(address).or_else(|| all.get("default")) else {
            return Vec::new();
        };
        [
            ("HTTP_PROXY", &proxies.http),
            ("HTTPS_PROXY", &proxies.https),
            ("NO_PROXY", &proxies.none),
            ("FTP_PROXY", &proxies.ftp),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name, value.as_str()))
        .collect()
    }

    /// The credential helper for a registry's host, if one is named.
    pub fn helper_of(&self, host: &str) -> Option<&str> {
        let helpers = &self.file.helpers;
        let helper = helpers.get(key_of(host)).or_else(|| helpers.get(host));
        let helper = helper.unwrap_or(&self.file.store);
        (!helper.is_empty()).then_some(helper.as_str())
    }

    /// Keeps credentials with the helper that is named; without one, as text, if that is allowed.
    pub async fn store(
        &mut self,
        host: &str,
        credential: &Credential,
        as_text: bool,
    ) -> Result<(), Error> {
        let key = key_of(host);
        if let Some(helper) = self.helper_of(host).map(str::to_owned) {
            let username = match credential.username.as_str() {
                "" => "<token>",
                username => username,
            };
            let input = serde_json::json!({
                "ServerURL": key, "Username": username, "Secret": credential.secret,
            });
            helper::run(&helper, "store", &input.to_string()).await?;
            // The docker CLI lists registries by their entries.
            return self.edit(|auths| drop(auths.insert(key.to_owned(), serde_json::json!({}))));
        }
        if !as_text {
            return Err(Error::NoHelper {
                registry: host.to_owned(),
            });
        }
        let text = format!("{}:{}", credential.username, credential.secret);
        let auth = base64::engine::general_purpose::STANDARD.encode(text);
        self.edit(|auths| drop(auths.insert(key.to_owned(), serde_json::json!({"auth": auth}))))
    }

    /// Forgets credentials; whether there were any.
    pub async fn erase(&mut self, host: &str) -> Result<bool, Error> {
        let key = key_of(host);
        let known = self.credentials(host).await?.is_some() || self.file.auths.contains_key(key);
        if let Some(helper) = self.helper_of(host).map(str::to_owned)
            && known
        {
            helper::run(&helper, "erase", key).await?;
        }
        if self.file.auths.contains_key(key) {
            self.edit(|auths| drop(auths.remove(key)))?;
        }
        Ok(known)
    }

    /// Changes `auths` in the file; everything else in it stays.
    fn edit(
        &mut self,
        change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
    ) -> Result<(), Error> {
        let path = self.path.clone();
        let failed = |action| {
            let path = path.clone();
            move |source| Error::Io {
                action,
                path,
                source,
            }
        };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => b"{}".to_vec(),
            Err(error) => return Err(failed("read")(error)),
        };
        let bad = |source| Error::DockerConfig {
            path: path.clone(),
            source,
        };
        let mut file: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&bytes).map_err(bad)?;
        let auths = file.entry("auths").or_insert_with(|| serde_json::json!({}));
        if let Some(auths) = auths.as_object_mut() {
            change(auths);
        }
        let text = serde_json::to_vec_pretty(&file).map_err(bad)?;
        self.file = serde_json::from_slice(&text).map_err(bad)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(failed("create"))?;
        // Only its owner may read it, from its first byte on.
        let mut temporary = tempfile::NamedTempFile::new_in(directory).map_err(failed("write"))?;
        std::io::Write::write_all(&mut temporary, &text).map_err(failed("write"))?;
        let kept = temporary.persist(&path);
        kept.map_err(|error| failed("write")(error.error))?;
        Ok(())
    }

    /// Where the docker CLI keeps its configuration: `DOCKER_CONFIG`, else `~/.docker`.
    pub fn default_dir() -> Option<PathBuf> {
        if let Some(dir) = std::env::var_os("DOCKER_CONFIG") {
            return Some(dir.into());
        }
        Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"))
    }

    fn entry(&self, key: &str) -> Option<Credential> {
        let host = |text: &str| {
            let text = text.split_once("://").map_or(text, |(_, rest)| rest);
            text.split('/').next().unwrap_or_default().to_owned()
        };
        let entry = self.file.auths.get(key).or_else(|| {
            let wanted = host(key);
            let mut entries = self.file.auths.iter();
            entries.find_map(|(key, entry)| (host(key) == wanted).then_some(entry))
        })?;
        if !entry.identity_token.is_empty() {
            return Some(Credential {
                username: String::new(),
                secret: entry.identity_token.clone(),
            });
        }
        let (mut username, mut secret) = (entry.username.clone(), entry.password.clone());
        if !entry.auth.is_empty() {
            let decoded = base64::engine::general_purpose::STANDARD
                .decode(&entry.auth)
                .ok()?;
            let text = String::from_utf8(decoded).ok()?;
            let (name, password) = text.split_once(':')?;
            name.clone_into(&mut username);
            password.trim_matches('\0').clone_into(&mut secret);
        }
        (!secret.is_empty()).then_some(Credential { username, secret })
    }
}

#[async_trait]
impl CredentialSource for DockerConfig {
    async fn credentials(&self, host: &str) -> Result<Option<Credential>, Error> {
        let key = key_of(host);
        if let Some(helper) = self.helper_of(host)
            && let Some(found) = helper::ask(helper, key).await?
        {
            return Ok(Some(found));
        }
        Ok(self.entry(key))
    }
}

/// How the configuration calls a registry.
fn key_of(host: &str) -> &str {
    if HUB_HOSTS.contains(&host) {
        HUB_KEY
    } else {
        host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn entries_are_found_under_all_their_spellings() {
        let json = r#"{
            "auths": {
                "https://index.docker.io/v1/": {"auth": "dXNlcjpwYTpzcw=="},
                "http://localhost:5000/v2/": {"username": "u", "password": "p"},
                "token.example": {"identitytoken": "t"},
                "empty.example": {}
            }
        }"#;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), json).unwrap();
        let config = DockerConfig::load(dir.path()).unwrap();
        for (host, want) in [
            ("registry-1.docker.io", Some(("user", "pa:ss"))),
            ("docker.io", Some(("user", "pa:ss"))),
            ("localhost:5000", Some(("u", "p"))),
            ("token.example", Some(("", "t"))),
            ("empty.example", None),
            ("unknown.example", None),
        ] {
            let got = config.credentials(host).await.unwrap();
            let got = got
                .as_ref()
                .map(|c| (c.username.as_str(), c.secret.as_str()));
            assert_eq!(got, want, "{host}");
        }
        let nothing = DockerConfig::load(&dir.path().join("missing")).unwrap();
        assert_eq!(nothing.credentials("docker.io").await.unwrap(), None);
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        assert!(DockerConfig::load(dir.path()).is_err());
    }

    #[tokio::test]
    async fn text_is_written_only_when_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, r#"{"currentContext": "mine"}"#).unwrap();
        let mut config = DockerConfig::load(dir.path()).unwrap();
        let credential = Credential {
            username: "me".into(),
            secret: "se:cret".into(),
        };
        let refused = config.store("localhost:5000", &credential, false).await;
        assert!(matches!(refused, Err(Error::NoHelper { .. })));
        config
            .store("localhost:5000", &credential, true)
            .await
            .unwrap();
        let again = DockerConfig::load(dir.path()).unwrap();
        let found = again.credentials("localhost:5000").await.unwrap();
        assert_eq!(found, Some(credential));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("currentContext"), "{text}");
        assert!(config.erase("localhost:5000").await.unwrap());
        assert!(!config.erase("localhost:5000").await.unwrap());
    }

    #[test]
    fn proxies_are_of_an_address_or_of_all() {
        let json = r#"{"proxies": {
            "default": {"httpProxy": "http://p:1", "noProxy": "localhost", "allProxy": "x"},
            "tcp://other:1": {"httpsProxy": "http://q:2"}
        }}"#;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), json).unwrap();
        let config = DockerConfig::load(dir.path()).unwrap();
        for (address, want) in [
            (
                "unix:///var/run/docker.sock",
                vec![("HTTP_PROXY", "http://p:1"), ("NO_PROXY", "localhost")],
            ),
            ("tcp://other:1", vec![("HTTPS_PROXY", "http://q:2")]),
        ] {
            assert_eq!(config.proxies(address), want, "{address}");
        }
        assert!(DockerConfig::default().proxies("x").is_empty());
    }
}
