//! The sockets for the engine's clients: they accept before there is a machine, and wake it.
//!
//! Invariants: a connection counts from the moment it is accepted, so that the machine isn't stopped
//! under a client that waits for it; a slow client or stream holds up nobody else; only the user (and
//! root) is served, whatever the permissions of the directory became.

use std::sync::Arc;
use std::time::Duration;

use kiln_link::Service;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::life::Life;
use crate::refusal;
use crate::traffic::{Metered, Traffic};

/// Connections at once, per socket.
const MOST: usize = 512;
const BUFFER: usize = 64 << 10;

/// Accepts until `stop`.
pub(crate) async fn publish(
    listener: UnixListener,
    service: Service,
    life: Life,
    traffic: Arc<Traffic>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(MOST));
    loop {
        let accept = async {
            // Who is too many waits in the kernel's queue.
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accept => accepted,
            () = stop.cancelled() => break,
        };
        let client = match accepted {
            Ok((client, _)) if is_ours(&client) => client,
            Ok(_) => {
                tracing::warn!(socket = service.name(), "another user was turned away");
                continue;
            }
            Err(error) => {
                // Out of descriptors: others will close theirs.
                tracing::warn!(%error, "a connection can't be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (life, traffic, stop) = (life.clone(), Arc::clone(&traffic), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            let _open = traffic.open(service);
            tokio::select! {
                () = serve(client, service, &life, &traffic) => {}
                () = stop.cancelled() => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

fn is_ours(client: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    client
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn serve(client: UnixStream, service: Service, life: &Life, traffic: &Arc<Traffic>) {
    let machine = match life.connect().await {
        Ok(machine) => machine,
        Err(failure) => return refusal::refuse(client, &failure.reason).await,
    };
    let mut engine = match machine.connect(service).await {
        Ok(engine) => engine,
        Err(error) => {
            let reason = format!("the engine doesn't accept connections: {error}");
            return refusal::refuse(client, &reason).await;
        }
    };
    // It must not keep a machine that others want to be gone.
    drop(machine);
    let mut client = Metered {
        inner: client,
        traffic: Arc::clone(traffic),
    };
    // Either side may end as it likes; the other one sees the end.
    let _ = copy_bidirectional_with_sizes(&mut client, &mut engine, BUFFER, BUFFER).await;
}
