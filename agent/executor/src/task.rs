//! Runs a container as a task of its own, so that it is cleaned up even if nobody waits for it.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ExecutorError;

/// Runs `work` to its end on `tracker`. Dropping this future cancels the token that `work` got; so
/// does `cancel`. `work` then stops the process, cleans up, and returns.
pub(crate) async fn supervised<T, F, W>(
    tracker: &TaskTracker,
    cancel: &CancellationToken,
    work: W,
) -> Result<T, ExecutorError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ExecutorError>> + Send + 'static,
    W: FnOnce(CancellationToken) -> F,
{
    if cancel.is_cancelled() {
        return Err(ExecutorError::Cancelled);
    }
    let token = cancel.child_token();
    let _cancel_on_drop = token.clone().drop_guard();
    match tracker.spawn(work(token)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => Err(ExecutorError::Cancelled),
        },
    }
}

/// Runs what waits for file systems off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExecutorError> + Send + 'static,
) -> Result<T, ExecutorError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ExecutorError::Cancelled),
        },
    }
}
