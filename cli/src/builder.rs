//! Which builder a command talks to.
//!
//! The first of: `--builder`, `KILN_HOST`, `BUILDKIT_HOST`; else Kiln's own machine, whose owner is started
//! where it doesn't run, and which is woken.

use kiln_client::build::BuilderKind;
use kiln_client::{Address, Client, HostClient};
use kiln_config::HostPaths;

use crate::failure::{Failure, Kind, Outcome};
use crate::machine::wake;

/// Environment variables that name a builder, by their precedence.
const VARIABLES: [&str; 2] = ["KILN_HOST", "BUILDKIT_HOST"];
/// What names Kiln's own machine.
const OWN: &str = "kiln";

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

    pub(crate) fn kind(&self) -> BuilderKind {
        match self.address {
            Address::Docker(_) => BuilderKind::Docker,
            Address::Unix(_) | Address::Tcp(_) => BuilderKind::BuildKit,
        }
    }
}
