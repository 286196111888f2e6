//! Credentials for registries, as the daemon asks for them.

use std::sync::Arc;

use async_trait::async_trait;
use kiln_proto::moby::filesync::v1::{CredentialsRequest, CredentialsResponse};
use tonic::{Response, Status};

use super::Attached;
use crate::Error;

mod docker;
mod helper;

pub use docker::DockerConfig;

/// A user's credentials.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credential {
    /// Empty when the secret is an identity token.
    pub username: String,
    /// Password or token.
    pub secret: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Knows credentials.
#[async_trait]
pub trait CredentialSource: Send + Sync {
    /// The credentials for a registry's host; `None` if there are none.
    async fn credentials(&self, host: &str) -> Result<Option<Credential>, Error>;
}

pub(super) async fn credentials(
    attached: Arc<Attached>,
    request: CredentialsRequest,
) -> Result<Response<CredentialsResponse>, Status> {
    let Some(source) = &attached.credentials else {
        return Err(Status::unimplemented("no credentials are attached"));
    };
    let found = source
        .credentials(&request.host)
        .await
        .map_err(|error| Status::unknown(error.to_string()))?
        .unwrap_or_default();
    Ok(Response::new(CredentialsResponse {
        username: found.username,
        secret: found.secret,
    }))
}
