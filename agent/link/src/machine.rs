//! What host and guest tell each other about the machine itself: one stream of [`Service::Machine`].
//!
//! ```text
//!  host                                  guest
//!  opens the stream, Setup ────────────► sets its clock; the first one of a boot lets the engine start
//!                          ◄──────────── Report, one for every change, the current one at once
//! ```
//! Each message is a length of four bytes (little endian) and JSON. A host that comes anew in the middle of a
//! guest's life sends a `Setup` again: the clock of it counts, the rest only did at boot.
//!
//! Invariants: a message is bounded before it is believed; a report is never a command to the host.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::mux::{Link, LinkError, Service, Stream};

/// The name of the virtio-serial port that is the link.
pub const PORT: &str = "kiln.link.0";
/// The serial number of the virtio disk that the guest keeps its state on.
pub const DATA_DISK: &str = "kiln-data";
/// The serial number of the read-only disk with git, ssh and emulators; a machine works without it.
pub const ADD_ON_DISK: &str = "kiln-add-on";
/// The guest kernel's command line.
///
/// `no_timer_check`: on an emulated processor that others slow down, the kernel's test of its first timer fails now
/// and then. It then takes another route, and leaves an interrupt in service that blocks those of devices for ever.
/// Under KVM the kernel skips the test by itself.
///
/// `unknown_nmi_panic` and `panic_print`: a guest that hangs is told to say what each of its processors is at.
pub const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests no_timer_check \
    unknown_nmi_panic panic_print=0x40";
/// How the guest's last words begin on its console, where the link can't carry them.
pub const LAST_WORDS: &str = "KILN-FAILED: ";

/// Certificates and configuration of a company fit in.
const MAX_SETUP: usize = 8 << 20;
const MAX_REPORT: usize = 64 << 10;

/// What the host gives a guest to begin with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// The host's time, in nanoseconds since 1970; 0 leaves the clock alone.
    pub unix_nanos: u64,
    /// The guest's name; empty for a default.
    pub hostname: String,
    /// Its network; the default is that of QEMU's user network.
    pub network: Network,
    /// Proxies of downloads, pulls, pushes and steps.
    pub proxy: Proxy,
    /// Certificates (PEM) to trust beside the public ones.
    pub certificates: String,
    /// The engine's configuration, as `buildkitd.toml`.
    pub buildkitd_toml: String,
    /// Texts of files that it names: CAs and client certificates of registries. They are to be had by
    /// [`registry_file`].
    pub registry_files: Vec<String>,
    /// Ports of the host's loopback that the guest offers to steps, by [`Link::open_host_port`].
    pub forward: Vec<u16>,
    /// Mend a damaged data disk at the cost of what is damaged (`e2fsck -y`).
    pub repair_disk: bool,
    /// Say more in the log.
    pub debug: bool,
}

/// Where the guest has a file of [`Setup::registry_files`].
pub fn registry_file(index: usize) -> std::path::PathBuf {
    format!("/run/kiln/registry/{index}.pem").into()
}

/// One interface with a fixed address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Address and prefix: `10.0.2.15/24`. Empty: no network.
    pub address: String,
    /// The way out.
    pub gateway: String,
    /// Who answers for names.
    pub nameservers: Vec<String>,
    /// Domains to look names up in.
    pub search: Vec<String>,
    /// Addresses that lead to the host's own loopback, which neither the guest nor steps may reach: a prefix.
    /// Name servers and `allowed` are exempt.
    pub closed: String,
    /// Exempt addresses.
    pub allowed: Vec<String>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            address: "10.0.2.15/24".to_owned(),
            gateway: "10.0.2.2".to_owned(),
            nameservers: vec!["10.0.2.3".to_owned()],
            search: Vec::new(),
            closed: "10.0.2.0/24".to_owned(),
            allowed: Vec::new(),
        }
    }
}

/// Proxies, as the variables of these names have them; empty is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proxy {
    /// `HTTP_PROXY`.
    pub http: String,
    /// `HTTPS_PROXY`.
    pub https: String,
    /// `NO_PROXY`.
    pub none_for: String,
}

/// What the guest says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Report {
    /// It boots.
    Starting {
        /// What it does: `disk`, `network`, `engine`.
        step: String,
    },
    /// The engine answers.
    Ready {
        /// The daemon's version.
        version: String,
        /// What went wrong without keeping it from working.
        warnings: Vec<String>,
    },
    /// It can't work, and says why.
    Failed {
        /// For a person.
        reason: String,
        /// What to do next; empty if nobody knows.
        hint: String,
    },
    /// It ends its work and powers off.
    Stopping,
}

/// The host's end of the stream.
#[derive(Debug)]
pub struct Reports(Stream);

/// The guest's end of the stream.
#[derive(Debug)]
pub struct Reporter(Stream);

impl Link {
    /// Sets the guest up, and listens to it from then on.
    pub async fn set_up(&self, setup: &Setup) -> Result<Reports, LinkError> {
        let mut stream = self.open(Service::Machine).await?;
        send(&mut stream, setup).await?;
        Ok(Reports(stream))
    }
}

impl Reports {
    /// The next report; `None` once the guest has said its last.
    pub async fn next(&mut self) -> Result<Option<Report>, LinkError> {
        receive(&mut self.0, MAX_REPORT).await
    }
}

impl Reporter {
    /// Takes the host's setup from a stream of [`Service::Machine`].
    pub async fn accept(mut stream: Stream) -> Result<(Setup, Self), LinkError> {
        let setup = receive(&mut stream, MAX_SETUP).await?;
        let setup = setup.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok((setup, Self(stream)))
    }

    /// Tells the host.
    pub async fn tell(&mut self, report: &Report) -> Result<(), LinkError> {
        send(&mut self.0, report).await
    }
}

async fn send(stream: &mut Stream, message: &impl Serialize) -> Result<(), LinkError> {
    let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_u32_le(length).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}

async fn receive<T: DeserializeOwned>(
    stream: &mut Stream,
    limit: usize,
) -> Result<Option<T>, LinkError> {
    let length = match stream.read_u32_le().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if length > limit {
        return Err(LinkError::TooLong { length, limit });
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    let message = serde_json::from_slice(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some(message))
}
