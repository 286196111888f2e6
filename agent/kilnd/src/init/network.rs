//! The guest's network: one interface with a fixed address, as the host said.
//!
//! Behind QEMU's user network every address of its net but the name server's leads to the host's own loopback.
//! So the interface has no net: the gateway is reached as a neighbour, name servers and allowed addresses have
//! routes, and the rest of `closed` is unreachable for the guest and for steps that use its network. Steps have
//! networks of their own, with rules of their own ([`rules`]).

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kiln_link::machine::{Network, Setup};
use kiln_network::Rules;
use kiln_network::route::{Netlink, Way};

const LOOPBACK: u32 = 1;
const PATIENCE: Duration = Duration::from_secs(10);

/// What is done to have a network, in this order.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    address: (Ipv4Addr, u8),
    routes: Vec<(Ipv4Addr, u8, Hop)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Hop {
    Gateway(Ipv4Addr),
    Neighbour,
    Closed,
}

/// The loopback interface, which is all that a machine without a network has.
pub(super) fn loopback() -> anyhow::Result<()> {
    Ok(Netlink::open()?.up(LOOPBACK)?)
}

/// Configures the first real interface. `network` has an address.
pub(super) fn configure(network: &Network) -> anyhow::Result<()> {
    let plan = plan(network)?;
    let index = interface()?;
    let mut netlink = Netlink::open()?;
    netlink.up(index).context("turning the interface on")?;
    netlink
        .address(index, plan.address.0, plan.address.1)
        .with_context(|| network.address.clone())?;
    for (to, prefix, hop) in plan.routes {
        let way = match hop {
            Hop::Gateway(gateway) => Way::Gateway(index, gateway),
            Hop::Neighbour => Way::Link(index),
            Hop::Closed => Way::Unreachable,
        };
        netlink
            .route(to, prefix, way)
            .with_context(|| format!("route to {to}/{prefix}"))?;
    }
    Ok(())
}

/// `resolv.conf` of the guest, which steps get as well.
pub(super) fn resolver(network: &Network) -> String {
    let mut text = String::new();
    for server in &network.nameservers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !network.search.is_empty() {
        let _ = writeln!(text, "search {}", network.search.join(" "));
    }
    text
}

/// What steps may do: the same as the guest, with name servers as such only, and the ports that the host offers.
pub(super) fn rules(setup: &Setup) -> anyhow::Result<Rules> {
    let network = &setup.network;
    let closed = match network.closed.as_str() {
        "" => Vec::new(),
        closed => vec![closed.parse()?],
    };
    let nameservers = network.nameservers.iter();
    Ok(Rules {
        closed,
        nameservers: nameservers.filter_map(|text| text.parse().ok()).collect(),
        offered: setup.forward.clone(),
    })
}

fn plan(network: &Network) -> anyhow::Result<Plan> {
    let parse = |text: &str| {
        text.parse::<Ipv4Addr>()
            .with_context(|| format!("network: {text:?} is no address"))
    };
    let (address, prefix) = net(&network.address)?;
    let gateway = parse(&network.gateway)?;
    let mut routes = Vec::new();
    if network.closed.is_empty() {
        routes.push((Ipv4Addr::UNSPECIFIED, 0, Hop::Gateway(gateway)));
        return Ok(Plan {
            address: (address, prefix),
            routes,
        });
    }
    let (closed, closed_prefix) = net(&network.closed)?;
    routes.push((closed, closed_prefix, Hop::Closed));
    for open in network.nameservers.iter().chain(&network.allowed) {
        routes.push((parse(open)?, 32, Hop::Neighbour));
    }
    routes.push((Ipv4Addr::UNSPECIFIED, 0, Hop::Gateway(gateway)));
    Ok(Plan {
        address: (address, 32),
        routes,
    })
}

fn net(text: &str) -> anyhow::Result<(Ipv4Addr, u8)> {
    let Some((address, prefix)) = text.split_once('/') else {
        bail!("network: {text:?}: ADDRESS/PREFIX is wanted");
    };
    let prefix: u8 = prefix.parse().unwrap_or(u8::MAX);
    if prefix > 32 {
        bail!("network: {text:?}: a prefix of 0 to 32 is wanted");
    }
    let address = address
        .parse()
        .with_context(|| format!("network: {text:?}"))?;
    Ok((address, prefix))
}

/// The number of the one interface that has a device behind it.
fn interface() -> anyhow::Result<u32> {
    let end = Instant::now() + PATIENCE;
    loop {
        for entry in fs::read_dir("/sys/class/net")?.flatten() {
            if Path::new(&entry.path()).join("device").exists() {
                let index = fs::read_to_string(entry.path().join("ifindex"))?;
                return Ok(index.trim().parse()?);
            }
        }
        if Instant::now() > end {
            bail!("the machine has no network interface");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn the_hosts_loopback_is_closed_but_for_what_is_named() {
        let network = Network {
            allowed: vec!["10.0.2.100".to_owned()],
            ..Network::default()
        };
        let plan = plan(&network).unwrap();
        assert_eq!(plan.address, (ip("10.0.2.15"), 32));
        assert_eq!(
            plan.routes,
            [
                (ip("10.0.2.0"), 24, Hop::Closed),
                (ip("10.0.2.3"), 32, Hop::Neighbour),
                (ip("10.0.2.100"), 32, Hop::Neighbour),
                (ip("0.0.0.0"), 0, Hop::Gateway(ip("10.0.2.2"))),
            ]
        );
    }

    #[test]
    fn a_network_without_a_closed_part_is_an_ordinary_one() {
        let network = Network {
            address: "192.168.7.9/20".to_owned(),
            gateway: "192.168.0.1".to_owned(),
            closed: String::new(),
            ..Network::default()
        };
        let plan = plan(&network).unwrap();
        assert_eq!(plan.address, (ip("192.168.7.9"), 20));
        assert_eq!(
            plan.routes,
            [(ip("0.0.0.0"), 0, Hop::Gateway(ip("192.168.0.1")))]
        );
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (address, gateway) in [
            ("10.0.2.15", "10.0.2.2"),
            ("10.0.2.15/33", "10.0.2.2"),
            ("x/24", "10.0.2.2"),
            ("10.0.2.15/24", "gateway"),
        ] {
            let network = Network {
                address: address.to_owned(),
                gateway: gateway.to_owned(),
                ..Network::default()
            };
            let error = plan(&network).unwrap_err();
            assert!(format!("{error:#}").contains("network: "), "{error:#}");
        }
    }

    #[test]
    fn the_resolver_gets_servers_and_domains() {
        let network = Network {
            search: vec!["a.example".to_owned(), "b.example".to_owned()],
            ..Network::default()
        };
        assert_eq!(
            resolver(&network),
            "nameserver 10.0.2.3\nsearch a.example b.example\n"
        );
    }
}
