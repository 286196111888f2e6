//! The database: one writer thread, a pool of readers.
//!
//! Writes that wait at the same time share one transaction, each in a savepoint of its own, so that
//! a failed or panicking write undoes only itself; where SQLite gives up the whole transaction (on a full
//! disk, say), all that share it fail with it. A caller hears of success after the commit. The
//! journal is a WAL with `synchronous=NORMAL`: a commit survives the process at once, and the
//! machine after the next barrier of [`crate::Epochs`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, OpenFlags, Transaction};
use tokio::sync::oneshot;

use crate::error::chain;
use crate::{Error, Result};

/// More writes than this don't share one transaction, so that the first of them isn't kept waiting.
const MAX_BATCH: usize = 512;
/// Idle readers that are kept open.
const MAX_IDLE_READERS: usize = 8;

/// Runs inside of the batch's transaction; returns what to do once its fate is known.
type Run = Box<dyn FnOnce(&Transaction<'_>) -> (Done, Option<Failure>) + Send>;
type Done = Box<dyn FnOnce(Option<&Failure>) + Send>;

/// Why nothing of a batch was written; all its writes share it.
#[derive(Debug, Clone)]
struct Failure {
    message: String,
    is_full: bool,
}

impl Failure {
    fn of(error: &Error) -> Self {
        Self {
            message: chain(error),
            is_full: matches!(error, Error::Full),
        }
    }

    fn to_error(&self) -> Error {
        if self.is_full {
            return Error::Full;
        }
        Error::Commit {
            message: self.message.clone(),
        }
    }
}

struct Job {
    run: Run,
    /// Whether the commit is work that a sync barrier should follow.
    noticed: bool,
}

/// A handle on the database. Cheap to clone; the writer thread ends with the last one.
#[derive(Clone)]
pub struct Database {
    jobs: mpsc::Sender<Job>,
    readers: Arc<Readers>,
}

struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Database {
    /// Starts the writer on `connection`, which must be migrated. `after_commit` is called from the writer thread.
    pub(crate) fn start(
        connection: Connection,
        path: &Path,
        after_commit: impl Fn() + Send + 'static,
    ) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("kiln-db-writer".into())
            .spawn(move || run_writer(connection, &queue, &after_commit))
            .map_err(Error::io(path))?;
        Ok(Self {
            jobs,
            readers: Arc::new(Readers {
                path: path.to_owned(),
                idle: Mutex::new(Vec::new()),
            }),
        })
    }

    /// Runs `f` in a transaction and returns once it is committed. An error of `f` undoes what it did. The write
    /// takes place even if the returned future is dropped.
    pub async fn write<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.queue(f).await
    }

    /// The same, with its place among the other writes taken now and not when the future is polled first.
    pub fn queue<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send {
        let (answer, answered) = oneshot::channel();
        self.submit(true, f, move |result| {
            let _ = answer.send(result);
        });
        async move { answered.await.unwrap_or(Err(Error::Closed)) }
    }

    /// The same for threads that aren't part of the async runtime.
    pub fn write_blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.queue_blocking(f).wait()
    }

    /// The same, with its place among the other writes taken now.
    pub fn queue_blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Queued<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.submit(true, f, move |result| {
            let _ = answer.send(result);
        });
        Queued(answered)
    }

    /// Writes without waiting, in order with the other writes. A failure is logged.
    pub fn enqueue(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static,
    ) {
        self.submit(true, f, |result| {
            if let Err(error) = result {
                tracing::error!(error = &error as &dyn std::error::Error, "a write was lost");
            }
        });
    }

    /// For the barrier's own writes, after which no barrier is due.
    pub(crate) fn write_unnoticed<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.submit(false, f, move |result| {
            let _ = answer.send(result);
        });
        answered.recv().unwrap_or(Err(Error::Closed))
    }

    fn submit<T: Send + 'static>(
        &self,
        noticed: bool,
        f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
        answer: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let run: Run = Box::new(move |tx| {
            let result = in_savepoint(tx, f);
            let failure = result.as_ref().err().map(Failure::of);
            let done: Done = Box::new(move |failure: Option<&Failure>| {
                answer(match failure {
                    None => result,
                    Some(failure) => result.and_then(|_| Err(failure.to_error())),
                });
            });
            (done, failure)
        });
        // A closed channel drops the job and with it the sender of the answer.
        let _ = self.jobs.send(Job { run, noticed });
    }

    /// Runs `f` on a reader, on a thread for blocking work. It sees all writes that were committed before.
    pub async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.read_blocking(f))
            .await
            .unwrap_or(Err(Error::Panicked))
    }

    /// Runs `f` on a reader, on this thread.
    pub fn read_blocking<T>(
        &self,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let idle = self.readers.idle.lock().pop();
        let reader = match idle {
            Some(reader) => reader,
            None => open_reader(&self.readers.path)?,
        };
        let result = f(&reader);
        let mut idle = self.readers.idle.lock();
        if idle.len() < MAX_IDLE_READERS {
            idle.push(reader);
        }
        Ok(result?)
    }
}

