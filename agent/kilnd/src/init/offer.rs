//! Ports of the host's loopback, as its rules allow them, for steps: `host.kiln.internal:PORT`.
//!
//! ```text
//! step ─► the bridge's address, PORT ─► a stream of the link that names PORT ─► the host looks at its rules again
//! ```
//! Invariants: only the bridge's address is listened on, and its rules let steps to these ports; connections at once
//! are bounded; a host that is gone is a closed connection.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context as _;
use kiln_link::Link;
use kiln_network::Bridge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// What steps call the host.
pub(super) const HOST: &str = "host.kiln.internal";
/// As many as the host takes.
const MOST: usize = 64;

type Links = watch::Receiver<Option<Link>>;

/// Begins to serve the ports that the bridge offers. Also the daemon itself reaches the host by the name then.
pub(super) async fn begin(bridge: &Bridge, link: &Links) -> anyhow::Result<()> {
    if bridge.offered().is_empty() {
        return Ok(());
    }
    let gateway = bridge.gateway();
    let mut hosts = std::fs::read_to_string("/etc/hosts").context("/etc/hosts")?;
    hosts.extend([&gateway.to_string(), " ", HOST, "\n"]);
    std::fs::write("/etc/hosts", hosts).context("/etc/hosts")?;
    serve(gateway, bridge.offered(), link).await
}

async fn serve(gateway: Ipv4Addr, ports: &[u16], link: &Links) -> anyhow::Result<()> {
    let room = Arc::new(Semaphore::new(MOST));
    for &port in ports {
        let listener = TcpListener::bind((gateway, port))
            .await
            .with_context(|| format!("offering port {port} of the host"))?;
        tokio::spawn(accept(listener, port, link.clone(), Arc::clone(&room)));
    }
    Ok(())
}

async fn accept(listener: TcpListener, port: u16, link: Links, room: Arc<Semaphore>) {
    // Waiting connections wait in the kernel's queue.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, port, "a port of the host isn't offered any more");
                return;
            }
        };
        let link = link.borrow().clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Some(link) = link {
                relay(stream, &link, port).await;
            }
        });
    }
}

async fn relay(mut step: TcpStream, link: &Link, port: u16) {
    // Small messages must not wait for one another.
    let _ = step.set_nodelay(true);
    match link.open_host_port(port).await {
        // Either end may end it.
        Ok(mut host) => drop(tokio::io::copy_bidirectional(&mut step, &mut host).await),
        Err(error) => tracing::info!(%error, port, "the host isn't reached"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kiln_link::Service;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_connection_becomes_a_stream_that_names_its_port() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let patience = Duration::from_secs(10);
        let (host, guest) = tokio::join!(
            kiln_link::connect_host(ours, patience),
            kiln_link::connect_guest(theirs, patience)
        );
        let (_host, mut incoming) = host.unwrap();
        let (guest, _incoming) = guest.unwrap();
        let (sender, link) = watch::channel(Some(guest));
        serve(Ipv4Addr::LOCALHOST, &[port], &link).await.unwrap();

        let mut step = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        let (service, mut stream) = incoming.accept().await.unwrap();
        assert_eq!(service, Service::Host);
        assert_eq!(stream.read_u16_le().await.unwrap(), port);
        step.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        drop(stream);
        assert_eq!(step.read(&mut got).await.unwrap(), 0);

        sender.send_replace(None);
        let mut step = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        assert_eq!(step.read(&mut got).await.unwrap(), 0, "there is no host");
    }
}
