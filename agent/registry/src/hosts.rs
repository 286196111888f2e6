//! Which hosts are asked for a name, how they are reached, and the connections to them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Once, Weak};
use std::time::Duration;

use kiln_config::{RegistryConfig, TlsDirectory};
use kiln_oci::{Digest, Reference};
use parking_lot::Mutex;
use reqwest::tls::{Certificate, Identity};
use tokio::sync::Semaphore;

use crate::{Error, Result};

/// Where Docker Hub's API is.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
const USER_AGENT: &str = concat!("kiln/", env!("CARGO_PKG_VERSION"));
/// A body that doesn't move for so long is given up and resumed.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Downloads from one host at once.
const CONCURRENCY: usize = 4;

/// One way to reach one host.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// `registry-1.docker.io`, `localhost:5000`: what credentials are for.
    pub(crate) host: String,
    pub(crate) scheme: &'static str,
    /// Before the repository: `/v2`, or `/v2/proxy` for a mirror with a path.
    prefix: String,
    /// The registry that this one mirrors.
    mirrored: Option<String>,
    skip_verify: bool,
}

impl Endpoint {
    /// The URL of `rest` below the reference's repository.
    pub(crate) fn url(&self, path: &str, rest: &str) -> String {
        let namespace = match &self.mirrored {
            Some(registry) => format!("?ns={registry}"),
            None => String::new(),
        };
        format!(
            "{}://{}{}/{path}/{rest}{namespace}",
            self.scheme, self.host, self.prefix
        )
    }
}

/// Whose turn it is to bring a blob.
pub(crate) type Turn = tokio::sync::Mutex<()>;

/// What the configuration says, and the connections that were made for it.
#[derive(Debug)]
pub(crate) struct Hosts {
    config: BTreeMap<String, RegistryConfig>,
    clients: Mutex<HashMap<(String, bool, bool), reqwest::Client>>,
    downloads: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Blobs on their way, by host and repository.
    uploads: Mutex<HashMap<(String, String, Digest), Weak<Turn>>>,
    concurrency: usize,
}

impl Hosts {
    pub(crate) fn new(
        config: BTreeMap<String, RegistryConfig>,
        concurrency: Option<usize>,
    ) -> Result<Self> {
        for mirror in config.values().flat_map(|registry| &registry.mirrors) {
            split_mirror(mirror)?;
        }
        Ok(Self {
            config,
            clients: Mutex::default(),
            downloads: Mutex::default(),
            uploads: Mutex::default(),
            concurrency: concurrency
                .filter(|count| *count > 0)
                .unwrap_or(CONCURRENCY),
        })
    }

    /// Whom to ask for the name: mirrors in order, then the registry itself.
    pub(crate) fn for_pull(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let mut all = Vec::new();
        for mirror in self
            .config
            .get(reference.domain())
            .into_iter()
            .flat_map(|config| &config.mirrors)
        {
            let (host, path) = split_mirror(mirror)?;
            let prefix = format!("/v2{path}");
            all.extend(self.endpoints(&host, &prefix, Some(reference.domain())));
        }
        all.extend(self.for_push(reference));
        Ok(all)
    }

    /// The registry itself, over each scheme that it may have.
    pub(crate) fn for_push(&self, reference: &Reference) -> Vec<Endpoint> {
        let domain = reference.domain();
        let mut all = self.endpoints(domain, "/v2", None);
        if domain == DOCKER_HUB {
            for endpoint in &mut all {
                DOCKER_HUB_HOST.clone_into(&mut endpoint.host);
            }
        }
        all
    }

    fn endpoints(&self, host: &str, prefix: &str, mirrored: Option<&str>) -> Vec<Endpoint> {
        let config = self.config.get(host);
        let http = config
            .and_then(|config| config.http)
            .unwrap_or_else(|| is_local(host));
        let insecure = config.and_then(|config| config.insecure).unwrap_or(false);
        let endpoint = |scheme, skip_verify| Endpoint {
            host: host.to_owned(),
            scheme,
            prefix: prefix.to_owned(),
            mirrored: mirrored.map(str::to_owned),
            skip_verify,
        };
        match (http, insecure) {
            (false, false) => vec![endpoint("https", false)],
            (true, false) => vec![endpoint("http", false)],
            (true, true) => vec![endpoint("http", false), endpoint("https", true)],
            (false, true) => vec![endpoint("https", true), endpoint("http", false)],
        }
    }

    /// The pool of connections for an endpoint.
    pub(crate) fn client(&self, endpoint: &Endpoint) -> Result<reqwest::Client> {
        let tls = endpoint.scheme == "https";
        let key = (endpoint.host.clone(), tls, endpoint.skip_verify);
        if let Some(client) = self.clients.lock().get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(&endpoint.host, tls, endpoint.skip_verify)?;
        self.clients.lock().insert(key, client.clone());
        Ok(client)
    }

