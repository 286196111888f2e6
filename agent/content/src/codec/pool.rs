//! Threads that compress and decompress pieces for all streams of the process.

use std::sync::{Arc, OnceLock, mpsc};

use parking_lot::Mutex;

type Task = Box<dyn FnOnce() + Send>;

/// A pool of threads. The shared one lives as long as the process.
#[derive(Clone)]
pub(super) struct Pool {
    tasks: mpsc::Sender<Task>,
    workers: usize,
}

impl Pool {
    /// One thread per core.
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<Pool> = OnceLock::new();
        SHARED.get_or_init(|| {
            Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
        })
    }

    pub(super) fn new(workers: usize) -> Self {
        let (tasks, queue) = mpsc::channel::<Task>();
        let queue = Arc::new(Mutex::new(queue));
        let mut running = 0;
        for _ in 0..workers {
            let queue = Arc::clone(&queue);
            let started = std::thread::Builder::new()
                .name("kiln-codec".into())
                .spawn(move || {
                    loop {
                        let task = queue.lock().recv();
                        let Ok(task) = task else { return };
                        task();
                    }
                });
            running += usize::from(started.is_ok());
        }
        Self {
            tasks,
            workers: running,
        }
    }

    pub(super) const fn workers(&self) -> usize {
        self.workers
    }

    /// Runs `f` on a worker. The result comes from the receiver; it ends without one if `f` panicked.
    pub(super) fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        let task: Task = Box::new(move || {
            // A panic ends the task, not the worker.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
            if let Ok(result) = result {
                let _ = answer.send(result);
            }
        });
        if self.workers == 0 {
            task();
        } else {
            let _ = self.tasks.send(task);
        }
        answered
    }
}
