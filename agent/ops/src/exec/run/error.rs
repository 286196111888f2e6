//! How a step fails.

use std::fmt;
use std::sync::Arc;

use kiln_cache::{CacheManager, OpResult, Ref};
use kiln_executor::ExecutorError;

/// A step that failed, with the states that a debugger can look into.
#[derive(Clone)]
pub struct ExecError {
    /// Why.
    pub source: Arc<ExecFailure>,
    /// What each mount was made of; `None` where it has no input.
    pub inputs: Vec<Option<OpResult>>,
    /// What each mount was when the step ended.
    pub mounts: Vec<Option<OpResult>>,
    /// Removes states that only this error knows, with the last clone of it.
    pub(super) leftovers: Arc<Leftovers>,
}

impl fmt::Debug for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecError")
            .field("source", &self.source)
            .field("leftovers", &self.leftovers.states.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)
    }
}

impl std::error::Error for ExecError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // It prints as the failure itself; what is behind that comes next.
        std::error::Error::source(&*self.source)
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum ExecFailure {
    /// It ended with a code that doesn't count as success.
    #[error("process {command} did not complete successfully: exit code: {code}{}", memory_words(*.out_of_memory))]
    Exit {
        /// The command, quoted.
        command: String,
        /// Its exit code.
        code: u32,
        /// The kernel killed it for want of memory.
        out_of_memory: bool,
    },
    /// It could not be run.
    #[error("process {command} did not complete successfully")]
    NotRun {
        /// The command, quoted.
        command: String,
        /// Why not.
        #[source]
        source: NotRun,
    },
}

/// Why a step could not be run.
#[derive(Debug, thiserror::Error)]
pub enum NotRun {
    /// The executor couldn't.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// Its mounts or its user couldn't be made out.
    #[error(transparent)]
    Mounts(#[from] kiln_mounts::Error),
    /// There is no network for it.
    #[error(transparent)]
    Network(#[from] kiln_network::NetworkError),
    /// What it wrote couldn't be kept.
    #[error(transparent)]
    Cache(#[from] kiln_cache::Error),
}

fn memory_words(killed: bool) -> &'static str {
    if killed {
        ": cannot allocate memory (the kernel killed a process of the step)"
    } else {
        ""
    }
}

/// States that nothing else names.
pub(super) struct Leftovers {
    pub(super) states: Vec<Ref>,
    pub(super) cache: CacheManager,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let states = std::mem::take(&mut self.states);
        if states.is_empty() {
            return;
        }
        let cache = self.cache.clone();
        self.runtime.spawn(async move {
            for state in states {
                let id = state.id().clone();
                drop(state);
                if let Err(error) = cache.remove(&id).await {
                    tracing::debug!(%id, %error, "what a failed step wrote is left for a prune");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_as_buildkits() {
        let exit = |code, out_of_memory| ExecFailure::Exit {
            command: "\"x\"".into(),
            code,
            out_of_memory,
        };
        assert_eq!(
            exit(3, false).to_string(),
            "process \"x\" did not complete successfully: exit code: 3"
        );
        assert!(
            exit(137, true)
                .to_string()
                .contains("exit code: 137: cannot allocate memory")
        );
    }
}
