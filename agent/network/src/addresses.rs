//! Addresses of a bridge and of what is behind it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::NetworkError;

/// An IPv4 net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

impl Subnet {
    /// A single address.
    pub fn one(address: Ipv4Addr) -> Self {
        Self {
            network: address.into(),
            prefix: 32,
        }
    }

    /// Bits that are the same in all its addresses.
    pub(crate) fn mask(self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.prefix))
            .unwrap_or(0)
    }

    pub(crate) fn network(self) -> Ipv4Addr {
        self.network.into()
    }

    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    /// The bridge's own address: the first.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        (self.network + 1).into()
    }
}

impl FromStr for Subnet {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let address: Ipv4Addr = address.parse().ok()?;
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
            let net = Self { network: 0, prefix };
            Some(Self {
                network: u32::from(address) & net.mask(),
                prefix,
            })
        };
        parse().ok_or_else(|| NetworkError::Subnet(text.to_owned()))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

/// Those that may be given out. The net has room for at least one.
#[derive(Debug)]
pub(crate) struct Addresses {
    subnet: Subnet,
    /// None of these and above was ever given.
    fresh: u32,
    returned: BTreeSet<u32>,
}

impl Addresses {
    pub(crate) fn new(subnet: Subnet) -> Self {
        Self {
            subnet,
            fresh: subnet.network + 2,
            returned: BTreeSet::new(),
        }
    }

    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        if let Some(address) = self.returned.pop_first() {
            return Some(address.into());
        }
        let broadcast = self.subnet.network | !self.subnet.mask();
        (self.fresh < broadcast).then(|| {
            self.fresh += 1;
            (self.fresh - 1).into()
        })
    }

    pub(crate) fn give_back(&mut self, address: Ipv4Addr) {
        self.returned.insert(address.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_out_once() {
        let subnet: Subnet = "10.9.8.7/29".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.9.8.0/29");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 9, 8, 1));
        let mut addresses = Addresses::new(subnet);
        let all: Vec<_> = std::iter::from_fn(|| addresses.take()).collect();
        assert_eq!(
            all,
            (2..7)
                .map(|n| Ipv4Addr::new(10, 9, 8, n))
                .collect::<Vec<_>>()
        );
        addresses.give_back(all[3]);
        assert_eq!(addresses.take(), Some(all[3]));
        assert_eq!(addresses.take(), None);
    }

    #[test]
    fn what_is_no_net_is_refused_by_its_words() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0/8",
            "10.0.0.0/33",
            "fd00::/8",
            "10.0.0.0/x",
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
        assert_eq!("0.0.0.0/0".parse::<Subnet>().unwrap().mask(), 0);
    }
}
