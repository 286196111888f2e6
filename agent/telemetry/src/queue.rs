//! Spans that wait to be sent.
//!
//! Invariant: there are never more than the queue's limit, in spans and in bytes; what comes on top is dropped and
//! counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kiln_proto::otlp_trace::{ResourceSpans, ScopeSpans};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Spans carry texts of any length: the queue is bounded in bytes too.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// Where spans are put. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spans(Arc<Queue>);

impl Spans {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self(queue)
    }

    /// Takes spans, or drops them where too many wait. Never blocks.
    pub fn offer(&self, spans: ResourceSpans) {
        self.0.offer(spans);
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    most: usize,
    batch: usize,
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each of at most a batch.
    pieces: VecDeque<ResourceSpans>,
    spans: usize,
    bytes: usize,
    dropped: u64,
}

impl Queue {
    pub(crate) fn new(most: usize, batch: usize) -> Self {
        Self {
            most,
            batch,
            waiting: Mutex::default(),
            filled: Notify::new(),
        }
    }

    fn offer(&self, spans: ResourceSpans) {
        let mut waiting = self.waiting.lock();
        for piece in pieces(spans, self.batch) {
            let (spans, bytes) = (count(&piece), piece.encoded_len());
            if waiting.spans + spans > self.most || waiting.bytes + bytes > MOST_BYTES {
                waiting.dropped += spans as u64;
                continue;
            }
            waiting.spans += spans;
            waiting.bytes += bytes;
            waiting.pieces.push_back(piece);
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// The next batch: once there is a full one, or `delay` after the first span came.
    pub(crate) async fn batch(&self, delay: Duration) -> Vec<ResourceSpans> {
        while self.len() == 0 {
            self.filled.notified().await;
        }
        let due = Instant::now() + delay;
        while self.len() < self.batch && timeout_at(due, self.filled.notified()).await.is_ok() {}
        self.take()
    }

    /// At most a batch of what is there.
    pub(crate) fn take(&self) -> Vec<ResourceSpans> {
        let mut waiting = self.waiting.lock();
        let (mut taken, mut all) = (Vec::new(), 0);
        while let Some(piece) = waiting.pieces.pop_front() {
            let spans = count(&piece);
            if all > 0 && all + spans > self.batch {
                waiting.pieces.push_front(piece);
                break;
            }
            all += spans;
            waiting.spans -= spans;
            waiting.bytes -= piece.encoded_len();
            taken.push(piece);
        }
        taken
    }

    /// How many spans were dropped since the last call.
    pub(crate) fn dropped(&self) -> u64 {
        std::mem::take(&mut self.waiting.lock().dropped)
    }

    pub(crate) fn drop_spans(&self, spans: &[ResourceSpans]) {
        self.waiting.lock().dropped += spans.iter().map(count).sum::<usize>() as u64;
    }

    fn len(&self) -> usize {
        self.waiting.lock().spans
    }
}

fn count(piece: &ResourceSpans) -> usize {
    piece.scope_spans.iter().map(|one| one.spans.len()).sum()
}

/// The same spans in pieces of at most `most`.
fn pieces(spans: ResourceSpans, most: usize) -> Vec<ResourceSpans> {
    if count(&spans) <= most {
        let is_empty = count(&spans) == 0;
        return if is_empty { Vec::new() } else { vec![spans] };
    }
    let mut all = Vec::new();
    for scope in &spans.scope_spans {
        all.extend(scope.spans.chunks(most).map(|chunk| ResourceSpans {
            resource: spans.resource.clone(),
            scope_spans: vec![ScopeSpans {
                scope: scope.scope.clone(),
                spans: chunk.to_vec(),
                schema_url: scope.schema_url.clone(),
            }],
            schema_url: spans.schema_url.clone(),
        }));
    }
    all
}

#[cfg(test)]
pub(crate) mod tests {
    use kiln_proto::otlp_trace::Span;

    use super::*;

    pub(crate) fn spans(number: usize) -> ResourceSpans {
        ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans: vec![Span::default(); number],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let queue = Queue::new(10, 4);
        queue.offer(spans(0));
        assert!(queue.take().is_empty());
        queue.offer(spans(9));
        queue.offer(spans(3));
        assert_eq!((queue.len(), queue.dropped(), queue.dropped()), (9, 3, 0));
        let sizes: Vec<usize> = std::iter::from_fn(|| {
            let batch = queue.take();
            (!batch.is_empty()).then(|| batch.iter().map(count).sum())
        })
        .collect();
        assert_eq!(sizes, [4, 4, 1]);
        assert_eq!(queue.waiting.lock().bytes, 0);
    }

    #[test]
    fn long_texts_fill_it_too() {
        let queue = Queue::new(10, 4);
        let mut long = spans(1);
        long.scope_spans[0].spans[0].name = "x".repeat(MOST_BYTES / 2);
        queue.offer(long.clone());
        queue.offer(long);
        assert_eq!((queue.len(), queue.dropped()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_until_it_is_full_or_due() {
        let queue = Queue::new(100, 4);
        let delay = Duration::from_secs(5);
        let began = Instant::now();
        queue.offer(spans(1));
        assert_eq!(queue.batch(delay).await.len(), 1);
        assert_eq!(began.elapsed(), delay);
        let began = Instant::now();
        let (batch, ()) = tokio::join!(queue.batch(delay), async {
            queue.offer(spans(2));
            tokio::task::yield_now().await;
            queue.offer(spans(2));
        });
        assert_eq!((batch.len(), began.elapsed()), (2, Duration::ZERO));
    }
}
