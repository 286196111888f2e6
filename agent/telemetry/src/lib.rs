//! Sends spans on to an OpenTelemetry collector, over gRPC or HTTP, as the variables `OTEL_*` say.
//!
//! ```text
//!  builds, clients ──offer──► queue (bounded) ──batches──► courier ──OTLP──► collector
//!                              full: dropped, counted       away: tried again, then dropped
//! ```
//!
//! Invariants: whoever has spans never waits, whatever the collector does; memory is bounded by the queue; what
//! goes wrong is in the daemon's log once per outage, and nowhere else.

mod courier;
mod error;
mod queue;
mod settings;
mod transport;

pub use courier::Courier;
pub use error::Error;
pub use queue::Spans;
pub use settings::{Protocol, Settings};

use std::sync::Arc;

/// The way to the collector: where spans are put, and what carries them.
pub fn open(settings: &Settings) -> Result<(Spans, Courier), Error> {
    let transport = transport::open(settings)?;
    let queue = Arc::new(queue::Queue::new(settings.queue, settings.batch));
    let courier = Courier::new(Arc::clone(&queue), transport, settings);
    Ok((Spans::new(queue), courier))
}
