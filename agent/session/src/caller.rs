//! One attached client, as the engine's parts see it.

use std::sync::Arc;
use std::time::Duration;

use kiln_ids::SessionId;
use tokio_util::sync::CancellationToken;

use crate::{Connection, Error, SessionHeaders};

/// A client that can be called. Cheap to clone.
#[derive(Clone)]
pub struct Caller(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) headers: SessionHeaders,
    pub(crate) connection: Connection,
    pub(crate) closed: CancellationToken,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Caller").field(self.id()).finish()
    }
}

impl Caller {
    /// The session's id.
    pub fn id(&self) -> &SessionId {
        &self.0.headers.id
    }

    /// The key that stays the same over the builds of one directory.
    pub fn shared_key(&self) -> &str {
        &self.0.headers.shared_key
    }

    /// Whether the client serves the method, written `/package.Service/Method`.
    pub fn supports(&self, method: &str) -> bool {
        self.0
            .headers
            .methods
            .contains(&method.to_ascii_lowercase())
    }

    /// Completes when the client is gone.
    pub async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// A gRPC channel to the client, for services that this crate doesn't wrap.
    pub fn connection(&self) -> &Connection {
        &self.0.connection
    }

    pub(crate) fn require(&self, method: &str) -> Result<(), Error> {
        if self.supports(method) {
            Ok(())
        } else {
            Err(Error::Unsupported {
                method: method.to_owned(),
            })
        }
    }

    fn gone(&self) -> Error {
        Error::Closed {
            id: self.id().clone(),
            reason: "the client left",
        }
    }

    /// Runs `work` as long as the client is there.
    pub(crate) async fn while_attached<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let result = tokio::select! {
            result = work => result,
            () = self.0.closed.cancelled() => return Err(self.gone()),
        };
        match result {
            // The call fails a moment before the session is taken off the list.
            Err(error) if self.0.closed.is_cancelled() => {
                tracing::debug!(session = %self.id(), %error, "call of a client that left");
                Err(self.gone())
            }
            result => result,
        }
    }

    /// One call with one answer.
    pub(crate) async fn unary<T>(
        &self,
        method: &'static str,
        timeout: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Error> {
        self.while_attached(async {
            match tokio::time::timeout(timeout, call).await {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => Err(Error::Call {
                    method,
                    status: Box::new(status),
                }),
                Err(_) => Err(Error::Timeout { method }),
            }
        })
        .await
    }
}
