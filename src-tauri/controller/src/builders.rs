//! Builders: what there is, and a test that goes layer by layer.
//!
//! | layer | unix, docker | tcp | tcp with certificates |
//! |---|---|---|---|
//! | Name | | looked up | looked up |
//! | TCP | | connects | connects |
//! | TLS | | | the daemon's certificate is trusted |
//! | Certificate | | | the daemon takes ours |
//! | Connect | opens the socket | speaks HTTP/2 | |
//! | Version, Workers | asked | asked | asked |

use std::time::Instant;

use kiln_client::build::BuilderKind;
use kiln_client::{Address, Client, Error, TlsFiles, TlsRefusal};
use kiln_proto::moby::buildkit::v1 as control;

use crate::settings::AppSettings;
use crate::view::{Builder, BuilderAddress, TestStep};
use crate::{Controller, Failure};

const MACHINE: &str = "This machine";

fn kind(address: &str) -> &'static str {
    match address.parse::<Address>() {
        Ok(Address::Docker(_)) => "docker",
        Ok(Address::Tcp(_)) => "tcp",
        _ => "unix",
    }
}

fn list(settings: &AppSettings, machine: String) -> Vec<Builder> {
    let mut all = vec![Builder {
        name: MACHINE.into(),
        kind: "machine".into(),
        address: machine,
        current: settings.builder.is_empty(),
        ..Builder::default()
    }];
    all.extend(settings.builders.iter().cloned().map(|builder| Builder {
        kind: kind(&builder.address).into(),
        current: settings.builder == builder.name,
        name: builder.name,
        address: builder.address,
        ca_file: builder.ca_file,
        cert_file: builder.cert_file,
        key_file: builder.key_file,
        server_name: builder.server_name,
    }));
    all
}

/// The files of TLS that a builder has; none: it is spoken to without.
fn tls_of(builder: &BuilderAddress) -> Result<Option<TlsFiles>, Failure> {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let identity = match (given(&builder.cert_file), given(&builder.key_file)) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        (None, None) => None,
        _ => {
            return Err(Failure::user(
                "A certificate needs its key, and a key its certificate.",
                "Give both files, or neither.",
            ));
        }
    };
    let Some(ca) = given(&builder.ca_file) else {
        if identity.is_some() {
            return Err(Failure::user(
                "The file of the CA is missing.",
                "Without it the daemon’s own certificate can’t be checked.",
            ));
        }
        return Ok(None);
    };
    if kind(&builder.address) != "tcp" {
        return Err(Failure::user(
            "Certificates are for tcp:// addresses.",
            "A socket is guarded by its file’s permissions: leave the files empty.",
        ));
    }
    Ok(Some(TlsFiles {
        ca: ca.into(),
        identity,
        server_name: given(&builder.server_name),
    }))
}

/// Connects to a builder as it is described.
pub(crate) async fn connect(builder: &BuilderAddress) -> Result<Client, Failure> {
    let address: Address = builder.address.parse()?;
    Ok(match tls_of(builder)? {
        Some(files) => Client::connect_tls(&address, &files).await?,
        None => Client::connect(&address).await?,
    })
}

/// What one layer of a test made, or what it failed with.
async fn timed<T, E: std::error::Error + 'static>(
    steps: &mut Vec<TestStep>,
    title: &str,
    work: impl Future<Output = Result<T, E>>,
    words: impl FnOnce(&T) -> String,
) -> Result<T, Option<E>> {
    let begun = Instant::now();
    let outcome = tokio::time::timeout(std::time::Duration::from_secs(10), work).await;
    let (ok, detail, value) = match outcome {
        Ok(Ok(value)) => (true, words(&value), Ok(value)),
        Ok(Err(error)) => (false, Failure::internal(&error).message, Err(Some(error))),
        Err(_) => (false, "no answer within 10 seconds".into(), Err(None)),
    };
    let milliseconds = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
    steps.push(TestStep {
        title: title.into(),
        ok,
        detail,
        milliseconds,
    });
    value
}

/// One layer of a test, timed.
pub(crate) async fn step<T, E: std::error::Error + 'static>(
    steps: &mut Vec<TestStep>,
    title: &str,
    work: impl Future<Output = Result<T, E>>,
    words: impl FnOnce(&T) -> String,
) -> Option<T> {
    timed(steps, title, work, words).await.ok()
}

impl Controller {
    /// The machine, and what was added.
    pub fn builders(&self) -> Vec<Builder> {
        let machine = self
            .machine()
            .sockets
            .first()
            .map(|socket| format!("unix://{}", socket.path));
        list(&self.settings(), machine.unwrap_or_default())
    }

    /// The one in use; none: the machine.
    pub(crate) fn builder_in_use(&self) -> Option<BuilderAddress> {
        let settings = self.settings();
        let mut all = settings.builders.into_iter();
        all.find(|builder| builder.name == settings.builder)
    }

    /// How the one in use is reached, which decides what its exporters are called.
    pub(crate) fn builder_kind(&self) -> BuilderKind {
        match self.builder_in_use() {
            Some(builder) if kind(&builder.address) == "docker" => BuilderKind::Docker,
            _ => BuilderKind::BuildKit,
        }
    }

