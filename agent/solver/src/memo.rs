//! One piece of work that many wait for: done once, kept, stopped when nobody waits any more.
//!
//! ```text
//!   idle ──first waiter──► busy ──────────► done (kept)
//!    ▲                      │
//!    └──last waiter leaves──┘   (the work's future is dropped)
//! ```
//!
//! A memo whose work is *passing* goes back to idle when the work is done: whoever waits then gets its
//! outcome, whoever comes later starts anew.
//!
//! Invariants: a waiter gets the outcome of work that ran to its end, never that of work that was
//! stopped because others left; an idle memo holds no task.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::SolveError;
use crate::op::OpError;

/// What a memo holds in the end.
type Outcome<T> = Result<T, OpError>;

/// See the module.
pub(crate) struct Memo<T>(Arc<Mutex<State<T>>>);

enum State<T> {
    Idle,
    Busy(Busy<T>),
    Done(Outcome<T>),
}

struct Busy<T> {
    /// Tells this work from work that the memo was busy with before.
    number: u64,
    waiters: usize,
    cancel: CancellationToken,
    outcome: watch::Receiver<Option<Outcome<T>>>,
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State::Idle)))
    }
}

impl<T: Clone + Send + Sync + 'static> Memo<T> {
    /// The outcome, if there is one.
    pub(crate) fn done(&self) -> Option<T> {
        match &*self.0.lock() {
            State::Done(Ok(value)) => Some(value.clone()),
            _ => None,
        }
    }

    /// Lets go of a failure, so that the next one who asks tries again.
    pub(crate) fn forget_failure(&self) {
        let mut state = self.0.lock();
        if matches!(*state, State::Done(Err(_))) {
            *state = State::Idle;
        }
    }

    /// Waits for the outcome; `work` makes it where nobody does so yet. Dropping the future leaves.
    pub(crate) async fn get<F>(&self, tasks: &TaskTracker, work: impl FnOnce() -> F) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        self.wait(tasks, true, work).await
    }

    /// The same for passing work.
    pub(crate) async fn pass<F>(&self, tasks: &TaskTracker, work: impl FnOnce() -> F) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        self.wait(tasks, false, work).await
    }

    async fn wait<F>(&self, tasks: &TaskTracker, keep: bool, work: impl FnOnce() -> F) -> Outcome<T>
    where
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        let (waiter, mut outcome) = match self.join(tasks, keep, work) {
            Ok(joined) => joined,
            Err(done) => return done,
        };
        let seen = outcome.wait_for(Option::is_some).await;
        let got = match seen {
            Ok(value) => value.clone().unwrap_or_else(|| Err(panicked())),
            // The sender is dropped without a word only if the work panicked: this waiter keeps it
            // from being cancelled.
            Err(_) => Err(panicked()),
        };
        drop(waiter);
        got
    }

    #[expect(
        clippy::type_complexity,
        reason = "the pair is taken apart at the one call"
    )]
    fn join<F>(
        &self,
        tasks: &TaskTracker,
        keep: bool,
        work: impl FnOnce() -> F,
    ) -> Result<(Waiter<T>, watch::Receiver<Option<Outcome<T>>>), Outcome<T>>
    where
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        let mut state = self.0.lock();
        let (number, cancel, outcome) = match &mut *state {
            State::Done(outcome) => return Err(outcome.clone()),
            State::Busy(busy) => {
                busy.waiters += 1;
                (busy.number, busy.cancel.clone(), busy.outcome.clone())
            }
            State::Idle => {
                static LAST: AtomicU64 = AtomicU64::new(0);
                let number = LAST.fetch_add(1, Ordering::Relaxed);
                let cancel = CancellationToken::new();
                let (publish, outcome) = watch::channel(None);
                *state = State::Busy(Busy {
                    number,
                    waiters: 1,
                    cancel: cancel.clone(),
                    outcome: outcome.clone(),
                });
                let state = Arc::clone(&self.0);
                tasks.spawn(finish(state, keep, work(), cancel.clone(), publish));
                (number, cancel, outcome)
            }
        };
        let waiter = Waiter {
            state: Arc::clone(&self.0),
            number,
            cancel,
        };
        Ok((waiter, outcome))
    }
}

/// Does the work, unless it is stopped, and publishes its outcome.
async fn finish<T: Clone>(
    state: Arc<Mutex<State<T>>>,
    keep: bool,
    work: impl Future<Output = Outcome<T>>,
    cancel: CancellationToken,
    publish: watch::Sender<Option<Outcome<T>>>,
) {
    let outcome = tokio::select! {
        biased;
        () = cancel.cancelled() => return,
        outcome = work => outcome,
    };
    {
        let mut state = state.lock();
        // The token is cancelled under this lock: a memo that was abandoned isn't touched.
        if !cancel.is_cancelled() {
            *state = if keep {
                State::Done(outcome.clone())
            } else {
                State::Idle
            };
        }
    }
    publish.send_replace(Some(outcome));
}

/// Somebody who waits for work that is under way.
struct Waiter<T> {
    state: Arc<Mutex<State<T>>>,
    number: u64,
    cancel: CancellationToken,
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        // A memo that went idle and busy again since is busy for others.
        if let State::Busy(busy) = &mut *state
            && busy.number == self.number
        {
            busy.waiters -= 1;
            if busy.waiters == 0 {
                self.cancel.cancel();
                *state = State::Idle;
            }
        }
    }
}

fn panicked() -> OpError {
    SolveError::Panicked.shared()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn work_is_done_once_for_all_who_wait_and_later() {
        let memo = Memo::default();
        let tasks = TaskTracker::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let get = || {
            memo.get(&tasks, || {
                let runs = Arc::clone(&runs);
                async move { Ok(runs.fetch_add(1, Ordering::SeqCst)) }
            })
        };
        let (a, b) = tokio::join!(get(), get());
        assert_eq!((a.unwrap(), b.unwrap(), get().await.unwrap()), (0, 0, 0));
        assert_eq!(memo.done(), Some(0));
    }

    #[tokio::test]
    async fn work_stops_when_the_last_waiter_leaves_and_starts_anew_for_the_next() {
        struct OnDrop(Arc<AtomicUsize>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let memo = Arc::new(Memo::default());
        let tasks = TaskTracker::new();
        let dropped = Arc::new(AtomicUsize::new(0));
        let go = Arc::new(Notify::new());
        let wait = || {
            let (memo, tasks) = (Arc::clone(&memo), tasks.clone());
            let (dropped, go) = (Arc::clone(&dropped), Arc::clone(&go));
            tokio::spawn(async move {
                memo.get(&tasks, || async move {
                    let _guard = OnDrop(dropped);
                    go.notified().await;
                    Ok(1)
                })
                .await
            })
        };
        let (first, second) = (wait(), wait());
        tokio::task::yield_now().await;
        first.abort();
        let _ = first.await;
        assert_eq!(dropped.load(Ordering::SeqCst), 0, "one waiter is left");
        second.abort();
        let _ = second.await;
        let third = wait();
        tokio::task::yield_now().await;
        go.notify_one();
        assert_eq!(third.await.unwrap().unwrap(), 1);
        tasks.close();
        tasks.wait().await;
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_for_who_waits() {
        let memo: Memo<()> = Memo::default();
        let tasks = TaskTracker::new();
        let got = memo.get(&tasks, || async { panic!("on purpose") }).await;
        assert!(got.unwrap_err().to_string().contains("panicked"));
    }
}
