//! The few words of rtnetlink that networks are made with (rtnetlink(7)).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::message::{CREATE, EXCLUSIVE, Message, REPLACE, Socket, find};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const NEWNEIGH: u16 = 28;
const INET: u8 = 2;
const BRIDGE: u8 = 7;
const UP: u32 = 1;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Attributes of an interface.
mod link {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const NAME: u16 = 3;
    pub(super) const MASTER: u16 = 10;
    pub(super) const PORT: u16 = 12;
    pub(super) const INFO: u16 = 18;
    pub(super) const ALIAS: u16 = 20;
    pub(super) const NAMESPACE: u16 = 28;
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const INFO_DATA: u16 = 2;
    pub(super) const VETH_PEER: u16 = 1;
    pub(super) const PORT_LEARNING: u16 = 8;
    pub(super) const PORT_ISOLATED: u16 = 33;
}

/// Where packets for a prefix go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To this neighbour of an interface.
    Gateway(u32, Ipv4Addr),
    /// Straight out of an interface.
    Link(u32),
    /// Nowhere: the sender gets an error.
    Unreachable,
}

/// An interface that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub index: u32,
    /// What somebody wrote on it.
    pub alias: Option<String>,
}

/// The kernel's tables of the network that the opening thread was in.
#[derive(Debug)]
pub struct Netlink(Socket);

