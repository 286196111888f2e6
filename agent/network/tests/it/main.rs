//! The bridge in a network of its own, with an outside that stands for QEMU's user network and the world behind it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use kiln_network::route::{Netlink, Way};
use kiln_network::{Bridge, BridgeConfig, Lease, NetworkError, Rules};
use kiln_sys::netns::NetNs;

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const NAMES: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Where nobody answers in any other way than by silence the test fails.
const PATIENCE: Duration = Duration::from_secs(5);

fn config() -> BridgeConfig {
    BridgeConfig {
        name: "kiln0".to_owned(),
        subnet: "10.9.0.0/24".parse().unwrap(),
        idle: 4,
        rules: Rules {
            closed: vec!["10.0.2.0/24".parse().unwrap()],
            nameservers: vec![NAMES],
            offered: vec![5000],
        },
    }
}

/// A guest (where the bridge is) with a wire to the outside.
struct Place {
    guest: NetNs,
    outside: NetNs,
}

impl Place {
    fn new() -> Self {
        let open = || {
            let mut netlink = Netlink::open().unwrap();
            netlink.up(1).unwrap();
            netlink
        };
        let (guest, mut in_guest) = NetNs::create(open).unwrap();
        let (outside, mut in_outside) = NetNs::create(open).unwrap();
        let mac = [2, 0, 0, 0, 0, 1];
        in_guest
            .add_pair("eth0", "wire", mac, outside.as_fd())
            .unwrap();
        let wire = in_outside.find("wire").unwrap().unwrap().index;
        for address in [OUTSIDE, HOST, NAMES] {
            in_outside.address(wire, address, 32).unwrap();
        }
        in_outside.up(wire).unwrap();
        in_outside.route(GUEST, 32, Way::Link(wire)).unwrap();
        let eth0 = in_guest.find("eth0").unwrap().unwrap().index;
        in_guest.address(eth0, GUEST, 24).unwrap();
        in_guest.up(eth0).unwrap();
        let way = Way::Gateway(eth0, HOST);
        in_guest.route(Ipv4Addr::UNSPECIFIED, 0, way).unwrap();
        Self { guest, outside }
    }
}

/// Answers every connection with the address that it came from, until it is dropped.
fn serve(place: &NetNs, port: u16) {
    let listener = place
        .with(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap())
        .unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let from = stream.peer_addr().unwrap().ip().to_string();
            stream.write_all(from.as_bytes()).unwrap();
        }
    });
}

/// What a step sees: who it seems to be, or how it is refused.
fn ask(lease: &Lease, to: Ipv4Addr, port: u16) -> Result<String, ErrorKind> {
    lease
        .with(|| {
            let address = SocketAddr::from((to, port));
            let mut stream =
                TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| error.kind())?;
            let mut text = String::new();
            stream
                .read_to_string(&mut text)
                .map_err(|error| error.kind())?;
            Ok(text)
        })
        .unwrap()
}

#[test]
fn steps_reach_the_outside_and_what_is_offered_and_nothing_else() {
    let place = Place::new();
    for port in [53, 80, 5432] {
        serve(&place.outside, port);
    }
    for port in [1234, 5000] {
        serve(&place.guest, port);
    }
    let bridge = place
        .guest
        .with(|| Bridge::open(config()))
        .unwrap()
        .unwrap();
    let (one, two) = (bridge.take().unwrap(), bridge.take().unwrap());
    serve_in(&two, 80);
    let guest = GUEST.to_string();
    let refused = Err(ErrorKind::ConnectionRefused);
    for (to, port, expected) in [
        (OUTSIDE, 80, Ok(guest.clone())),
        (NAMES, 53, Ok(guest)),
        // QEMU takes other ports of it to a real host.
        (NAMES, 5432, refused.clone()),
        (HOST, 80, refused.clone()),
        (HOST, 53, refused.clone()),
        (GUEST, 1234, refused.clone()),
        (GUEST, 5000, refused.clone()),
        (bridge.gateway(), 1234, refused.clone()),
        (bridge.gateway(), 5000, Ok(one.address().to_string())),
        (two.address(), 80, refused),
    ] {
        assert_eq!(ask(&one, to, port), expected, "{to}:{port}");
    }
    // Nobody outside gets in, and what runs beside the bridge may.
    let outside = place.outside.with(|| {
        let mut netlink = Netlink::open().unwrap();
        let wire = netlink.find("wire").unwrap().unwrap().index;
        let way = Way::Gateway(wire, GUEST);
        netlink.route(two.address(), 32, way).unwrap();
        let address = SocketAddr::from((two.address(), 80));
        TcpStream::connect_timeout(&address, PATIENCE).map(drop)
    });
    assert_eq!(
        outside.unwrap().map_err(|error| error.kind()),
        Err(ErrorKind::ConnectionRefused)
    );
}

