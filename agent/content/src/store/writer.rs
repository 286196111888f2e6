//! The two ways to write a blob: from async code, with hashing on a thread of its own, and from a thread.

use std::io;

use bytes::Bytes;
use kiln_oci::Digest;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::BlobInfo;
use super::ingest::Ingest;
use crate::{Error, Result};

/// Pieces that may wait for the disk before the producer has to.
const QUEUE: usize = 64;

enum Message {
    Expect(u64),
    Data(Bytes),
    Commit {
        digest: Option<Digest>,
        size: Option<u64>,
        answer: oneshot::Sender<Result<BlobInfo>>,
    },
    Discard,
}

/// Writes a blob from async code. Dropped without a commit, it leaves what came so far for the next writer of its key.
#[derive(Debug)]
pub struct Writer {
    messages: mpsc::Sender<Message>,
    thread: Option<JoinHandle<Result<()>>>,
    offset: u64,
}

impl Writer {
    pub(crate) fn start(ingest: Ingest) -> Self {
        let (messages, queue) = mpsc::channel(QUEUE);
        let offset = ingest.written();
        let thread = tokio::task::spawn_blocking(move || run(ingest, queue));
        Self {
            messages,
            thread: Some(thread),
            offset,
        }
    }

    /// How many bytes an earlier writer left plus those pushed since: where to go on from.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Announces the whole size. More than that is refused, and a disk without room for it is known now.
    pub async fn expect_size(&mut self, size: u64) -> Result<()> {
        self.send(Message::Expect(size)).await
    }

    /// Appends. Waits while too much waits for the disk. An error may be that of an earlier piece.
    pub async fn push(&mut self, bytes: Bytes) -> Result<()> {
        let length = bytes.len() as u64;
        self.send(Message::Data(bytes)).await?;
        self.offset += length;
        Ok(())
    }

    /// Checks hash and size and gives the blob its name. If they are wrong, nothing is kept.
    pub async fn commit(mut self, digest: Option<Digest>, size: Option<u64>) -> Result<BlobInfo> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Commit {
            digest,
            size,
            answer,
        })
        .await?;
        match answered.await {
            Ok(result) => result,
            Err(_) => Err(self.failure().await),
        }
    }

    /// Ends the write and removes what came.
    pub async fn discard(mut self) {
        if self.send(Message::Discard).await.is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.await;
        }
    }

    async fn send(&mut self, message: Message) -> Result<()> {
        if self.messages.send(message).await.is_ok() {
            return Ok(());
        }
        Err(self.failure().await)
    }

    /// Why the thread has ended.
    async fn failure(&mut self) -> Error {
        match self.thread.take() {
            Some(thread) => match thread.await {
                Ok(Err(error)) => error,
                _ => Error::WriterFailed,
            },
            None => Error::WriterFailed,
        }
    }
}

fn run(mut ingest: Ingest, mut queue: mpsc::Receiver<Message>) -> Result<()> {
    let mut batch = Vec::with_capacity(QUEUE);
    loop {
        if queue.blocking_recv_many(&mut batch, QUEUE) == 0 {
            return Ok(());
        }
        for message in batch.drain(..) {
            match message {
                Message::Expect(size) => ingest.expect_size(size)?,
                Message::Data(bytes) => ingest.append(&bytes)?,
                Message::Commit {
                    digest,
                    size,
                    answer,
                } => {
                    let _ = answer.send(ingest.commit(digest, size));
                    return Ok(());
                }
                Message::Discard => {
                    ingest.condemn();
                    return Ok(());
                }
            }
        }
        ingest.publish();
    }
}

/// Writes a blob from a thread. Dropped without a commit, it leaves nothing.
pub struct BlockingWriter(Ingest);

impl BlockingWriter {
    pub(crate) fn new(ingest: Ingest) -> Self {
        Self(ingest)
    }

    /// Appends and hashes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.append(bytes)
    }

    /// How much was appended.
    pub fn written(&self) -> u64 {
        self.0.written()
    }

    /// Checks hash and size, if given, and gives the blob its name.
    pub fn commit(self, digest: Option<Digest>, size: Option<u64>) -> Result<BlobInfo> {
        self.0.commit(digest, size)
    }
}

impl io::Write for BlockingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for BlockingWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockingWriter")
            .field("written", &self.written())
            .finish_non_exhaustive()
    }
}
