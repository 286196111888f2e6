//! How many ops run at once in the whole daemon, and whose turn it is.
//!
//! Builds take turns: with one slot free and many waiting, the next slot goes to the build that has
//! waited longest since it got one, however many steps of it wait.
//!
//! Invariants: a slot that was handed to a waiter who has left goes to the next one; a build has a
//! queue only while some of its steps wait.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The daemon's slots.
pub(crate) struct Slots(Option<Mutex<Inner>>);

struct Inner {
    free: usize,
    queues: VecDeque<(u64, VecDeque<oneshot::Sender<()>>)>,
}

/// The right to run an op.
pub(crate) struct Slot(Arc<Slots>);

impl Slots {
    /// As many slots as `limit`, or no limit.
    pub(crate) fn new(limit: Option<usize>) -> Arc<Self> {
        Arc::new(Self(limit.map(|limit| {
            Mutex::new(Inner {
                free: limit.max(1),
                queues: VecDeque::new(),
            })
        })))
    }

    /// Waits for a slot on behalf of `build`.
    pub(crate) async fn take(self: &Arc<Self>, build: u64) -> Slot {
        let Some(inner) = &self.0 else {
            return Slot(Arc::clone(self));
        };
        let turn = {
            let mut inner = inner.lock();
            if inner.free > 0 {
                inner.free -= 1;
                return Slot(Arc::clone(self));
            }
            let (grant, turn) = oneshot::channel();
            match inner.queues.iter_mut().find(|(owner, _)| *owner == build) {
                Some((_, queue)) => queue.push_back(grant),
                None => inner.queues.push_back((build, VecDeque::from([grant]))),
            }
            turn
        };
        let mut waiting = Waiting {
            slots: self,
            turn,
            over: false,
        };
        // The sender stays in the queue until it grants.
        let _ = (&mut waiting.turn).await;
        waiting.over = true;
        Slot(Arc::clone(self))
    }

    fn give_back(&self) {
        let Some(inner) = &self.0 else {
            return;
        };
        let mut inner = inner.lock();
        while let Some((build, mut queue)) = inner.queues.pop_front() {
            let granted =
                std::iter::from_fn(|| queue.pop_front()).any(|turn| turn.send(()).is_ok());
            if !queue.is_empty() {
                inner.queues.push_back((build, queue));
            }
            if granted {
                return;
            }
        }
        inner.free += 1;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

struct Waiting<'a> {
    slots: &'a Slots,
    turn: oneshot::Receiver<()>,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // A grant may have been sent just before this waiter left.
        self.turn.close();
        if self.turn.try_recv().is_ok() {
            self.slots.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn builds_take_turns() {
        let slots = Slots::new(Some(1));
        let held = slots.take(0).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for build in [1, 1, 1, 2, 2] {
            let (slots, order) = (Arc::clone(&slots), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _slot = slots.take(build).await;
                order.lock().push(build);
            }));
            tokio::task::yield_now().await;
        }
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), [1, 2, 1, 2, 1]);
    }

    #[tokio::test]
    async fn a_waiter_who_leaves_loses_no_slot() {
        let slots = Slots::new(Some(1));
        let held = slots.take(0).await;
        let mut leaving = Box::pin(slots.take(1));
        assert!(futures_poll(&mut leaving).await);
        drop(held); // Grants to the waiter, who never looks.
        drop(leaving);
        drop(slots.take(2).await);
    }

    /// Polls once; whether it is pending.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> bool {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())
        })
        .await
    }
}