fn serve_in(lease: &Lease, port: u16) {
    let listener = lease
        .with(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap())
        .unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
        }
    });
}

#[test]
fn only_what_is_given_back_is_used_again() {
    let place = Place::new();
    let bridge = place
        .guest
        .with(|| Bridge::open(config()))
        .unwrap()
        .unwrap();
    let mut first = bridge.take().unwrap();
    let address = first.address();
    let mark = |lease: &Lease| {
        lease
            .with(|| {
                Netlink::open()
                    .unwrap()
                    .add_bridge("mark", [2; 6], "mark")
                    .is_ok()
            })
            .unwrap()
    };
    assert!(mark(&first));
    first.give_back();
    first = bridge.take().unwrap();
    assert_eq!(first.address(), address);
    assert!(!mark(&first), "it is the same one");
    drop(first);
    first = bridge.take().unwrap();
    assert_eq!(first.address(), address);
    assert!(mark(&first), "it is another one");
}

#[test]
fn a_bridge_is_one_daemons_and_a_dead_ones_is_replaced() {
    let place = Place::new();
    let open = || place.guest.with(|| Bridge::open(config())).unwrap();
    let bridge = open().unwrap();
    let error = open().unwrap_err();
    assert!(matches!(error, NetworkError::InUse(_)), "{error}");
    bridge.close();
    drop(bridge);
    let gone = |name: &str| {
        let find = || Netlink::open().unwrap().find(name).unwrap();
        place.guest.with(find).unwrap()
    };
    assert_eq!(gone("kiln0"), None);

    // One that is marked, with nobody who claims it, was left behind.
    let leave = |alias: &'static str| {
        let make = || Netlink::open().unwrap().add_bridge("kiln0", [2; 6], alias);
        place.guest.with(make).unwrap().unwrap();
    };
    leave("kiln");
    drop(open().unwrap());
    assert_eq!(gone("kiln0"), None);
    leave("somebody");
    let error = open().unwrap_err();
    assert!(matches!(error, NetworkError::Foreign(_)), "{error}");
    assert!(gone("kiln0").is_some());
}

#[test]
fn what_cannot_be_a_bridge_is_refused() {
    let with = |name: &str, subnet: &str| {
        let config = BridgeConfig {
            name: name.to_owned(),
            subnet: subnet.parse().unwrap(),
            ..config()
        };
        Bridge::open(config).unwrap_err().to_string()
    };
    assert!(with("", "10.0.0.0/16").contains("name of a bridge"));
    assert!(with("a/b", "10.0.0.0/16").contains("a/b"));
    assert!(with("a234567890123456", "10.0.0.0/16").contains("1 to 15"));
    assert!(with("k", "10.0.0.0/30").contains("no room"));
}

#[test]
fn all_addresses_can_be_in_use() {
    let place = Place::new();
    let config = BridgeConfig {
        subnet: "10.9.0.0/29".parse().unwrap(),
        ..config()
    };
    let bridge = place.guest.with(|| Bridge::open(config)).unwrap().unwrap();
    let leases: Vec<_> = (0..5).map(|_| bridge.take().unwrap()).collect();
    let error = bridge.take().unwrap_err();
    assert!(matches!(error, NetworkError::Full(_)), "{error}");
    drop(leases);
    bridge.take().unwrap();
}
