//! A byte stream on top of a stream of messages, as gRPC calls carry connections.
//!
//! A BuildKit session is an HTTP/2 connection inside a `Session` call; a forwarded ssh agent is a
//! unix connection inside a `ForwardAgent` call. Closing the write side ends the outgoing messages,
//! which is the half-close that the other side sees as end of file.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// The longest message that is written. Peers limit messages to 4 MiB at least.
const MAX_WRITE: usize = 1 << 20;

/// An [`AsyncRead`] and [`AsyncWrite`] over messages.
pub struct MessageIo {
    incoming: BoxStream<'static, Result<Bytes, tonic::Status>>,
    current: Bytes,
    outgoing: PollSender<Bytes>,
}

impl MessageIo {
    /// Reads from `incoming` and writes to `outgoing`.
    pub fn new(
        incoming: impl Stream<Item = Result<Bytes, tonic::Status>> + Send + 'static,
        outgoing: mpsc::Sender<Bytes>,
    ) -> Self {
        Self {
            incoming: incoming.boxed(),
            current: Bytes::new(),
            outgoing: PollSender::new(outgoing),
        }
    }

    fn send(
        &mut self,
        cx: &mut Context<'_>,
        message: impl FnOnce() -> Bytes,
    ) -> Poll<io::Result<usize>> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outgoing.poll_reserve(cx)).map_err(|_| gone())?;
        let message = message();
        let len = message.len();
        self.outgoing.send_item(message).map_err(|_| gone())?;
        Poll::Ready(Ok(len))
    }
}

impl std::fmt::Debug for MessageIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MessageIo")
    }
}

impl AsyncRead for MessageIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(self.incoming.poll_next_unpin(cx)) {
                Some(Ok(message)) => self.current = message,
                Some(Err(status)) => return Poll::Ready(Err(io::Error::other(status))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current[..len]);
        self.current.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MessageIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let len = buf.len().min(MAX_WRITE);
        self.send(cx, || Bytes::copy_from_slice(&buf[..len]))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        self.send(cx, || {
            let mut message = BytesMut::with_capacity(total.min(MAX_WRITE));
            for buf in bufs {
                let room = MAX_WRITE - message.len();
                message.extend_from_slice(&buf[..buf.len().min(room)]);
            }
            message.freeze()
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    #[tokio::test]
    async fn both_directions_and_half_close() {
        let (a, from_a) = mpsc::channel(4);
        let (b, from_b) = mpsc::channel(4);
        let mut left = MessageIo::new(ReceiverStream::new(from_b).map(Ok), a);
        let mut right = MessageIo::new(ReceiverStream::new(from_a).map(Ok), b);
        let big = vec![7; 3 * MAX_WRITE + 5];
        let sent = big.clone();
        let writer = tokio::spawn(async move {
            left.write_all(&sent).await.unwrap();
            left.shutdown().await.unwrap();
            let mut answer = Vec::new();
            left.read_to_end(&mut answer).await.unwrap();
            answer
        });
        let mut got = Vec::new();
        right.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, big);
        right.write_all(b"done").await.unwrap();
        drop(right);
        assert_eq!(writer.await.unwrap(), b"done");
    }
}
