//! The builds that run, and who waits for one to begin or to end.
//!
//! Invariant: a build is among them exactly while its [`Presence`] lives, however it ends.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_gateway::{Registration, Rendezvous};
use kiln_ids::BuildRef;
use kiln_progress::Hub;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// A build that runs.
#[derive(Clone)]
pub(crate) struct Live {
    /// Its progress.
    pub(crate) hub: Arc<Hub>,
    /// Ends it.
    pub(crate) cancel: CancellationToken,
}

/// See the module.
pub(crate) struct Present {
    running: Rendezvous<Live>,
    count: watch::Sender<usize>,
    ended: Notify,
}

impl Default for Present {
    fn default() -> Self {
        Self {
            running: Rendezvous::default(),
            count: watch::Sender::new(0),
            ended: Notify::new(),
        }
    }
}

impl Present {
    /// Adds a build; `None` where one of its name runs already.
    pub(crate) fn enter(&self, build: BuildRef, live: Live) -> Option<Presence<'_>> {
        let registration = self.running.register(build, live)?;
        self.count_again();
        Some(Presence {
            present: self,
            registration: Some(registration),
        })
    }

    /// All of them, by name.
    pub(crate) fn running(&self) -> &Rendezvous<Live> {
        &self.running
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.running.all().len()
    }

    /// Under the lock of who is told, so that the last one to count is the last one to tell.
    fn count_again(&self) {
        self.count.send_modify(|count| *count = self.count());
    }

    /// How many there are, now and with each change.
    pub(crate) fn watch(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Waits for one to end, or returns at once if one has ended since the last call.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }
}

/// One build's place among them.
pub(crate) struct Presence<'a> {
    present: &'a Present,
    registration: Option<Registration<Live>>,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.registration = None;
        self.present.count_again();
        self.present.ended.notify_one();
    }
}

/// The outcome of a build's work. One that panics has failed: its record is completed like any other's.
pub(crate) async fn unwound<T>(
    work: impl Future<Output = Result<T, SharedError>>,
) -> Result<T, SharedError> {
    let outcome = AssertUnwindSafe(Box::pin(work)).catch_unwind().await;
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("without a message");
        Err(WithDetail::message(Kind::Internal, format!("the daemon panicked: {text}")).shared())
    })
}

#[cfg(test)]
mod tests {
    use kiln_errdefs::text;

    use super::*;

    #[tokio::test]
    async fn whoever_leaves_by_a_panic_has_left() {
        let present = Arc::new(Present::default());
        let mut count = present.watch();
        let build = BuildRef::new("one");
        let live = Live {
            hub: Hub::new(),
            cancel: CancellationToken::new(),
        };
        let task = tokio::spawn({
            let (present, build) = (Arc::clone(&present), build.clone());
            async move {
                let presence = present.enter(build.clone(), live.clone());
                assert!(presence.is_some(), "it is the first of its name");
                assert!(present.enter(build, live).is_none(), "the second is not");
                panic!("a bug");
            }
        });
        task.await.unwrap_err();
        assert_eq!(present.count(), 0);
        assert_eq!(*count.borrow_and_update(), 0);
        present.ended().await;
        assert!(present.running().wait_for(&build).now().is_none());
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let error = unwound::<()>(async { panic!("step {}", 3) }).await;
        let error = error.unwrap_err();
        assert_eq!(text(error.as_ref()), "the daemon panicked: step 3");
    }
}
