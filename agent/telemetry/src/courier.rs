//! What carries spans from the queue to the collector.
//!
//! ```text
//!  gathering ──full or due──► sending ──accepted, refused──► gathering
//!                               │  ▲
//!                        failed ▼  │ after a while (1 s, 2 s, … 30 s)
//!                              waiting ──a minute──► dropped ──► gathering
//!  stop: what waits is sent once more, as much of it as goes in LAST
//! ```

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kiln_proto::otlp_trace::{ExportTraceServiceRequest, ResourceSpans};
use tokio::time::{Instant, sleep, timeout};

use crate::Settings;
use crate::queue::Queue;
use crate::transport::{Failure, Transport};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A batch that the collector hasn't taken by then is dropped.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long the daemon's end may take because of spans.
const LAST: Duration = Duration::from_secs(2);

/// Carries spans until it is stopped.
pub struct Courier {
    queue: Arc<Queue>,
    transport: Box<dyn Transport>,
    delay: Duration,
    endpoint: String,
    is_away: bool,
}

impl std::fmt::Debug for Courier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Courier")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Courier {
    pub(crate) fn new(
        queue: Arc<Queue>,
        transport: Box<dyn Transport>,
        settings: &Settings,
    ) -> Self {
        Self {
            queue,
            transport,
            delay: settings.delay,
            endpoint: settings.endpoint.clone(),
            is_away: false,
        }
    }

    /// Carries spans until `stop`, then the last ones.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = self.carry(&mut batch) => {}
            }
        }
        let last = async {
            if batch.is_empty() {
                batch = self.queue.take();
            }
            while !batch.is_empty() && self.send(&batch).await.is_ok() {
                batch = self.queue.take();
            }
        };
        // What is left then is lost with the daemon.
        let _ = timeout(LAST, last).await;
    }

    /// One batch. What is being carried stays in `batch`, so that nothing is lost when this is stopped.
    async fn carry(&mut self, batch: &mut Vec<ResourceSpans>) {
        if batch.is_empty() {
            *batch = self.queue.batch(self.delay).await;
        }
        let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
        while let Err(failure) = self.send(batch).await {
            if began.elapsed() + pause > PATIENCE {
                self.lose(batch, &failure);
                break;
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        batch.clear();
    }

    /// Sends once; what the collector refuses isn't sent again.
    async fn send(&mut self, batch: &[ResourceSpans]) -> Result<(), Failure> {
        let request = ExportTraceServiceRequest {
            resource_spans: batch.to_vec(),
        };
        match self.transport.send(request).await {
            Ok(rejected) => {
                if let Some(words) = rejected {
                    tracing::warn!(endpoint = self.endpoint, "the collector says: {words}");
                }
                self.is_back();
                Ok(())
            }
            Err(failure) if failure.is_lasting() => {
                tracing::warn!(
                    endpoint = self.endpoint,
                    "the collector refused spans: {failure}"
                );
                self.queue.drop_spans(batch);
                Ok(())
            }
            Err(failure) => {
                if !self.is_away {
                    self.is_away = true;
                    tracing::warn!(
                        endpoint = self.endpoint,
                        "spans can't be sent, and are dropped once too many wait; builds go on: {failure}"
                    );
                }
                Err(failure)
            }
        }
    }

    fn is_back(&mut self) {
        let dropped = self.queue.dropped();
        if self.is_away || dropped > 0 {
            tracing::info!(endpoint = self.endpoint, dropped, "spans are sent");
        }
        self.is_away = false;
    }

    fn lose(&self, batch: &[ResourceSpans], failure: &Failure) {
        tracing::debug!(endpoint = self.endpoint, "spans are dropped: {failure}");
        self.queue.drop_spans(batch);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use parking_lot::Mutex;

    use super::*;
    use crate::Spans;
    use crate::queue::tests::spans;

    /// Answers in turn, then accepts; notes what came when.
    #[derive(Clone, Default)]
    struct Script {
        answers: Arc<Mutex<VecDeque<Failure>>>,
        came: Arc<Mutex<Vec<(usize, Duration)>>>,
        began: Option<Instant>,
        hangs: bool,
    }

    #[async_trait::async_trait]
    impl Transport for Script {
        async fn send(
            &mut self,
            request: ExportTraceServiceRequest,
        ) -> Result<Option<String>, Failure> {
            let now = self.began.map_or(Duration::ZERO, |began| began.elapsed());
            self.came.lock().push((request.resource_spans.len(), now));
            if self.hangs {
                std::future::pending::<()>().await;
            }
            match self.answers.lock().pop_front() {
                Some(failure) => Err(failure),
                None => Ok(None),
            }
        }
    }

    fn courier(script: &Script) -> (Spans, Courier) {
        let queue = Arc::new(Queue::new(100, 10));
        let courier = Courier {
            queue: Arc::clone(&queue),
            transport: Box::new(script.clone()),
            delay: Duration::from_millis(100),
            endpoint: String::new(),
            is_away: false,
        };
        (Spans::new(queue), courier)
    }

    fn script(answers: impl IntoIterator<Item = Failure>) -> Script {
        Script {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            began: Some(Instant::now()),
            ..Script::default()
        }
    }

    fn away() -> Failure {
        Failure::Passing("away".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_comes_back_gets_the_batch() {
        let script = script([away(), away()]);
        let (to, courier) = courier(&script);
        to.offer(spans(1));
        courier.run(sleep(Duration::from_secs(10))).await;
        let came = script.came.lock().clone();
        let after = |milliseconds| (1, Duration::from_millis(milliseconds));
        assert_eq!(came, [after(100), after(1100), after(3100)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_stays_away_costs_a_bounded_queue() {
        let script = script(std::iter::repeat_n(away(), 1000));
        let (to, courier) = courier(&script);
        let queue = Arc::clone(&courier.queue);
        let work = async {
            for _ in 0..200 {
                to.offer(spans(3));
                sleep(Duration::from_secs(1)).await;
            }
        };
        courier.run(work).await;
        assert!(queue.dropped() > 300);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_not_sent_again() {
        let script = script([Failure::Lasting("no such tenant".into())]);
        let (to, courier) = courier(&script);
        to.offer(spans(1));
        let work = async {
            sleep(Duration::from_secs(1)).await;
            to.offer(spans(2));
            sleep(Duration::from_secs(1)).await;
        };
        courier.run(work).await;
        assert_eq!(script.came.lock().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_spans_go_out_at_the_end() {
        let script = script([]);
        let (to, courier) = courier(&script);
        to.offer(spans(25));
        courier.run(std::future::ready(())).await;
        let came: usize = script.came.lock().iter().map(|(pieces, _)| pieces).sum();
        assert_eq!(came, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_not_kept_up() {
        let script = Script {
            hangs: true,
            ..script([])
        };
        let (to, courier) = courier(&script);
        to.offer(spans(1));
        let began = Instant::now();
        courier.run(sleep(Duration::from_secs(1))).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1) + LAST);
        assert_eq!(script.came.lock().len(), 2);
    }
}