    /// Adds one.
    pub fn add_builder(&self, builder: BuilderAddress) -> Result<(), Failure> {
        if builder.address.parse::<Address>().is_err() {
            return Err(Failure::user(
                format!("“{}” isn’t an address.", builder.address),
                "Give unix:///path, docker:///path or tcp://host:port.",
            ));
        }
        tls_of(&builder)?;
        let mut settings = self.settings();
        let known = |known: &BuilderAddress| known.name == builder.name;
        if builder.name == MACHINE || settings.builders.iter().any(known) {
            return Err(Failure::user(
                format!("There is a builder “{}” already.", builder.name),
                "Choose another name.",
            ));
        }
        settings.builders.push(builder);
        self.keep_settings(settings)
    }

    /// Forgets one; it isn't touched itself.
    pub fn remove_builder(&self, name: &str) -> Result<(), Failure> {
        let mut settings = self.settings();
        settings.builders.retain(|known| known.name != name);
        if settings.builder == name {
            settings.builder = String::new();
        }
        self.keep_settings(settings)
    }

    /// From now on builds, cache and images are that one's.
    pub fn use_builder(&self, name: &str) -> Result<(), Failure> {
        let mut settings = self.settings();
        settings.builder = if name == MACHINE {
            String::new()
        } else {
            name.into()
        };
        self.keep_settings(settings)
    }

    /// Goes layer by layer, to the first that fails.
    pub async fn test_builder(&self, builder: BuilderAddress) -> Result<Vec<TestStep>, Failure> {
        let address: Address = builder.address.parse()?;
        let tls = tls_of(&builder)?;
        let mut steps = Vec::new();
        if let Some(client) = reach(&mut steps, &address, tls.as_ref()).await {
            step(&mut steps, "Workers", client.workers(), |workers| {
                let platforms = workers.iter().flat_map(|worker| &worker.platforms);
                platforms
                    .map(|p| format!("{}/{}", p.os, p.architecture))
                    .collect::<Vec<_>>()
                    .join(", ")
            })
            .await;
        }
        Ok(steps)
    }
}

/// All layers up to the daemon's version.
async fn reach(
    steps: &mut Vec<TestStep>,
    address: &Address,
    tls: Option<&TlsFiles>,
) -> Option<Client> {
    if let Address::Tcp(host) = address {
        let lookup = async {
            let found = tokio::net::lookup_host(host.as_str()).await?;
            Ok::<_, std::io::Error>(found.collect::<Vec<_>>())
        };
        let found = step(steps, "Name", lookup, |found| {
            let addresses = found.iter().map(|address| address.ip().to_string());
            addresses.collect::<Vec<_>>().join(", ")
        });
        let found = found.await?;
        let connection = tokio::net::TcpStream::connect(found.as_slice());
        step(steps, "TCP", connection, |_| format!("{host} accepts")).await?;
    }
    let version = |info: &control::InfoResponse| {
        let version = info.buildkit_version.as_ref();
        version
            .map(|v| format!("{} {}", v.package, v.version))
            .unwrap_or_default()
    };
    let Some(files) = tls else {
        let connect = Client::connect(address);
        let words = |_: &Client| "a connection".into();
        let Ok(client) = timed(steps, "Connect", connect, words).await else {
            hint(
                steps,
                address,
                "if the daemon wants TLS, give its certificates",
            );
            return None;
        };
        step(steps, "Version", client.info(), version).await?;
        return Some(client);
    };
    let words = |_: &Client| "the daemon’s certificate is trusted".into();
    let client = match timed(steps, "TLS", Client::connect_tls(address, files), words).await {
        Ok(client) => client,
        Err(error) => {
            match error.as_ref().and_then(|error| TlsRefusal::of(error)) {
                Some(TlsRefusal::Client) => refused(steps),
                Some(TlsRefusal::Server) => hint(
                    steps,
                    address,
                    "is the CA the one that signed the daemon’s certificate, and its name the one in it?",
                ),
                Some(TlsRefusal::NoTls) => {
                    hint(steps, address, "what answers doesn’t speak TLS");
                }
                None => {}
            }
            return None;
        }
    };
    // With TLS 1.3 the daemon's word on our certificate comes with its first answer.
    match timed(steps, "Version", client.info(), version).await {
        Ok(_) => {
            if files.identity.is_some() {
                let at = steps.len() - 1;
                steps.insert(at, taken());
            }
            Some(client)
        }
        Err(error) => {
            if error
                .as_ref()
                .and_then(|error: &Error| TlsRefusal::of(error))
                == Some(TlsRefusal::Client)
            {
                refused(steps);
            }
            None
        }
    }
}

/// The step that failed is about our certificate; what came before it was right.
fn refused(steps: &mut [TestStep]) {
    if let Some(last) = steps.last_mut() {
        last.title = "Certificate".into();
        last.detail = "the daemon doesn’t take this certificate, or wants one".into();
    }
}

fn taken() -> TestStep {
    TestStep {
        title: "Certificate".into(),
        ok: true,
        detail: "the daemon takes it".into(),
        milliseconds: 0,
    }
}

fn hint(steps: &mut [TestStep], address: &Address, text: &str) {
    if let (Address::Tcp(_), Some(last)) = (address, steps.last_mut()) {
        last.detail = format!("{}; {text}", last.detail);
    }
}

#[cfg(test)]
mod tests;
