//! A registry, layer by layer, reached as the engine reaches it: its schemes, proxies, CAs and client certificates.
//!
//! Invariant: each layer is told once, the first that fails is the last, and nothing is changed anywhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_config::{
    ConfigError, ConfigText, HostSettings, ProxySettings, RegistryConfig, TlsDirectory, TlsKeyPair,
};
use reqwest::{Certificate, Identity, StatusCode, header};

use super::route::{connect, resolve, route, through};
use super::{Challenge, Layer, TokenAnswer, chain, challenge};
use crate::Credential;

const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What the engine is told of registries.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// By host.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// CAs (PEM files) for all of them.
    pub ca_files: Vec<PathBuf>,
    /// Proxies on the way to all that aren't on this computer.
    pub proxy: ProxySettings,
}

impl Reach {
    /// What the machine with these settings has.
    pub fn of(settings: &HostSettings) -> Result<Self, ConfigError> {
        let text = ConfigText::parse(&settings.buildkitd_toml)?;
        Ok(Self {
            registries: text.config().registries.clone(),
            ca_files: settings.ca_files.clone(),
            proxy: settings.proxy.clone(),
        })
    }
}

/// What a layer said.
#[derive(Debug, Clone)]
pub struct Probed {
    /// Which one.
    pub layer: Layer,
    /// For people, either way.
    pub outcome: Result<String, String>,
    /// How long it took.
    pub took: Duration,
}

/// One way to a host.
#[derive(Debug, Clone, Copy)]
struct Way {
    tls: bool,
    skip_verify: bool,
}

/// The layer that failed, and why.
pub(super) type Failed = (Layer, String);

/// Asks a registry with a login, or without any. Changes nothing.
pub async fn probe(registry: &str, credential: Option<&Credential>, reach: &Reach) -> Vec<Probed> {
    let host = if registry == HUB { HUB_HOST } else { registry };
    let config = reach.registries.get(registry);
    let mut first = None;
    for way in ways(host, config) {
        let mut steps = Vec::new();
        let reached = Probe {
            host,
            way,
            config,
            reach,
            steps: &mut steps,
        };
        let outcome = reached.run(credential).await;
        // Another scheme may be spoken there; who refuses a login is the one that was meant.
        let goes_on = matches!(outcome, Err(Layer::Tcp | Layer::Tls | Layer::Protocol));
        if !goes_on {
            return steps;
        }
        first.get_or_insert(steps);
    }
    first.unwrap_or_default()
}

/// As the engine has them.
fn ways(host: &str, config: Option<&RegistryConfig>) -> Vec<Way> {
    let plain = config
        .and_then(|config| config.http)
        .unwrap_or_else(|| is_local(host));
    let insecure = config.and_then(|config| config.insecure).unwrap_or(false);
    let way = |tls| Way {
        tls,
        skip_verify: insecure,
    };
    match (plain, insecure) {
        (false, false) => vec![way(true)],
        (true, false) => vec![way(false)],
        (true, true) => vec![way(false), way(true)],
        (false, true) => vec![way(true), way(false)],
    }
}

struct Probe<'a> {
    host: &'a str,
    way: Way,
    config: Option<&'a RegistryConfig>,
    reach: &'a Reach,
    steps: &'a mut Vec<Probed>,
}