    /// The pool of connections for a token server, which has the registry's TLS settings if it is the same host.
    pub(crate) fn client_for_url(
        &self,
        url: &reqwest::Url,
        endpoint: &Endpoint,
    ) -> Result<reqwest::Client> {
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => {
                return Err(Error::Host {
                    host: url.to_string(),
                });
            }
        };
        let same_name = url.host_str() == endpoint.host.split(':').next();
        let host = if same_name && !self.config.contains_key(&host) {
            endpoint.host.clone()
        } else {
            host
        };
        let insecure = self
            .config
            .get(&host)
            .and_then(|config| config.insecure)
            .unwrap_or(false);
        let key = (host.clone(), url.scheme() == "https", insecure);
        if let Some(client) = self.clients.lock().get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(&host, key.1, insecure)?;
        self.clients.lock().insert(key, client.clone());
        Ok(client)
    }

    /// Bounds the downloads from one host.
    pub(crate) fn downloads(&self, host: &str) -> Arc<Semaphore> {
        let mut all = self.downloads.lock();
        let semaphore = all
            .entry(host.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(self.concurrency)));
        Arc::clone(semaphore)
    }

    /// Held by who brings the blob to the repository.
    pub(crate) fn upload(&self, endpoint: &Endpoint, path: &str, digest: &Digest) -> Arc<Turn> {
        let mut all = self.uploads.lock();
        all.retain(|_, turn| turn.strong_count() > 0);
        let key = (endpoint.host.clone(), path.to_owned(), *digest);
        if let Some(turn) = all.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Turn::default());
        all.insert(key, Arc::downgrade(&turn));
        turn
    }

    fn build(&self, host: &str, tls: bool, skip_verify: bool) -> Result<reqwest::Client> {
        install_crypto();
        let fail = |source: reqwest::Error| Error::Tls {
            host: host.to_owned(),
            source: Arc::new(source),
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .http2_adaptive_window(true)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::limited(10));
        if is_local(host) {
            builder = builder.no_proxy();
        }
        if !tls {
            // Reading the system's certificates takes longer than a small pull. A redirect to HTTPS, to a store of
            // blobs say, must still find them when the registry isn't local.
            builder = builder.tls_built_in_root_certs(!is_local(host));
            return builder.build().map_err(fail);
        }
        builder = builder.danger_accept_invalid_certs(skip_verify);
        let config = self.config.get(host).or_else(|| {
            self.config
                .get(DOCKER_HUB)
                .filter(|_| host == DOCKER_HUB_HOST)
        });
        if let Some(config) = config {
            let mut authorities = config.ca.clone();
            let mut pairs = config.keypair.clone();
            for directory in &config.tlsconfigdir {
                let listed = TlsDirectory::list(directory).map_err(|source| Error::File {
                    path: directory.clone(),
                    source: Arc::new(source),
                })?;
                authorities.extend(listed.ca);
                pairs.extend(listed.keypair);
            }
            for path in authorities {
                for certificate in Certificate::from_pem_bundle(&read(&path)?).map_err(fail)? {
                    builder = builder.add_root_certificate(certificate);
                }
            }
            for pair in pairs {
                let pem = [read(&pair.cert)?, b"\n".to_vec(), read(&pair.key)?].concat();
                builder = builder.identity(Identity::from_pem(&pem).map_err(fail)?);
            }
        }
        builder.build().map_err(fail)
    }
}

/// The process has one provider of cryptography; it may have been installed by someone else already.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source: Arc::new(source),
    })
}

/// Whether plain HTTP is the custom: this machine itself.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Splits `host[:port][/path]` and takes off a scheme, which says nothing that `http = true` doesn't.
fn split_mirror(mirror: &str) -> Result<(String, String)> {
    let bare = mirror
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_matches('/');
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '@') {
        return Err(Error::Host {
            host: mirror.to_owned(),
        });
    }
    let path = if path.is_empty() {
        String::new()
    } else {
        format!("/{path}")
    };
    Ok((host.to_owned(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(table: &[(&str, RegistryConfig)]) -> Hosts {
        let config = table
            .iter()
            .map(|(host, config)| ((*host).to_owned(), config.clone()))
            .collect();
        Hosts::new(config, None).unwrap()
    }

    fn pull_urls(hosts: &Hosts, name: &str) -> Vec<String> {
        let reference: Reference = name.parse().unwrap();
        let endpoints = hosts.for_pull(&reference).unwrap();
        endpoints
            .iter()
            .map(|endpoint| endpoint.url(reference.path(), "x"))
            .collect()
    }

    #[test]
    fn mirrors_come_first_and_schemes_follow_the_configuration() {
        let hosts = hosts(&[
            (
                "docker.io",
                RegistryConfig {
                    mirrors: vec!["127.0.0.1:5000".into(), "m.example/hub".into()],
                    ..RegistryConfig::default()
                },
            ),
            (
                "plain.example",
                RegistryConfig {
                    http: Some(true),
                    ..RegistryConfig::default()
                },
            ),
            (
                "lax.example",
                RegistryConfig {
                    insecure: Some(true),
                    ..RegistryConfig::default()
                },
            ),
            (
                "localhost:9",
                RegistryConfig {
                    http: Some(false),
                    ..RegistryConfig::default()
                },
            ),
        ]);
        let table = [
            (
                "alpine",
                vec![
                    "http://127.0.0.1:5000/v2/library/alpine/x?ns=docker.io",
                    "https://m.example/v2/hub/library/alpine/x?ns=docker.io",
                    "https://registry-1.docker.io/v2/library/alpine/x",
                ],
            ),
            ("plain.example/a", vec!["http://plain.example/v2/a/x"]),
            (
                "lax.example/a",
                vec!["https://lax.example/v2/a/x", "http://lax.example/v2/a/x"],
            ),
            ("localhost/a", vec!["http://localhost/v2/a/x"]),
            ("localhost:9/a", vec!["https://localhost:9/v2/a/x"]),
            ("[::1]:5000/a", vec!["http://[::1]:5000/v2/a/x"]),
            ("ghcr.io/a", vec!["https://ghcr.io/v2/a/x"]),
        ];
        for (name, want) in table {
            assert_eq!(pull_urls(&hosts, name), want, "{name}");
        }
    }

    #[test]
    fn bad_mirrors_are_refused() {
        for mirror in ["", "/path", "a b", "user@host"] {
            let config = RegistryConfig {
                mirrors: vec![mirror.into()],
                ..RegistryConfig::default()
            };
            let hosts = Hosts::new(BTreeMap::from([("docker.io".into(), config)]), None);
            assert!(hosts.is_err(), "{mirror}");
        }
    }
}
