//! Who is connected, and when something last moved.
//!
//! A connection to `buildkitd.sock` keeps the machine for as long as it is open: the tools that use it
//! come for a build and go. One to `agent.sock` keeps it only while bytes move: a window may stay open
//! for days. A build keeps it in any case, by what the engine says of itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use kiln_link::Service;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Shared by everything that carries bytes.
#[derive(Debug)]
pub(crate) struct Traffic {
    began: Instant,
    /// Milliseconds after `began`.
    last_moved: AtomicU64,
    buildkit: AtomicU32,
    others: AtomicU32,
    /// The number of connections changed.
    changed: Notify,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Open {
    traffic: Arc<Traffic>,
    service: Service,
}

impl Traffic {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            last_moved: AtomicU64::new(0),
            buildkit: AtomicU32::new(0),
            others: AtomicU32::new(0),
            changed: Notify::new(),
        })
    }

    pub(crate) fn open(self: &Arc<Self>, service: Service) -> Open {
        self.counter(service).fetch_add(1, Ordering::Relaxed);
        self.moved();
        self.changed.notify_waiters();
        Open {
            traffic: Arc::clone(self),
            service,
        }
    }

    fn counter(&self, service: Service) -> &AtomicU32 {
        if service == Service::Buildkit {
            &self.buildkit
        } else {
            &self.others
        }
    }

    /// Something moves now.
    pub(crate) fn moved(&self) {
        let now = self.began.elapsed().as_millis() as u64;
        self.last_moved.fetch_max(now, Ordering::Relaxed);
    }

    /// When something last moved.
    pub(crate) fn last_moved(&self) -> Instant {
        self.began + Duration::from_millis(self.last_moved.load(Ordering::Relaxed))
    }

    /// Open connections of tools that build.
    pub(crate) fn builders(&self) -> u32 {
        self.buildkit.load(Ordering::Relaxed)
    }

    /// All open connections.
    pub(crate) fn connections(&self) -> u32 {
        self.builders() + self.others.load(Ordering::Relaxed)
    }

    /// Returns when a connection was opened or closed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let counter = self.traffic.counter(self.service);
        counter.fetch_sub(1, Ordering::Relaxed);
        self.traffic.moved();
        self.traffic.changed.notify_waiters();
    }
}

/// A stream whose bytes count as movement.
#[derive(Debug)]
pub(crate) struct Metered<T> {
    pub(crate) inner: T,
    pub(crate) traffic: Arc<Traffic>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if polled.is_ready() {
            self.traffic.moved();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if polled.is_ready() {
            self.traffic.moved();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
