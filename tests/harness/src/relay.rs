//! Makes the BuildKit inside `dockerd` look like `buildkitd`.
//!
//! `dockerd` serves BuildKit's gRPC API on its HTTP socket after a `POST /grpc` with `Upgrade: h2c`. The relay
//! listens on a socket of its own, does that upgrade for each connection, and passes bytes.
//!
//! Invariant: nothing is added to the stream or taken from it after the upgrade.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Result;

const UPGRADE: &[u8] =
    b"POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";

/// A listening relay; its threads live as long as the connections and the process.
#[derive(Debug)]
pub(crate) struct Relay {
    socket: PathBuf,
}

impl Relay {
    /// Listens on `socket` and connects to the docker socket `target`.
    pub(crate) fn start(socket: PathBuf, target: PathBuf) -> Result<Self> {
        let listener = UnixListener::bind(&socket)?;
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let target = target.clone();
                thread::spawn(move || {
                    // A client that leaves half-way is not the relay's business.
                    let _ = serve(&client, &target);
                });
            }
        });
        Ok(Self { socket })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

fn serve(client: &UnixStream, target: &Path) -> io::Result<()> {
    let mut server = UnixStream::connect(target)?;
    server.write_all(UPGRADE)?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        server.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || pass(from_client, to_server));
    pass(server, client.try_clone()?);
    Ok(())
}

fn pass(mut from: UnixStream, mut to: UnixStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
