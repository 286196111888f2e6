//! Ports of the host's loopback that builds may reach.
//!
//! The guest can't get there by itself: its network is closed towards the host. For a connection it opens a stream of
//! [`Service::Host`] and names the port; what the settings don't allow is closed.
//!
//! Invariants: the guest names a port and nothing else, never an address; connections at once are bounded.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use kiln_link::{Incoming, Service, Stream};
use tokio::io::{AsyncReadExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

const MOST: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves the guest's streams until the link is gone or this is dropped.
pub(super) async fn serve(mut incoming: Incoming, allowed: BTreeSet<u16>) {
    let allowed = Arc::new(allowed);
    let room = Arc::new(Semaphore::new(MOST));
    let connections = TaskTracker::new();
    while let Some((service, stream)) = incoming.accept().await {
        if service != Service::Host {
            tracing::warn!(
                service = service.name(),
                "the guest asks the host for what it hasn't"
            );
            continue;
        }
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!("too many connections from the guest to the host at once");
            continue;
        };
        let allowed = Arc::clone(&allowed);
        connections.spawn(async move {
            let _permit = permit;
            relay(stream, &allowed).await;
        });
    }
}

async fn relay(mut stream: Stream, allowed: &BTreeSet<u16>) {
    let Ok(Ok(port)) = timeout(PATIENCE, stream.read_u16_le()).await else {
        return;
    };
    if !allowed.contains(&port) {
        tracing::warn!(port, "a build wants a port of the host that isn't allowed");
        return;
    }
    let connect = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    match timeout(PATIENCE, connect).await {
        // Either end may end it.
        Ok(Ok(mut host)) => drop(copy_bidirectional(&mut stream, &mut host).await),
        Ok(Err(error)) => tracing::info!(port, %error, "nobody answers a build on the host"),
        Err(_) => tracing::info!(port, "nobody answers a build on the host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_link::{connect_guest, connect_host};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn only_what_is_allowed_is_reached() {
        let open = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (open_port, closed_port) = (
            open.local_addr().unwrap().port(),
            closed.local_addr().unwrap().port(),
        );
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (host, guest) = tokio::join!(
            connect_host(ours, PATIENCE),
            connect_guest(theirs, PATIENCE)
        );
        let (_host, incoming) = host.unwrap();
        let (guest, _incoming) = guest.unwrap();
        tokio::spawn(serve(incoming, BTreeSet::from([open_port])));

        let mut refused = guest.open_host_port(closed_port).await.unwrap();
        assert_eq!(refused.read(&mut [0]).await.unwrap(), 0);
        let mut stream = guest.open_host_port(open_port).await.unwrap();
        let (mut server, _) = open.accept().await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        stream.flush().await.unwrap();
        let mut got = [0; 4];
        server.read_exact(&mut got).await.unwrap();
        server.write_all(b"pong").await.unwrap();
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"pong");
    }
}