impl Probe<'_> {
    /// The layer that failed.
    async fn run(mut self, credential: Option<&Credential>) -> Result<(), Layer> {
        let begun = Instant::now();
        let proxy = self.proxy();
        let route = route(self.host, self.way.tls, &proxy);
        let addresses = self.tell(begun, Layer::Dns, resolve(&route).await)?;
        let begun = Instant::now();
        self.tell(begun, Layer::Tcp, connect(&route, &addresses).await)?;
        let begun = Instant::now();
        let answered = self.ping().await;
        let (http, answer) = self.tell(begun, Layer::Tls, answered)?;
        let begun = Instant::now();
        let token = ask(&http, &answer, credential).await;
        let Some(token) = self.tell(begun, Layer::Auth, token)? else {
            return Ok(());
        };
        let begun = Instant::now();
        let taken = match http.get(self.url()).bearer_auth(token).send().await {
            Ok(answer) if answer.status() == StatusCode::OK => {
                Ok(((), "the registry takes the token".to_owned()))
            }
            Ok(answer) => Err((
                Layer::Scope,
                format!("the registry answers {} to the token", answer.status()),
            )),
            Err(error) => Err((Layer::Protocol, chain(&error))),
        };
        self.tell(begun, Layer::Scope, taken)
    }

    fn tell<T>(
        &mut self,
        begun: Instant,
        layer: Layer,
        outcome: Result<(T, String), Failed>,
    ) -> Result<T, Layer> {
        let took = begun.elapsed();
        let (layer, outcome, value) = match outcome {
            Ok((value, words)) => (layer, Ok(words), Ok(value)),
            Err((layer, reason)) => (layer, Err(reason), Err(layer)),
        };
        self.steps.push(Probed {
            layer,
            outcome,
            took,
        });
        value
    }

    /// What is on this computer is reached without any.
    fn proxy(&self) -> ProxySettings {
        match is_local(self.host) {
            true => ProxySettings::default(),
            false => self.reach.proxy.clone(),
        }
    }

    fn url(&self) -> String {
        let scheme = if self.way.tls { "https" } else { "http" };
        format!("{scheme}://{}/v2/", self.host)
    }

    /// The first request, which is also where TLS is begun.
    async fn ping(&self) -> Result<((reqwest::Client, reqwest::Response), String), Failed> {
        let http = self.client().map_err(|reason| (Layer::Tls, reason))?;
        let answer = http.get(self.url()).send().await.map_err(|error| {
            let layer = match error.is_connect() && self.way.tls {
                true => Layer::Tls,
                false => Layer::Protocol,
            };
            (layer, chain(&error))
        })?;
        let words = match (self.way.tls, self.way.skip_verify) {
            (true, false) => "the certificate is trusted",
            (true, true) => "the certificate isn’t checked, as configured",
            (false, _) => "none: it is spoken to in plain HTTP",
        };
        match answer.status() {
            StatusCode::OK | StatusCode::UNAUTHORIZED => Ok(((http, answer), words.to_owned())),
            status => Err((Layer::Protocol, format!("GET /v2/ answers {status}"))),
        }
    }

    fn client(&self) -> Result<reqwest::Client, String> {
        let builder = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::limited(3))
            .danger_accept_invalid_certs(self.way.tls && self.way.skip_verify);
        let mut builder = through(builder, &self.proxy()).map_err(|error| chain(&error))?;
        let (own, pairs) = self.config.map_or(Ok(Default::default()), certificates)?;
        for path in self.reach.ca_files.iter().chain(&own) {
            let bundle = Certificate::from_pem_bundle(&read(path)?);
            for certificate in bundle.map_err(|error| wrong(path, &error))? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        for pair in pairs {
            let pem = [read(&pair.cert)?, b"\n".to_vec(), read(&pair.key)?].concat();
            let identity = Identity::from_pem(&pem).map_err(|error| wrong(&pair.cert, &error))?;
            builder = builder.identity(identity);
        }
        builder.build().map_err(|error| chain(&error))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn wrong(path: &Path, error: &reqwest::Error) -> String {
    format!("{}: {}", path.display(), chain(error))
}

/// Those that are named, and those of directories.
fn certificates(config: &RegistryConfig) -> Result<(Vec<PathBuf>, Vec<TlsKeyPair>), String> {
    let (mut authorities, mut pairs) = (config.ca.clone(), config.keypair.clone());
    for directory in &config.tlsconfigdir {
        let listed = TlsDirectory::list(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        authorities.extend(listed.ca);
        pairs.extend(listed.keypair);
    }
    Ok((authorities, pairs))
}

/// A token for the login; none where the registry wants none.
async fn ask(
    http: &reqwest::Client,
    answer: &reqwest::Response,
    credential: Option<&Credential>,
) -> Result<(Option<String>, String), Failed> {
    if answer.status() == StatusCode::OK {
        return Ok((None, "it asks nobody who they are".to_owned()));
    }
    let (whom, to_whom) = match credential.map(|credential| credential.username.as_str()) {
        None => ("anybody".to_owned(), "without a login".to_owned()),
        Some("") => ("the token that is kept".to_owned(), "to it".to_owned()),
        Some(name) => (
            format!("the login of {name}"),
            format!("to the login of {name}"),
        ),
    };
    let challenges = answer.headers().get_all(header::WWW_AUTHENTICATE);
    let mut known = challenges
        .iter()
        .filter_map(|value| challenge(value.to_str().ok()?));
    let wanted = known.next().ok_or_else(|| {
        let reason = "it wants a login of a kind that isn't known";
        (Layer::Protocol, reason.to_owned())
    })?;
    let basic = |request: reqwest::RequestBuilder| match credential {
        Some(login) => request.basic_auth(&login.username, Some(&login.secret)),
        None => request,
    };
    let Challenge::Bearer(parameters) = wanted else {
        let again = basic(http.get(answer.url().clone())).send().await;
        return match again
            .map_err(|error| (Layer::Protocol, chain(&error)))?
            .status()
        {
            StatusCode::OK => Ok((None, format!("it takes {whom}"))),
            status => Err((
                Layer::Auth,
                format!("the registry answers {status} {to_whom}"),
            )),
        };
    };
    let realm = parameters.get("realm").cloned().unwrap_or_default();
    let mut request = http.get(&realm);
    if let Some(service) = parameters.get("service") {
        request = request.query(&[("service", service)]);
    }
    if let Some(login) = credential.filter(|login| !login.username.is_empty()) {
        request = basic(request.query(&[("account", &login.username)]));
    }
    let answer = request.send().await.map_err(|error| {
        let reason = format!("its token server {realm}: {}", chain(&error));
        (Layer::Protocol, reason)
    })?;
    if !answer.status().is_success() {
        let reason = format!("the token server answers {} {to_whom}", answer.status());
        return Err((Layer::Auth, reason));
    }
    let bytes = answer.bytes().await.unwrap_or_default();
    let token: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| {
        let reason = "the token server's answer isn't one";
        (Layer::Protocol, reason.to_owned())
    })?;
    let token = match token.token.is_empty() {
        true => token.access_token,
        false => token.token,
    };
    Ok((Some(token), format!("the token server takes {whom}")))
}

/// Registries on this machine are spoken to without TLS.
fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost"
        || name
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
