//! What packets of steps may do, as a table of nf_tables.
//!
//! ```text
//! into this machine   from the bridge: answers; the offered ports; else refused
//! through it          to the bridge: answers only, so nobody reaches a step, another step neither
//!                     from the bridge: only with an address of its net, only IPv4;
//!                     name servers on port 53; closed nets not; everything else
//! out of it           from the bridge's net: with this machine's address
//! ```
//! What is refused gets an answer, so that a step sees an error instead of waiting.
//!
//! A name server is exempt from a closed net with its port only: QEMU's user network takes its other ports to the host
//! that answers for names, which may be the machine it runs on.

use std::io;
use std::net::Ipv4Addr;

use rustix::net::netlink;

use crate::Rules;
use crate::addresses::Subnet;
use crate::message::{CREATE, Message, Socket};

const TABLE_ADD: u16 = 0;
const TABLE_REMOVE: u16 = 2;
const CHAIN_ADD: u16 = 3;
const RULE_ADD: u16 = 6;
const APPEND: u16 = 0x800;
const INET: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS: u16 = 53;

/// A chain, by where the kernel hangs it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    Input,
    Forward,
    Leaving,
}

impl Chain {
    const ALL: [Self; 3] = [Self::Input, Self::Forward, Self::Leaving];

    /// Its name, its type, its hook, its priority.
    fn hook(self) -> (&'static str, &'static str, u32, i32) {
        match self {
            Self::Input => ("input", "filter", 1, 0),
            Self::Forward => ("forward", "filter", 2, 0),
            Self::Leaving => ("leaving", "nat", 4, 100),
        }
    }
}

/// A part of a rule: it must hold, or it says what becomes of the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    From(String),
    To(String),
    NotTo(String),
    V4,
    V6,
    Source(Subnet),
    SourceOutside(Subnet),
    Destination(Subnet),
    Port(u8, u16),
    Answer,
    Accept,
    Drop,
    /// A reset for TCP: unlike other refusals the kernel sends any number of them.
    Reset,
    Refuse,
    Masquerade,
}

fn rules(bridge: &str, subnet: Subnet, rules: &Rules) -> Vec<(Chain, Vec<Part>)> {
    use Part::{
        Accept, Answer, Destination, Drop, From, Masquerade, NotTo, Port, Refuse, Reset, Source,
        SourceOutside, To, V4, V6,
    };
    let from = || From(bridge.to_owned());
    let to = || To(bridge.to_owned());
    let mut all = vec![(Chain::Input, vec![from(), Answer, Accept])];
    let gateway = Subnet::one(subnet.gateway());
    for port in &rules.offered {
        let parts = vec![
            from(),
            V4,
            Source(subnet),
            Destination(gateway),
            Port(TCP, *port),
            Accept,
        ];
        all.push((Chain::Input, parts));
    }
    let refuse = |all: &mut Vec<_>, chain, parts: Vec<Part>| {
        for end in [Reset, Refuse] {
            all.push((chain, [&parts[..], &[end]].concat()));
        }
    };
    refuse(&mut all, Chain::Input, vec![from()]);
    all.push((Chain::Forward, vec![to(), Answer, Accept]));
    refuse(&mut all, Chain::Forward, vec![to()]);
    all.push((Chain::Forward, vec![from(), V6, Drop]));
    all.push((
        Chain::Forward,
        vec![from(), V4, SourceOutside(subnet), Drop],
    ));
    for server in &rules.nameservers {
        for protocol in [UDP, TCP] {
            let server = Subnet::one(*server);
            let parts = vec![from(), V4, Destination(server), Port(protocol, DNS), Accept];
            all.push((Chain::Forward, parts));
        }
    }
    for closed in &rules.closed {
        let parts = vec![from(), V4, Destination(*closed)];
        refuse(&mut all, Chain::Forward, parts);
    }
    all.push((
        Chain::Leaving,
        vec![NotTo(bridge.to_owned()), V4, Source(subnet), Masquerade],
    ));
    all
}

/// The table of one bridge.
#[derive(Debug)]
pub(crate) struct Firewall {
    socket: Socket,
    name: String,
}

impl Firewall {
    pub(crate) fn open(bridge: &str) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::open(Some(netlink::NETFILTER))?,
            name: format!("kiln-{bridge}"),
        })
    }

    /// Puts the rules in the place of what is there, in one step.
    pub(crate) fn install(
        &mut self,
        bridge: &str,
        subnet: Subnet,
        wanted: &Rules,
    ) -> io::Result<()> {
        // What isn't there can't be removed, so it is made first.
        let mut batch = vec![self.table(TABLE_ADD, CREATE), self.table(TABLE_REMOVE, 0)];
        batch.push(self.table(TABLE_ADD, CREATE));
        for chain in Chain::ALL {
            let (name, kind, hook, priority) = chain.hook();
            let mut message = message(CHAIN_ADD, CREATE);
            message.text(1, &self.name);
            message.text(3, name);
            message.nested(4, |at| {
                at.number(1, hook);
                at.number(2, priority as u32);
            });
            message.text(7, kind);
            batch.push(message);
        }
        for (chain, parts) in rules(bridge, subnet, wanted) {
            let mut message = message(RULE_ADD, CREATE | APPEND);
            message.text(1, &self.name);
            message.text(2, chain.hook().0);
            message.nested(4, |list| parts.iter().for_each(|part| write(part, list)));
            batch.push(message);
        }
        self.commit(batch)
    }

    pub(crate) fn remove(&mut self) -> io::Result<()> {
        let batch = vec![self.table(TABLE_ADD, CREATE), self.table(TABLE_REMOVE, 0)];
        self.commit(batch)
    }

    fn table(&self, kind: u16, flags: u16) -> Message {
        let mut message = message(kind, flags);
        message.text(1, &self.name);
        message
    }

    fn commit(&mut self, batch: Vec<Message>) -> io::Result<()> {
        const BEGIN: u16 = 0x10;
        const END: u16 = 0x11;
        // Their last field names the part of netfilter that is meant.
        let mark = |kind| Message::silent(kind, 0, &[0, 0, 0, SUBSYSTEM]);
        let mut all = vec![mark(BEGIN)];
        all.extend(batch);
        all.push(mark(END));
        self.socket.talk(all).map(drop)
    }
}

