//! The bridge, and the namespaces behind it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kiln_sys::netns::NetNs;
use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::addresses::Addresses;
use crate::firewall::Firewall;
use crate::route::{Mac, Netlink, Way};
use crate::{BridgeConfig, NetworkError, tried};

/// Written on the bridge, so that it is known again.
const ALIAS: &str = "kiln";
/// What steps call their interface.
const INSIDE: &str = "eth0";
const LOOPBACK: u32 = 1;
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// A bridge that is there for as long as this is open.
#[derive(Debug)]
pub struct Bridge {
    config: BridgeConfig,
    index: u32,
    netlink: Mutex<Netlink>,
    firewall: Mutex<Firewall>,
    addresses: Mutex<Addresses>,
    /// `None` once it is closed.
    idle: Mutex<Option<Vec<Ready>>>,
    made: AtomicU32,
    /// Held against other daemons.
    _claim: OwnedFd,
}

/// A namespace that a step can be put into.
#[derive(Debug)]
struct Ready {
    namespace: NetNs,
    address: Ipv4Addr,
    /// The bridge's end of the wire.
    port: u32,
}

/// A namespace of one step. Dropping it ends it, which may block for a moment: something may still be in it, or may
/// have changed it.
#[derive(Debug)]
pub struct Lease {
    bridge: Arc<Bridge>,
    ready: Option<Ready>,
}

impl Bridge {
    /// Makes the bridge and its rules in the network of this thread, in place of those that a killed daemon left.
    /// Blocks.
    pub fn open(config: BridgeConfig) -> Result<Arc<Self>, NetworkError> {
        check(&config)?;
        let claim = claim(&config.name)?;
        let mut netlink = Netlink::open().map_err(tried("open rtnetlink"))?;
        if let Some(found) = netlink
            .find(&config.name)
            .map_err(tried("look for the bridge"))?
        {
            if found.alias.as_deref() != Some(ALIAS) {
                return Err(NetworkError::Foreign(config.name));
            }
            netlink
                .remove(found.index)
                .map_err(tried("remove a dead daemon's bridge"))?;
        }
        let mut firewall = Firewall::open(&config.name).map_err(NetworkError::Filter)?;
        // The rules come first: there is no moment without them.
        firewall
            .install(&config.name, config.subnet, &config.rules)
            .map_err(NetworkError::Filter)?;
        let index = match begin(&mut netlink, &config) {
            Ok(index) => index,
            Err(error) => {
                undo(&mut netlink, &mut firewall, &config.name);
                return Err(error);
            }
        };
        Ok(Arc::new(Self {
            index,
            netlink: Mutex::new(netlink),
            firewall: Mutex::new(firewall),
            addresses: Mutex::new(Addresses::new(config.subnet)),
            idle: Mutex::new(Some(Vec::new())),
            made: AtomicU32::new(0),
            _claim: claim,
            config,
        }))
    }

    /// Its own address, which steps know this machine by.
    pub fn gateway(&self) -> Ipv4Addr {
        self.config.subnet.gateway()
    }

    /// The ports of it that steps may reach.
    pub fn offered(&self) -> &[u16] {
        &self.config.rules.offered
    }

    /// A namespace for a step. Blocks for some milliseconds if none is ready.
    pub fn take(self: &Arc<Self>) -> Result<Lease, NetworkError> {
        let ready = self.idle.lock().as_mut().and_then(Vec::pop);
        let ready = match ready {
            Some(ready) => ready,
            None => self.make()?,
        };
        Ok(Lease {
            bridge: Arc::clone(self),
            ready: Some(ready),
        })
    }

    /// Makes namespaces ahead, until so many are ready. Blocks.
    pub fn warm(&self, ready: usize) -> Result<(), NetworkError> {
        while self
            .idle
            .lock()
            .as_ref()
            .is_some_and(|idle| idle.len() < ready)
        {
            let made = self.make()?;
            self.keep(made);
        }
        Ok(())
    }

    /// Removes everything. Steps that still run lose their network. Blocks.
    pub fn close(&self) {
        let Some(idle) = self.idle.lock().take() else {
            return;
        };
        drop(idle);
        undo(
            &mut self.netlink.lock(),
            &mut self.firewall.lock(),
            &self.config.name,
        );
    }

    fn make(&self) -> Result<Ready, NetworkError> {
        let address = self.addresses.lock().take();
        let address = address.ok_or(NetworkError::Full(self.config.subnet))?;
        self.connect(address).inspect_err(|_| {
            self.addresses.lock().give_back(address);
        })
    }