/// A write that has its place among the others. It takes place whether or not somebody waits.
#[derive(Debug)]
#[must_use = "a failure would go unnoticed"]
pub struct Queued<T>(mpsc::Receiver<Result<T>>);

impl<T> Queued<T> {
    /// Blocks until the write is committed.
    pub fn wait(self) -> Result<T> {
        self.0.recv().unwrap_or(Err(Error::Closed))
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("path", &self.readers.path)
            .finish_non_exhaustive()
    }
}

fn in_savepoint<T>(
    tx: &Transaction<'_>,
    f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> Result<T> {
    tx.execute_batch("SAVEPOINT one_write")?;
    let result = match catch_unwind(AssertUnwindSafe(|| f(tx))) {
        Ok(result) => result.map_err(Error::from),
        Err(_) => Err(Error::Panicked),
    };
    // An error may have undone the whole transaction already, and then there is no savepoint.
    if tx.is_autocommit() {
        return result;
    }
    if result.is_err() {
        tx.execute_batch("ROLLBACK TO one_write")?;
    }
    tx.execute_batch("RELEASE one_write")?;
    result
}

fn run_writer(mut connection: Connection, queue: &mpsc::Receiver<Job>, after_commit: &dyn Fn()) {
    while let Ok(first) = queue.recv() {
        let mut waiting = Vec::new();
        let mut noticed = first.noticed;
        let failure = match connection.transaction() {
            Ok(tx) => {
                let mut next = Some(first);
                let mut undone = None;
                while let Some(job) = next.take() {
                    noticed |= job.noticed;
                    let (done, failure) = (job.run)(&tx);
                    waiting.push(done);
                    if tx.is_autocommit() {
                        undone = failure;
                        break;
                    }
                    if waiting.len() < MAX_BATCH {
                        next = queue.try_recv().ok();
                    }
                }
                undone.or_else(|| tx.commit().err().map(|error| Failure::of(&error.into())))
            }
            // Whoever waits for the first hears that its sender is gone.
            Err(error) => Some(Failure::of(&error.into())),
        };
        if let Some(Failure { message, .. }) = &failure {
            tracing::error!(message, writes = waiting.len(), "a batch of writes failed");
        }
        if noticed {
            after_commit();
        }
        for done in waiting {
            done(failure.as_ref());
        }
    }
}

/// Opens the connection that becomes the writer, with the pragmas that the module's doc promises.
pub(crate) fn open_writer(path: &Path, epoch: Arc<AtomicU64>) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    // Only a new file takes it; an existing one, perhaps of a newer daemon, isn't touched for it.
    if connection.query_row("PRAGMA page_count", (), |row| row.get::<_, i64>(0))? == 0 {
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    }
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;
         PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -8000;",
    )?;
    connection.set_prepared_statement_cache_capacity(256);
    register_epoch_function(&connection, epoch)?;
    Ok(connection)
}

/// Brings the journal into the database file. Readers that are still open don't keep it from that.
pub(crate) fn merge_journal(path: &Path) -> Result<()> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(1))?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
    Ok(())
}

/// `current_epoch()` in SQL, so that a row's epoch is read where the writer thread writes the row.
pub(crate) fn register_epoch_function(
    connection: &Connection,
    epoch: Arc<AtomicU64>,
) -> Result<()> {
    connection.create_scalar_function(
        "current_epoch",
        0,
        FunctionFlags::SQLITE_UTF8,
        move |_| Ok(epoch.load(Ordering::Acquire).cast_signed()),
    )?;
    Ok(())
}

fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}