const SUBSYSTEM: u8 = 10;

fn message(kind: u16, flags: u16) -> Message {
    Message::new(u16::from(SUBSYSTEM) << 8 | kind, flags, &[INET, 0, 0, 0])
}

/// What the kernel's small machine for packets does, one after the other, with one register.
fn write(part: &Part, list: &mut Message) {
    const INPUT_NAME: u32 = 6;
    const OUTPUT_NAME: u32 = 7;
    const FAMILY: u32 = 15;
    const PROTOCOL: u32 = 16;
    const SOURCE_AT: u32 = 12;
    const DESTINATION_AT: u32 = 16;
    match part {
        Part::From(name) => meta(list, INPUT_NAME, &padded(name), true),
        Part::To(name) => meta(list, OUTPUT_NAME, &padded(name), true),
        Part::NotTo(name) => meta(list, OUTPUT_NAME, &padded(name), false),
        Part::V4 => meta(list, FAMILY, &[2], true),
        Part::V6 => meta(list, FAMILY, &[10], true),
        Part::Source(net) => address(list, SOURCE_AT, *net, true),
        Part::SourceOutside(net) => address(list, SOURCE_AT, *net, false),
        Part::Destination(net) => address(list, DESTINATION_AT, *net, true),
        Part::Port(protocol, port) => {
            meta(list, PROTOCOL, &[*protocol], true);
            load(list, 2, 2, 2);
            compare(list, &port.to_be_bytes(), true);
        }
        Part::Answer => {
            const STATE: u32 = 0;
            const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
            expression(list, "ct", |data| {
                data.number(1, REGISTER);
                data.number(2, STATE);
            });
            mask(list, ESTABLISHED_OR_RELATED.to_ne_bytes());
            compare(list, &[0; 4], false);
        }
        Part::Accept => verdict(list, 1),
        Part::Drop => verdict(list, 0),
        Part::Reset => {
            meta(list, PROTOCOL, &[TCP], true);
            expression(list, "reject", |data| data.number(1, 1));
        }
        Part::Refuse => expression(list, "reject", |data| {
            // Of either family: this port is unreachable.
            data.number(1, 2);
            data.attribute(2, &[1]);
        }),
        Part::Masquerade => expression(list, "masq", |_| {}),
    }
}

const REGISTER: u32 = 1;

fn expression(list: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    list.nested(1, |element| {
        element.text(1, name);
        element.nested(2, fill);
    });
}

fn meta(list: &mut Message, key: u32, value: &[u8], equal: bool) {
    expression(list, "meta", |data| {
        data.number(1, REGISTER);
        data.number(2, key);
    });
    compare(list, value, equal);
}

/// Loads bytes of the network's (1) or the transport's (2) header.
fn load(list: &mut Message, header: u32, offset: u32, length: u32) {
    expression(list, "payload", |data| {
        data.number(1, REGISTER);
        data.number(2, header);
        data.number(3, offset);
        data.number(4, length);
    });
}

fn address(list: &mut Message, offset: u32, net: Subnet, inside: bool) {
    load(list, 1, offset, 4);
    mask(list, Ipv4Addr::from(net.mask()).octets());
    compare(list, &net.network().octets(), inside);
}

fn mask(list: &mut Message, mask: [u8; 4]) {
    expression(list, "bitwise", |data| {
        data.number(1, REGISTER);
        data.number(2, REGISTER);
        data.number(3, 4);
        data.nested(4, |value| value.attribute(1, &mask));
        data.nested(5, |value| value.attribute(1, &[0; 4]));
    });
}

fn compare(list: &mut Message, value: &[u8], equal: bool) {
    expression(list, "cmp", |data| {
        data.number(1, REGISTER);
        data.number(2, u32::from(!equal));
        data.nested(3, |data| data.attribute(1, value));
    });
}

fn verdict(list: &mut Message, code: u32) {
    const VERDICT: u32 = 0;
    expression(list, "immediate", |data| {
        data.number(1, VERDICT);
        data.nested(2, |data| data.nested(2, |verdict| verdict.number(1, code)));
    });
}

/// A name as the kernel compares them.
fn padded(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    bytes
}
