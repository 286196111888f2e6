//! Counts the clients that are connected.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use kiln_control::Connected;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// The number of connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Connections(watch::Sender<u32>);

/// A connection that counts for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted<C> {
    inner: C,
    count: watch::Sender<u32>,
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u32> {
        self.0.subscribe()
    }

    pub(crate) fn count<C>(&self, inner: C) -> Counted<C> {
        self.0.send_modify(|count| *count += 1);
        Counted {
            inner,
            count: self.0.clone(),
        }
    }
}

impl<C> Drop for Counted<C> {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}

impl<C: Connected> Connected for Counted<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Counted<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Counted<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
