//! Registry credentials that stay with the client.
//!
//! Newer clients fetch tokens themselves ([`Caller::fetch_token`]), so that passwords never reach
//! the daemon. A client proves that it holds the same credentials as another one by a signature with
//! a key that it derives from them and from the daemon's salt: two builds may then share a token.

use std::sync::OnceLock;
use std::time::Duration;

use kiln_proto::moby::filesync::v1::auth_client::AuthClient;
use kiln_proto::moby::filesync::v1::{
    CredentialsRequest, FetchTokenRequest, GetTokenAuthorityRequest, VerifyTokenAuthorityRequest,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, UnparsedPublicKey};
use tonic::Code;

use crate::connection::{Connection, origin};
use crate::{Caller, Error};

const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const FETCH_TOKEN: &str = "/moby.filesync.v1.Auth/FetchToken";
const GET_AUTHORITY: &str = "/moby.filesync.v1.Auth/GetTokenAuthority";
const VERIFY_AUTHORITY: &str = "/moby.filesync.v1.Auth/VerifyTokenAuthority";
const TIMEOUT: Duration = Duration::from_mins(1);
const SIGNATURE: usize = 64;

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

/// A client's key for one host: who signs with it holds the same credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenAuthority([u8; 32]);

/// Random per start of the daemon, so that keys can't be recognised later.
fn salt() -> Result<[u8; 32], Error> {
    static SALT: OnceLock<[u8; 32]> = OnceLock::new();
    if let Some(salt) = SALT.get() {
        return Ok(*salt);
    }
    let fresh = random(GET_AUTHORITY)?;
    Ok(*SALT.get_or_init(|| fresh))
}

fn random(method: &'static str) -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Answer {
            method,
            reason: "the system has no randomness",
        })?;
    Ok(bytes)
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

    /// The client's key for the host. `None` if it doesn't fetch tokens itself.
    pub async fn token_authority(&self, host: &str) -> Result<Option<TokenAuthority>, Error> {
        let request = GetTokenAuthorityRequest {
            host: host.to_owned(),
            salt: salt()?.to_vec(),
        };
        let mut auth = self.auth();
        match self
            .unary(GET_AUTHORITY, TIMEOUT, auth.get_token_authority(request))
            .await
        {
            Ok(answer) => match <[u8; 32]>::try_from(answer.public_key.as_slice()) {
                Ok(key) => Ok(Some(TokenAuthority(key))),
                Err(_) => Err(Error::Answer {
                    method: GET_AUTHORITY,
                    reason: "the public key isn't 32 bytes long",
                }),
            },
            Err(error) => match error.code() {
                Some(Code::Unimplemented | Code::Unavailable) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Whether the client can sign with the key, that is, holds the credentials behind it.
    pub async fn holds_authority(
        &self,
        host: &str,
        authority: &TokenAuthority,
    ) -> Result<bool, Error> {
        let payload = random(VERIFY_AUTHORITY)?;
        let request = VerifyTokenAuthorityRequest {
            host: host.to_owned(),
            payload: payload.to_vec(),
            salt: salt()?.to_vec(),
        };
        let mut auth = self.auth();
        let answer = match self
            .unary(
                VERIFY_AUTHORITY,
                TIMEOUT,
                auth.verify_token_authority(request),
            )
            .await
        {
            Ok(answer) => answer,
            Err(error) if error.code() == Some(Code::Unimplemented) => return Ok(false),
            Err(error) => return Err(error),
        };
        // NaCl's form of a signed message: the signature, then the message.
        let Some((signature, message)) = answer.signed.split_at_checked(SIGNATURE) else {
            return Ok(false);
        };
        let valid = UnparsedPublicKey::new(&ED25519, authority.0)
            .verify(message, signature)
            .is_ok();
        Ok(valid && message == payload)
    }
}