impl Netlink {
    /// Opens them.
    pub fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is protocol 0.
        Ok(Self(Socket::open(None)?))
    }

    fn send(&mut self, message: Message) -> io::Result<()> {
        self.0.talk(vec![message]).map(drop)
    }

    /// The interface of this name.
    pub fn find(&mut self, name: &str) -> io::Result<Option<Found>> {
        let mut message = Message::new(GETLINK, 0, &interface(0, 0));
        message.text(link::NAME, name);
        let answers = match self.0.talk(vec![message]) {
            Ok(answers) => answers,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let found = answers.first().and_then(|body| {
            let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
            let alias = find(body.get(16..)?, link::ALIAS).map(|alias| {
                let text = String::from_utf8_lossy(alias);
                text.trim_end_matches('\0').to_owned()
            });
            Some(Found { index, alias })
        });
        found
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "rtnetlink"))
    }

    /// Turns an interface on.
    pub fn up(&mut self, index: u32) -> io::Result<()> {
        self.send(Message::new(NEWLINK, 0, &interface(index, UP)))
    }

    /// Removes an interface.
    pub fn remove(&mut self, index: u32) -> io::Result<()> {
        self.send(Message::new(DELLINK, 0, &interface(index, 0)))
    }

    /// Makes a bridge that says whose it is.
    pub fn add_bridge(&mut self, name: &str, mac: Mac, alias: &str) -> io::Result<()> {
        let mut message = Message::new(NEWLINK, CREATE | EXCLUSIVE, &interface(0, 0));
        message.text(link::NAME, name);
        message.attribute(link::ADDRESS, &mac);
        message.nested(link::INFO, |info| info.text(link::INFO_KIND, "bridge"));
        self.send(message)?;
        // The kernel takes a name at the making, but not an alias.
        let mut message = Message::new(SETLINK, 0, &interface(0, 0));
        message.text(link::NAME, name);
        message.attribute(link::ALIAS, alias.as_bytes());
        self.send(message)
    }

    /// Makes two interfaces that are each other's wire, the second in another network.
    pub fn add_pair(
        &mut self,
        name: &str,
        peer: &str,
        peer_mac: Mac,
        namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut message = Message::new(NEWLINK, CREATE | EXCLUSIVE, &interface(0, 0));
        message.text(link::NAME, name);
        message.nested(link::INFO, |info| {
            info.text(link::INFO_KIND, "veth");
            info.nested(link::INFO_DATA, |data| {
                data.nested(link::VETH_PEER, |other| {
                    other.raw(&interface(0, 0));
                    other.text(link::NAME, peer);
                    other.attribute(link::ADDRESS, &peer_mac);
                    let namespace = namespace.as_raw_fd() as u32;
                    other.attribute(link::NAMESPACE, &namespace.to_ne_bytes());
                });
            });
        });
        self.send(message)
    }

    /// Makes an interface a port of a bridge from which only the bridge itself is reached, and behind which nobody
    /// is found but who is named by [`Self::behind`].
    pub fn isolated_port(&mut self, index: u32, bridge: u32) -> io::Result<()> {
        let mut message = Message::new(NEWLINK, 0, &interface(index, 0));
        message.attribute(link::MASTER, &bridge.to_ne_bytes());
        self.send(message)?;
        let mut body = interface(index, 0);
        body[0] = BRIDGE;
        let mut message = Message::new(SETLINK, 0, &body);
        message.nested(link::PORT, |port| {
            port.attribute(link::PORT_LEARNING, &[0]);
            port.attribute(link::PORT_ISOLATED, &[1]);
        });
        self.send(message)
    }

    /// Tells a bridge who is behind a port of it.
    pub fn behind(&mut self, port: u32, mac: Mac) -> io::Result<()> {
        const STATIC: u16 = 0x40;
        const OF_THE_MASTER: u8 = 4;
        let body = neighbour(BRIDGE, port, STATIC, OF_THE_MASTER);
        let mut message = Message::new(NEWNEIGH, CREATE | REPLACE, &body);
        message.attribute(2, &mac);
        self.send(message)
    }

    /// Fixes the Ethernet address of a neighbour: nobody is asked, and nobody can answer for it.
    pub fn neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> io::Result<()> {
        const PERMANENT: u16 = 0x80;
        let body = neighbour(INET, index, PERMANENT, 0);
        let mut message = Message::new(NEWNEIGH, CREATE | REPLACE, &body);
        message.attribute(1, &address.octets());
        message.attribute(2, &mac);
        self.send(message)
    }

    /// Gives an interface an address.
    pub fn address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut body = vec![INET, prefix, 0, 0];
        body.extend(index.to_ne_bytes());
        let mut message = Message::new(NEWADDR, CREATE | REPLACE, &body);
        message.attribute(2, &address.octets());
        message.attribute(1, &address.octets());
        self.send(message)
    }

    /// Adds a route.
    pub fn route(&mut self, to: Ipv4Addr, prefix: u8, way: Way) -> io::Result<()> {
        const MAIN: u8 = 254;
        const STATIC: u8 = 4;
        const SCOPE_UNIVERSE: u8 = 0;
        const SCOPE_LINK: u8 = 253;
        const UNICAST: u8 = 1;
        const UNREACHABLE: u8 = 7;
        const ON_LINK: u32 = 4;
        let (scope, kind, flags) = match way {
            Way::Gateway(..) => (SCOPE_UNIVERSE, UNICAST, ON_LINK),
            Way::Link(_) => (SCOPE_LINK, UNICAST, 0),
            Way::Unreachable => (SCOPE_UNIVERSE, UNREACHABLE, 0),
        };
        let mut body = vec![INET, prefix, 0, 0, MAIN, STATIC, scope, kind];
        body.extend(flags.to_ne_bytes());
        let mut message = Message::new(NEWROUTE, CREATE | REPLACE, &body);
        message.attribute(1, &to.octets());
        if let Way::Gateway(_, gateway) = way {
            message.attribute(5, &gateway.octets());
        }
        if let Way::Gateway(index, _) | Way::Link(index) = way {
            message.attribute(4, &index.to_ne_bytes());
        }
        self.send(message)
    }
}

/// The fixed part of messages about interfaces: `flags` are those that are set, and that change.
fn interface(index: u32, flags: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..].copy_from_slice(&flags.to_ne_bytes());
    body
}

/// The fixed part of messages about neighbours.
fn neighbour(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut body = [0; 12];
    body[0] = family;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..10].copy_from_slice(&state.to_ne_bytes());
    body[10] = flags;
    body
}
