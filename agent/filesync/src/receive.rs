//! The receiving end.
//!
//! ```text
//!  incoming ──► async loop ──(bounded: packets, bytes)──► writer thread ──► files
//!  outgoing ◄── async loop ◄──(requests, FIN)──────────── writer thread
//! ```
//! One thread does all work on the destination, in the order of the packets. It never waits for the
//! network: the requests under way are limited in number, not by back-pressure, since a sender that
//! is blocked on data of ours wouldn't read them.

mod entry;
mod incoming;
mod order;
mod writer;

use std::path::Path;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{Error, Packet, ReceiveOptions, Summary};
use writer::Writer;

/// Packets that may wait for the writer.
const QUEUE: usize = 512;
/// Bytes of file data that may wait for the writer.
const BUDGET: usize = 16 << 20;

/// A packet, with its share of the budget.
type Queued = (Packet, Option<OwnedSemaphorePermit>);

/// Receives a tree into the directory `dest`, which exists. Returns when the sender has confirmed
/// the end; `outgoing` is closed then.
pub async fn receive<S>(
    dest: &Path,
    incoming: &mut S,
    outgoing: mpsc::Sender<Packet>,
    options: ReceiveOptions,
) -> Result<Summary, Error>
where
    S: Stream<Item = Result<Packet, tonic::Status>> + Send + Unpin,
{
    let progress = options.progress.clone();
    let mut moved = 0;
    let result = run(dest, incoming, &outgoing, options, &mut moved).await;
    if let Some(progress) = progress {
        progress(moved, true);
    }
    if let Err(error) = &result
        && !matches!(error, Error::Transport(_) | Error::Sender(_))
    {
        // The sender may be gone, which the result says anyway.
        let _ = outgoing.send(Packet::Error(error.chain())).await;
    }
    result
}

async fn run<S>(
    dest: &Path,
    incoming: &mut S,
    outgoing: &mpsc::Sender<Packet>,
    options: ReceiveOptions,
    moved: &mut u64,
) -> Result<Summary, Error>
where
    S: Stream<Item = Result<Packet, tonic::Status>> + Send + Unpin,
{
    let progress = options.progress.clone();
    let mut count = |packet: &Packet| {
        *moved += packet.encoded_len() as u64;
        if let Some(progress) = &progress {
            progress(*moved, false);
        }
    };
    let (queue, packets) = mpsc::channel::<Queued>(QUEUE);
    let (replies, mut answers) = mpsc::unbounded_channel();
    let budget = Arc::new(Semaphore::new(BUDGET));
    let dest = dest.to_owned();
    let writer =
        tokio::task::spawn_blocking(move || Writer::open(&dest, options, replies)?.run(packets));
    let mut broken = None;
    let mut finish = false;
    loop {
        tokio::select! {
            biased;
            answer = answers.recv() => match answer {
                Some(answer) => {
                    finish |= answer == Packet::Finish;
                    // If nobody reads any more, the other direction says why.
                    let _ = outgoing.send(answer).await;
                }
                // The writer is done, for better or worse.
                None => break,
            },
            packet = incoming.next(), if !finish => {
                let packet = match packet {
                    Some(Ok(Packet::Error(text))) => Err(Error::Sender(text)),
                    Some(Ok(packet)) => Ok(packet),
                    Some(Err(status)) => Err(status.into()),
                    None => Err(Error::Truncated),
                };
                let packet = match packet {
                    Ok(packet) => packet,
                    Err(error) => {
                        broken = Some(error);
                        break;
                    }
                };
                count(&packet);
                let permit = match &packet {
                    Packet::Data(_, data) if !data.is_empty() => {
                        let share = data.len().min(BUDGET) as u32;
                        Arc::clone(&budget).acquire_many_owned(share).await.ok()
                    }
                    _ => None,
                };
                // A writer that has failed reports below.
                let _ = queue.send((packet, permit)).await;
            }
        }
    }
    drop(queue);
    let written = writer
        .await
        .unwrap_or_else(|panic| Err(Error::io("write", "", std::io::Error::other(panic))));
    // The writer only knows that the packets ended, this side why.
    let summary = match (written, broken) {
        (Err(Error::Truncated), Some(error)) => return Err(error),
        (written, _) => written?,
    };
    match incoming.next().await {
        Some(Ok(Packet::Finish)) => {
            count(&Packet::Finish);
            Ok(summary)
        }
        Some(Ok(Packet::Error(text))) => Err(Error::Sender(text)),
        Some(Ok(Packet::Data(id, _))) => Err(Error::Unrequested(id)),
        Some(Ok(_)) => Err(Error::Malformed("more packets after the last one")),
        Some(Err(status)) => Err(status.into()),
        None => Err(Error::Truncated),
    }
}
