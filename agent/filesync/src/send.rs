//! The sending end.
//!
//! One thread walks and sends stats while the receiver already asks for files, which four threads
//! read. Everything goes out through one bounded queue, so a slow receiver slows all of them.

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc as blocking};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::{Error, Packet, Progress, Step, Tree, mode};

const WORKERS: usize = 4;
/// One message's worth of a file. Receivers accept 4 MiB at least.
const CHUNK: usize = 128 << 10;
/// A buffer is shared by the pieces of several files until it is used up.
const BUFFER: usize = 1 << 20;

/// Sends `tree` to the receiver at the other end of the two streams. Returns after the receiver's
/// FIN was answered; `outgoing` is closed then.
pub async fn send<S>(
    tree: Arc<dyn Tree>,
    incoming: &mut S,
    outgoing: mpsc::Sender<Packet>,
    progress: Option<Progress>,
) -> Result<(), Error>
where
    S: Stream<Item = Result<Packet, tonic::Status>> + Send + Unpin,
{
    let shared = Arc::new(Shared {
        tree,
        outgoing,
        files: Mutex::new(HashMap::new()),
        progress,
        moved: AtomicU64::new(0),
    });
    let result = run(&shared, incoming).await;
    if let Some(progress) = &shared.progress {
        progress(shared.moved.load(Ordering::Relaxed), true);
    }
    if let Err(error) = &result
        && !matches!(error, Error::Transport(_) | Error::Receiver(_))
    {
        // The receiver may be gone, which the result says anyway.
        let _ = shared.outgoing.send(Packet::Error(error.chain())).await;
    }
    result
}

struct Shared {
    tree: Arc<dyn Tree>,
    outgoing: mpsc::Sender<Packet>,
    /// Paths of files that can be asked for, each once.
    files: Mutex<HashMap<u32, String>>,
    progress: Option<Progress>,
    moved: AtomicU64,
}

async fn run<S>(shared: &Arc<Shared>, incoming: &mut S) -> Result<(), Error>
where
    S: Stream<Item = Result<Packet, tonic::Status>> + Send + Unpin,
{
    let (requests, queue) = blocking::channel::<(u32, String)>();
    let queue = Arc::new(Mutex::new(queue));
    let mut threads = JoinSet::new();
    {
        let shared = Arc::clone(shared);
        threads.spawn_blocking(move || shared.walk());
    }
    for _ in 0..WORKERS {
        let shared = Arc::clone(shared);
        let queue = Arc::clone(&queue);
        threads.spawn_blocking(move || shared.work(&queue));
    }
    loop {
        tokio::select! {
            packet = incoming.next() => match packet {
                Some(Ok(Packet::Request(id))) => {
                    let path = shared.files.lock().remove(&id).ok_or(Error::UnknownFile(id))?;
                    // Workers only stop early after a failure, which the join below reports.
                    let _ = requests.send((id, path));
                }
                Some(Ok(Packet::Finish)) => {
                    let _ = shared.outgoing.send(Packet::Finish).await;
                    return Ok(());
                }
                Some(Ok(Packet::Error(text))) => return Err(Error::Receiver(text)),
                Some(Ok(Packet::Stat(_) | Packet::Data(..))) => {
                    return Err(Error::Malformed("only senders send stats and data"));
                }
                Some(Err(status)) => return Err(status.into()),
                None => return Err(Error::Truncated),
            },
            Some(ended) = threads.join_next() => match ended {
                Ok(result) => result?,
                Err(panic) => return Err(Error::io("send", "", std::io::Error::other(panic))),
            },
        }
    }
}

impl Shared {
    /// Fails when the other side is gone: the reader of its packets knows why.
    fn put(&self, packet: Packet) -> Result<(), Error> {
        let len = packet.encoded_len() as u64;
        self.outgoing
            .blocking_send(packet)
            .map_err(|_| Error::Truncated)?;
        let moved = self.moved.fetch_add(len, Ordering::Relaxed) + len;
        if let Some(progress) = &self.progress {
            progress(moved, false);
        }
        Ok(())
    }

    fn walk(&self) -> Result<(), Error> {
        let mut id = 0;
        self.tree.walk(&mut |stat| {
            // Known before the stat is out, for the request may come at once.
            if mode::has_data(stat.mode) {
                self.files.lock().insert(id, stat.path.clone());
            }
            id += 1;
            self.put(Packet::Stat(Some(Box::new(stat))))?;
            Ok(Step::Continue)
        })?;
        self.put(Packet::Stat(None))
    }

    fn work(&self, queue: &Mutex<blocking::Receiver<(u32, String)>>) -> Result<(), Error> {
        let mut buffer = BytesMut::new();
        loop {
            let next = queue.lock().recv();
            let Ok((id, path)) = next else { return Ok(()) };
            self.file(id, &path, &mut buffer)?;
        }
    }

    fn file(&self, id: u32, path: &str, buffer: &mut BytesMut) -> Result<(), Error> {
        // A file that is gone by now is sent empty, as the protocol has no other way to say so.
        if let Ok(mut file) = self.tree.open(path) {
            loop {
                if buffer.len() < CHUNK / 4 {
                    *buffer = BytesMut::zeroed(BUFFER);
                }
                let room = buffer.len().min(CHUNK);
                match file.read(&mut buffer[..room]) {
                    Ok(0) => break,
                    Ok(len) => {
                        let piece = buffer.split_to(len).freeze();
                        self.put(Packet::Data(id, piece))?;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(Error::io("read", path, error)),
                }
            }
        }
        self.put(Packet::Data(id, Bytes::new()))
    }
}