    fn connect(&self, address: Ipv4Addr) -> Result<Ready, NetworkError> {
        let (namespace, inside) = NetNs::create(|| -> io::Result<Netlink> {
            // Interfaces to come; the loopback device keeps its ::1. A kernel without IPv6 has nothing to turn off.
            let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            let mut netlink = Netlink::open()?;
            netlink.up(LOOPBACK)?;
            Ok(netlink)
        })
        .map_err(tried("make a network namespace"))?;
        let mut inside = inside.map_err(tried("begin a network namespace"))?;
        let mac = mac(address);
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let name = format!("kv{:x}x{number:x}", self.index);
        let port = {
            let mut netlink = self.netlink.lock();
            netlink
                .add_pair(&name, INSIDE, mac, namespace.as_fd())
                .map_err(tried("make a pair of interfaces"))?;
            let port = index_of(&mut netlink, &name)?;
            let mut connect = || -> io::Result<()> {
                netlink.isolated_port(port, self.index)?;
                netlink.behind(port, mac)?;
                netlink.neighbour(self.index, address, mac)?;
                netlink.up(port)
            };
            connect().map_err(tried("connect an interface to the bridge"))?;
            port
        };
        let gateway = self.gateway();
        let index = index_of(&mut inside, INSIDE)?;
        let mut configure = || -> io::Result<()> {
            inside.address(index, address, 32)?;
            inside.up(index)?;
            inside.neighbour(index, gateway, self::mac(gateway))?;
            inside.route(gateway, 32, Way::Link(index))?;
            inside.route(Ipv4Addr::UNSPECIFIED, 0, Way::Gateway(index, gateway))
        };
        configure().map_err(tried("configure the network of a step"))?;
        Ok(Ready {
            namespace,
            address,
            port,
        })
    }

    fn keep(&self, ready: Ready) {
        {
            let mut idle = self.idle.lock();
            if let Some(idle) = idle.as_mut()
                && idle.len() < self.config.idle
            {
                idle.push(ready);
                return;
            }
        }
        self.end(ready);
    }

    fn end(&self, ready: Ready) {
        let Ready {
            namespace,
            address,
            port,
        } = ready;
        // The wire goes before its address may be somebody else's; with a closed bridge it is gone already.
        if let Err(error) = self.netlink.lock().remove(port) {
            tracing::debug!(%error, "the wire of a step is gone already");
        }
        drop(namespace);
        self.addresses.lock().give_back(address);
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.close();
    }
}

impl Lease {
    /// The namespace, for who enters it while this is held.
    pub fn path(&self) -> PathBuf {
        let ready = self.ready.as_ref();
        ready.map_or_else(PathBuf::new, |ready| ready.namespace.path())
    }

    /// The step's own address.
    pub fn address(&self) -> Ipv4Addr {
        let ready = self.ready.as_ref();
        ready.map_or(Ipv4Addr::UNSPECIFIED, |ready| ready.address)
    }

    /// Does something in it.
    pub fn with<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        match &self.ready {
            Some(ready) => ready.namespace.with(work),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Keeps it for another step: nothing is in it, and nothing of it was changed.
    pub fn give_back(mut self) {
        if let Some(ready) = self.ready.take() {
            self.bridge.keep(ready);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(ready) = self.ready.take() {
            self.bridge.end(ready);
        }
    }
}

fn check(config: &BridgeConfig) -> Result<(), NetworkError> {
    let name = &config.name;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !(1..=15).contains(&name.len()) || !name.chars().all(fits) {
        return Err(NetworkError::Name(name.clone()));
    }
    if !(8..=29).contains(&config.subnet.prefix()) {
        return Err(NetworkError::NoRoom(config.subnet));
    }
    Ok(())
}

/// Takes the name for this process: an abstract socket is of the same network as the bridge, and goes with its owner.
fn claim(name: &str) -> Result<OwnedFd, NetworkError> {
    let failed = tried("claim the bridge");
    let claim = || -> rustix::io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let address = SocketAddrUnix::new_abstract_name(format!("kiln-bridge-{name}").as_bytes())?;
        rustix::net::bind(&socket, &address)?;
        Ok(socket)
    };
    match claim() {
        Err(rustix::io::Errno::ADDRINUSE) => Err(NetworkError::InUse(name.to_owned())),
        claimed => claimed.map_err(|error| failed(error.into())),
    }
}

fn begin(netlink: &mut Netlink, config: &BridgeConfig) -> Result<u32, NetworkError> {
    let gateway = config.subnet.gateway();
    netlink
        .add_bridge(&config.name, mac(gateway), ALIAS)
        .map_err(tried("make the bridge"))?;
    let index = index_of(netlink, &config.name)?;
    // Only IPv4 is filtered finely, so nothing else is spoken. A kernel without IPv6 has nothing to turn off.
    let _ = fs::write(
        format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", config.name),
        "1",
    );
    netlink
        .address(index, gateway, config.subnet.prefix())
        .map_err(tried("give the bridge its address"))?;
    netlink.up(index).map_err(tried("turn the bridge on"))?;
    if fs::read_to_string(FORWARDING).is_ok_and(|on| on.trim() != "1") {
        fs::write(Path::new(FORWARDING), "1").map_err(tried("turn on net.ipv4.ip_forward"))?;
    }
    Ok(index)
}

fn undo(netlink: &mut Netlink, firewall: &mut Firewall, name: &str) {
    let removed = match netlink.find(name) {
        Ok(Some(found)) => netlink.remove(found.index),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = removed.and_then(|()| firewall.remove()) {
        tracing::warn!(%error, bridge = name, "the bridge or its rules stay behind");
    }
}

fn index_of(netlink: &mut Netlink, name: &str) -> Result<u32, NetworkError> {
    let found = netlink.find(name).map_err(tried("look for an interface"))?;
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let found = found
        .ok_or_else(missing)
        .map_err(tried("look for an interface"))?;
    Ok(found.index)
}

/// Made of the IP address, so each is unique on its bridge.
fn mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x4b, a, b, c, d]
}
