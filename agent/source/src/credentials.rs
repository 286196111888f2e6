//! Registry credentials of the clients that wait for a build.

use std::sync::Arc;

use async_trait::async_trait;
use kiln_ids::SessionId;
use kiln_registry::{Credential, CredentialError, Credentials, Token, TokenRequest};
use kiln_session::{Caller, SessionManager};

/// Asks each session in turn. A client that fetches tokens itself is let do so: its password never comes here.
#[derive(Debug, Clone)]
pub struct SessionCredentials {
    manager: SessionManager,
    sessions: Vec<SessionId>,
}

impl SessionCredentials {
    /// Credentials of these sessions; anonymous where none is attached.
    pub fn new(manager: SessionManager, sessions: &[SessionId]) -> Self {
        Self {
            manager,
            sessions: sessions.to_vec(),
        }
    }

    fn attached(&self) -> impl Iterator<Item = Caller> {
        self.sessions
            .iter()
            .filter_map(|id| self.manager.attached(id))
    }
}

#[async_trait]
impl Credentials for SessionCredentials {
    async fn for_host(&self, host: &str) -> Result<Option<Credential>, CredentialError> {
        for caller in self.attached() {
            let found = caller.credentials(host).await.map_err(shared)?;
            let Some(found) = found else { continue };
            return Ok(Some(if found.username.is_empty() {
                Credential::IdentityToken(found.secret)
            } else {
                Credential::Basic {
                    username: found.username,
                    secret: found.secret,
                }
            }));
        }
        Ok(None)
    }

    async fn token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialError> {
        let asked = kiln_session::TokenRequest {
            host: request.host.clone(),
            realm: request.realm.clone(),
            service: request.service.clone(),
            scopes: request.scopes.clone(),
        };
        for caller in self.attached() {
            if caller.fetches_tokens(&request.host).await.map_err(shared)? {
                let token = caller.fetch_token(&asked).await.map_err(shared)?;
                return Ok(Some(Token {
                    token: token.token,
                    expires_in: Some(token.expires_in).filter(|time| !time.is_zero()),
                }));
            }
        }
        Ok(None)
    }
}

fn shared(error: kiln_session::Error) -> CredentialError {
    Arc::new(error)
}
