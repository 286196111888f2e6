//! Networks of steps: a bridge of Kiln's, namespaces that wait for steps, and the rules for their packets.
//!
//! ```text
//! step ─ eth0 10.207.x.y/32 ═══ isolated port ─ bridge 10.207.0.1 ─ nf_tables ─ masquerade ─► outside
//!        (its own namespace)                         └─ offered ports of this machine, nothing else
//! ```
//! A namespace is made ahead, with its addresses, routes and neighbours, and goes back to the pool after a step: a step
//! has nothing to wait for. It is held by descriptor, so a daemon that dies leaves none behind.
//!
//! Invariants: steps reach neither each other nor what this machine serves, but for the offered ports; what is named
//! as closed isn't reached either; a step that had rights over its network leaves it to nobody. Only IPv4 leaves.

mod addresses;
mod bridge;
mod firewall;
mod message;
pub mod route;

use std::io;
use std::net::Ipv4Addr;

pub use addresses::Subnet;
pub use bridge::{Bridge, Lease};

/// What a bridge is called where nobody names it.
pub const DEFAULT_BRIDGE: &str = "kiln0";
/// Its net.
pub const DEFAULT_SUBNET: &str = "10.207.0.0/16";

/// A bridge to be.
#[derive(Debug, Clone)]
pub struct BridgeConfig {
    /// Its name: at most 15 bytes.
    pub name: String,
    /// Addresses of it and of steps.
    pub subnet: Subnet,
    /// Namespaces that are kept between steps.
    pub idle: usize,
    /// What steps may do.
    pub rules: Rules,
}

/// What steps may do beyond reaching everything outside.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Nets that they may not reach.
    pub closed: Vec<Subnet>,
    /// Servers in closed nets that may be asked for names.
    pub nameservers: Vec<Ipv4Addr>,
    /// TCP ports of the bridge's own address that they may reach.
    pub offered: Vec<u16>,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Not a net.
    #[error("{0:?}: a net such as {DEFAULT_SUBNET} is wanted")]
    Subnet(String),
    /// A net without room for steps.
    #[error("the net {0} of the bridge has no room: a prefix of 8 to 29 is wanted")]
    NoRoom(Subnet),
    /// A name that no interface can have.
    #[error("{0:?} can't be the name of a bridge: 1 to 15 letters, digits, '-' and '_' are wanted")]
    Name(String),
    /// Somebody else's.
    #[error(
        "the interface {0} is there already and isn't a bridge of Kiln's: name another one (bridgeName)"
    )]
    Foreign(String),
    /// Another daemon's.
    #[error("another daemon uses the bridge {0}: name another one (bridgeName, bridgeSubnet)")]
    InUse(String),
    /// All addresses are given out.
    #[error("all addresses of {0} are in use: name a larger net (bridgeSubnet)")]
    Full(Subnet),
    /// The kernel has no packet filter, or refuses it.
    #[error(
        "no packet filter for steps: {0}; the network mode \"bridge\" needs nf_tables with ct, masq and reject in the kernel"
    )]
    Filter(#[source] io::Error),
    /// The kernel refused.
    #[error("{action}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn tried(action: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::Kernel { action, source }
}
