//! A socket on which git's ssh finds the client's agent.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kiln_session::Caller;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::{GitError, Parts};
use crate::SourceContext;

/// Forwards connections until it is dropped.
pub(super) struct Agent {
    directory: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl Agent {
    /// Finds a client that forwards the agent and listens for it.
    pub(super) async fn forward(
        parts: &Parts,
        id: &str,
        cx: &SourceContext,
    ) -> Result<Self, GitError> {
        let caller = find(parts, id, cx).await?;
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| GitError::Io { path, source }
        };
        let directory = tempfile::Builder::new()
            .prefix("ssh-")
            .tempdir_in(&parts.tmp)
            .map_err(fail(&parts.tmp))?;
        let socket = directory.path().join("agent");
        let listener = UnixListener::bind(&socket).map_err(fail(&socket))?;
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o700))
            .map_err(fail(&socket))?;
        let id = id.to_owned();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut here, _)) = listener.accept().await {
                match caller.ssh_dial(&id) {
                    Ok(mut there) => {
                        connections.spawn(async move {
                            let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                        });
                    }
                    Err(error) => tracing::debug!(%error, "the ssh agent can't be reached"),
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { directory, task })
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn find(parts: &Parts, id: &str, cx: &SourceContext) -> Result<Caller, GitError> {
    for caller in cx
        .sessions
        .iter()
        .filter_map(|session| parts.sessions.attached(session))
    {
        if caller.ssh_check(id).await.is_ok() {
            return Ok(caller);
        }
    }
    Err(GitError::NoAgent { id: id.to_owned() })
}
