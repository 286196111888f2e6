//! Registry credentials that stay with the client.
//!
//! Newer clients fetch tokens themselves ([`Caller::fetch_token`]), so that passwords never reach
//! the daemon.

use std::sync::OnceLock;
use std::time::Duration;

use kiln_proto::moby::filesync::v1::auth_client::AuthClient;
use kiln_proto::moby::filesync::v1::{
    CredentialsRequest, FetchTokenRequest, GetTokenAuthorityRequest,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use tonic::Code;

use crate::connection::{Connection, origin};
use crate::{Caller, Error};

const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const FETCH_TOKEN: &str = "/moby.filesync.v1.Auth/FetchToken";
const GET_AUTHORITY: &str = "/moby.filesync.v1.Auth/GetTokenAuthority";
const TIMEOUT: Duration = Duration::from_mins(1);
const PUBLIC_KEY: usize = 32;

/// A user's credentials for one registry host.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Empty when `secret` is an identity token.
    pub username: String,
    /// Password or identity token.
    pub secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A token that the client fetched.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// For `Authorization: Bearer`.
    pub token: String,
    /// For how long it is good.
    pub expires_in: Duration,
    /// Seconds since 1970, or 0 if the registry didn't say.
    pub issued_at: i64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

/// Which token to fetch, from the registry's challenge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRequest {
    /// The registry's host.
    pub host: String,
    /// The token server's URL.
    pub realm: String,
    /// The registry's name for itself.
    pub service: String,
    /// Such as `repository:library/alpine:pull`.
    pub scopes: Vec<String>,
}

/// Random per start of the daemon, so that the keys that clients answer with can't be recognised later.
fn salt() -> Result<[u8; 32], Error> {
    static SALT: OnceLock<[u8; 32]> = OnceLock::new();
    if let Some(salt) = SALT.get() {
        return Ok(*salt);
    }
    let mut fresh = [0; 32];
    SystemRandom::new()
        .fill(&mut fresh)
        .map_err(|_| Error::Answer {
            method: GET_AUTHORITY,
            reason: "the system has no randomness",
        })?;
    Ok(*SALT.get_or_init(|| fresh))
}

impl Caller {
    fn auth(&self) -> AuthClient<Connection> {
        AuthClient::with_origin(self.connection().clone(), origin())
    }

    /// The credentials for a registry host. `None` if the client has none or won't tell.
    pub async fn credentials(&self, host: &str) -> Result<Option<Credentials>, Error> {
        let request = CredentialsRequest {
            host: host.to_owned(),
        };
        let mut auth = self.auth();
        match self
            .unary(CREDENTIALS, TIMEOUT, auth.credentials(request))
            .await
        {
            Ok(answer) if answer.secret.is_empty() && answer.username.is_empty() => Ok(None),
            Ok(answer) => Ok(Some(Credentials {
                username: answer.username,
                secret: answer.secret,
            })),
            Err(error) if error.code() == Some(Code::Unimplemented) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets the client fetch a token.
    pub async fn fetch_token(&self, request: &TokenRequest) -> Result<Token, Error> {
        let request = FetchTokenRequest {
            client_id: String::new(),
            host: request.host.clone(),
            realm: request.realm.clone(),
            service: request.service.clone(),
            scopes: request.scopes.clone(),
        };
        let mut auth = self.auth();
        let answer = self
            .unary(FETCH_TOKEN, TIMEOUT, auth.fetch_token(request))
            .await?;
        Ok(Token {
            token: answer.token,
            expires_in: Duration::from_secs(u64::try_from(answer.expires_in).unwrap_or_default()),
            issued_at: answer.issued_at,
        })
    }

    /// Whether the client fetches tokens for the host itself. It says so with a key that it derives from its
    /// credentials; what else the key is for, to share tokens between clients, isn't done here.
    pub async fn fetches_tokens(&self, host: &str) -> Result<bool, Error> {
        let request = GetTokenAuthorityRequest {
            host: host.to_owned(),
            salt: salt()?.to_vec(),
        };
        let mut auth = self.auth();
        match self
            .unary(GET_AUTHORITY, TIMEOUT, auth.get_token_authority(request))
            .await
        {
            Ok(answer) if answer.public_key.len() == PUBLIC_KEY => Ok(true),
            Ok(_) => Err(Error::Answer {
                method: GET_AUTHORITY,
                reason: "the public key isn't 32 bytes long",
            }),
            Err(error) => match error.code() {
                Some(Code::Unimplemented | Code::Unavailable) => Ok(false),
                _ => Err(error),
            },
        }
    }
}
