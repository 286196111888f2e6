//! The sessions that are attached, by id.
//!
//! ```text
//!  serve ── handshake ──► attached ──┬─ connection ends ──► gone
//!                                    ├─ two health checks fail
//!                                    └─ serve is dropped
//! ```
//! **Invariant:** a session is listed exactly as long as its `serve` future lives and works, so a
//! caller that holds a [`Caller`] of a dead client gets errors at once, never silence.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kiln_ids::SessionId;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, Inner};
use crate::{Error, SessionHeaders, connection, health};

/// How long [`SessionManager::get`] waits for a session to attach, as BuildKit does.
const ATTACH: Duration = Duration::from_secs(5);

/// All sessions of a daemon.
#[derive(Clone, Default)]
pub struct SessionManager(Arc<State>);

#[derive(Default)]
struct State {
    sessions: Mutex<HashMap<SessionId, Caller>>,
    changed: Notify,
}

impl std::fmt::Debug for SessionManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionManager")
            .field("sessions", &self.0.sessions.lock().len())
            .finish()
    }
}

/// Takes a session off the list when its connection is done for, however that comes about.
struct Listed {
    state: Arc<State>,
    id: SessionId,
    closed: CancellationToken,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.state.sessions.lock().remove(&self.id);
        self.closed.cancel();
    }
}

impl SessionManager {
    /// A manager without sessions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches the session of a client at the other end of `io`. Returns when the client left.
    pub async fn serve<T>(&self, headers: SessionHeaders, io: T) -> Result<(), Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let id = headers.id.clone();
        if self.0.sessions.lock().contains_key(&id) {
            return Err(Error::Duplicate { id });
        }
        let (connection, driver) = connection::open(&id, io).await?;
        let closed = CancellationToken::new();
        let timeout = headers.health_timeout;
        let caller = Caller(Arc::new(Inner {
            headers,
            connection: connection.clone(),
            closed: closed.clone(),
        }));
        {
            let mut sessions = self.0.sessions.lock();
            if sessions.contains_key(&id) {
                return Err(Error::Duplicate { id });
            }
            sessions.insert(id.clone(), caller);
        }
        let _listed = Listed {
            state: Arc::clone(&self.0),
            id: id.clone(),
            closed,
        };
        self.0.changed.notify_waiters();
        tracing::debug!(session = %id, "session attached");
        tokio::select! {
            // A client that just hangs up is the usual end, whatever HTTP/2 makes of it.
            ended = driver => {
                tracing::debug!(session = %id, ?ended, "session ended");
                Ok(())
            }
            () = health::failed(connection, timeout) => Err(Error::Closed {
                id,
                reason: "the client no longer answers health checks",
            }),
        }
    }

    /// The session, once it is attached. Waits up to five seconds for that. A prefix that ends in
    /// a colon isn't part of the id.
    pub async fn get(&self, id: &SessionId) -> Result<Caller, Error> {
        let wanted = strip(id);
        let wait = async {
            loop {
                let mut changed = std::pin::pin!(self.0.changed.notified());
                // Registered before looking, so that no attachment in between is missed.
                changed.as_mut().enable();
                if let Some(caller) = self.attached(&wanted) {
                    return caller;
                }
                changed.await;
            }
        };
        tokio::time::timeout(ATTACH, wait)
            .await
            .map_err(|_| Error::NoSession {
                ids: vec![id.clone()],
            })
    }

    /// The session, if it is attached now.
    pub fn attached(&self, id: &SessionId) -> Option<Caller> {
        self.0.sessions.lock().get(&strip(id)).cloned()
    }

    /// Tries `call` with each session in turn until one succeeds; the last failure counts.
    pub async fn any<T, E, F, Fut>(&self, ids: &[SessionId], call: F) -> Result<T, E>
    where
        F: Fn(Caller) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let mut last = None;
        for id in ids {
            match self.get(id).await {
                Ok(caller) => match call(caller).await {
                    Ok(value) => return Ok(value),
                    Err(error) => last = Some(error),
                },
                Err(error) => last = Some(error.into()),
            }
        }
        Err(last.unwrap_or_else(|| Error::NoSession { ids: Vec::new() }.into()))
    }
}

fn strip(id: &SessionId) -> SessionId {
    match id.as_str().split_once(':') {
        Some((_, rest)) if !rest.is_empty() => SessionId::new(rest),
        _ => id.clone(),
    }
}
