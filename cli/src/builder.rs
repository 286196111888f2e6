//! Which builder a command talks to.
//!
//! The first of: `--builder`, `KILN_HOST`, `BUILDKIT_HOST`; else Kiln's own machine, whose owner is started
//! where it doesn't run, and which is woken.

use std::time::Duration;

use futures::StreamExt as _;
use kiln_client::build::BuilderKind;
use kiln_client::host::State;
use kiln_client::{Address, Client, HostClient};
use kiln_config::HostPaths;
use tokio::time::timeout;

use crate::failure::{Failure, Kind, Outcome};
use crate::machine::wake;

/// Environment variables that name a builder, by their precedence.
const VARIABLES: [&str; 2] = ["KILN_HOST", "BUILDKIT_HOST"];
/// What names Kiln's own machine.
const OWN: &str = "kiln";

/// A machine that breaks off is found out a moment after its streams are.
const PATIENCE: Duration = Duration::from_secs(5);

/// A builder and how it is called.
#[derive(Debug, Clone)]
pub(crate) struct Builder {
    pub(crate) address: Address,
    /// For people.
    pub(crate) label: String,
    /// Whether it is Kiln's own machine.
    pub(crate) is_own: bool,
}

/// Kiln's directories of this user.
pub(crate) fn paths() -> Outcome<HostPaths> {
    let user = rustix::process::getuid().as_raw();
    HostPaths::of_user(user).map_err(|error| Failure::new(Kind::Config, error.to_string()))
}

/// Why the machine isn't there any more, as soon as its owner knows.
async fn end_of_the_machine() -> Option<String> {
    let host = HostClient::connect(&paths().ok()?).await.ok()?;
    let mut changes = host.watch_status().await.ok()?;
    while let Some(Ok(status)) = changes.next().await {
        if status.state() == State::Failed {
            return Some(status.reason);
        }
    }
    None
}

impl Builder {
    /// The builder that was asked for, without connecting.
    pub(crate) fn find(flag: Option<&str>) -> Outcome<Self> {
        let of_environment = || {
            let mut names = VARIABLES.into_iter();
            names.find_map(|name| {
                let value = std::env::var(name).ok().filter(|value| !value.is_empty());
                Some((name, value?))
            })
        };
        let named = flag.map(|value| ("--builder", value.to_owned()));
        let named = named.or_else(of_environment);
        let Some((source, value)) = named.filter(|(_, value)| value != OWN) else {
            return Ok(Self {
                // The agent's socket serves BuildKit's API too, and doesn't keep an idle machine awake.
                address: Address::Unix(paths()?.agent_socket()),
                label: OWN.to_owned(),
                is_own: true,
            });
        };
        let address: Address = value.parse().map_err(|error: kiln_client::Error| {
            Failure::user(format!("{source}: {error}")).hint(
                "a builder is unix:///path, tcp://host:port or docker:///path of Docker's socket",
            )
        })?;
        Ok(Self {
            label: address.to_string(),
            address,
            is_own: false,
        })
    }

    /// Connects; Kiln's own machine is woken, and its owner started where it doesn't run.
    pub(crate) async fn connect(&self) -> Outcome<Client> {
        if self.is_own {
            wake(&HostClient::connect_or_start(&paths()?).await?).await?;
        }
        Client::connect(&self.address).await.map_err(|error| {
            let failure = Failure::from(error);
            if self.is_own {
                failure.hint("`kiln status` and `kiln doctor` say what the machine is at")
            } else {
                failure.hint("is the daemon running, and may you open its socket?")
            }
        })
    }

    /// What failed in the middle, with the reason where Kiln's own machine is gone.
    pub(crate) async fn explain(&self, failure: Failure) -> Failure {
        if !self.is_own || !failure.may_be_the_builder() {
            return failure;
        }
        match timeout(PATIENCE, end_of_the_machine()).await {
            Ok(Some(reason)) => Failure::new(Kind::Unavailable, reason)
                .hint("`kiln logs` shows its console; the next command starts it again"),
            Ok(None) | Err(_) => failure,
        }
    }

    pub(crate) fn kind(&self) -> BuilderKind {
        match self.address {
            Address::Docker(_) => BuilderKind::Docker,
            Address::Unix(_) | Address::Tcp(_) => BuilderKind::BuildKit,
        }
    }
}
