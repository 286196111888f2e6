//! The sockets.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use anyhow::{Context as _, bail};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;

use crate::init::LinkStream;
use crate::settings::{Address, Settings};

/// One socket that accepts.
#[derive(Debug)]
pub(crate) enum Listener {
    /// A unix socket.
    Unix(UnixListener),
    /// TCP, with TLS unless it was allowed without.
    Tcp(TcpListener),
    /// Streams of the link to a host.
    Link(mpsc::Receiver<LinkStream>),
}

/// Binds every address, or fails with the first that can't be.
pub(crate) fn bind_all(settings: &Settings) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for address in &settings.addresses {
        match address {
            Address::Unix(path) => listeners.push(Listener::Unix(
                bind_unix(path, settings).with_context(|| format!("unix://{}", path.display()))?,
            )),
            Address::Tcp(address) => listeners.push(Listener::Tcp(
                bind_tcp(address).with_context(|| format!("tcp://{address}"))?,
            )),
            Address::Inherited => {
                let inherited = kiln_sys::inherit::sockets();
                if inherited.is_empty() {
                    bail!("fd://: no sockets were handed over (LISTEN_FDS)");
                }
                for socket in inherited {
                    socket.set_nonblocking(true)?;
                    listeners.push(Listener::Unix(UnixListener::from_std(socket)?));
                }
            }
        }
    }
    Ok(listeners)
}

fn bind_unix(path: &Path, settings: &Settings) -> anyhow::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if path.exists() {
        // Somebody who still answers keeps the socket; a leftover of a dead daemon goes.
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("another daemon is serving on this socket");
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    let group = settings.socket_group.as_deref().map(group_id).transpose()?;
    chown(path, settings.socket_uid, group)?;
    Ok(listener)
}

fn bind_tcp(address: &str) -> anyhow::Result<TcpListener> {
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket)?)
}

/// A group by number or by its name in `/etc/group`.
fn group_id(group: &str) -> anyhow::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    std::fs::read_to_string("/etc/group")?
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
        })
        .with_context(|| format!("group {group:?} doesn't exist"))
}
