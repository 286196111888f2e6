//! Who we are to a registry: challenges, Basic, and tokens with scopes.
//!
//! ```text
//! request ─401─▶ challenge ─▶ Basic: credentials go with each request
//!                          └▶ Bearer: a token for the scopes that we have plus those of the challenge
//! ```
//! A token is kept per host and scopes until it expires. Credentials are asked for only on a challenge.

mod challenge;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use http::{HeaderMap, header};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::hosts::{Endpoint, Hosts};
use crate::request::{failed, message_of};
use crate::{Error, Result};
use challenge::{merge_scopes, parse_challenges};

/// Why credentials couldn't be had.
pub type CredentialError = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// What identifies somebody to a registry. Not shown when debugged.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password, or a personal token.
        secret: String,
    },
    /// A token that buys other tokens.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic",
            Self::IdentityToken(_) => "IdentityToken",
        })
    }
}

/// What a token server is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// The registry that the token is for.
    pub host: String,
    /// The token server.
    pub realm: String,
    /// The registry's name at the token server.
    pub service: String,
    /// `repository:library/alpine:pull`.
    pub scopes: Vec<String>,
}

/// A bearer token. Not shown when debugged.
#[derive(Clone)]
pub struct Token {
    /// What goes into `Authorization`.
    pub token: String,
    /// How long it holds from now; registries that don't say mean a minute.
    pub expires_in: Option<Duration>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Somebody's credentials.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Credentials for a registry, `None` to be anonymous.
    async fn for_host(&self, host: &str) -> Result<Option<Credential>, CredentialError>;

    /// A token from whoever holds the credentials without giving them away; `None` where they are to be asked for
    /// with [`for_host`](Self::for_host).
    async fn token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialError> {
        let _ = request;
        Ok(None)
    }
}

/// No credentials.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn for_host(&self, _: &str) -> Result<Option<Credential>, CredentialError> {
        Ok(None)
    }
}

/// What one client has learnt about authorization.
pub(crate) struct Authorizer {
    credentials: Arc<dyn Credentials>,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone)]
struct Known {
    scheme: Scheme,
    tokens: HashMap<BTreeSet<String>, (String, Instant)>,
}

#[derive(Clone, PartialEq, Eq)]
enum Scheme {
    Basic(String),
    Bearer { realm: String, service: String },
}

impl Authorizer {
    pub(crate) fn new(credentials: Arc<dyn Credentials>) -> Self {
        Self {
            credentials,
            known: Mutex::default(),
        }
    }

    /// The header for a request, as far as earlier challenges of the host say. Fetches a token if need be.
    pub(crate) async fn header(
        &self,
        hosts: &Hosts,
        endpoint: &Endpoint,
        scopes: &BTreeSet<String>,
    ) -> Result<Option<String>> {
        let known = self.known.lock().get(&endpoint.host).cloned();
        let Some(known) = known else { return Ok(None) };
        match known.scheme {
            Scheme::Basic(header) => Ok(Some(header)),
            Scheme::Bearer { realm, service } => {
                let now = Instant::now();
                let cached = known.tokens.iter().find_map(|(held, (token, until))| {
                    (held.is_superset(scopes) && *until > now).then(|| token.clone())
                });
                let token = match cached {
                    Some(token) => token,
                    None => {
                        self.fetch(hosts, endpoint, &realm, &service, scopes)
                            .await?
                    }
                };
                Ok(Some(format!("Bearer {token}")))
            }
        }
    }

    /// Learns from a 401 to a request that was sent with the authorization `sent`. Returns false where there is nothing
    /// more to try. `scopes` grows by what the challenge asks for.
    pub(crate) async fn challenged(
        &self,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        sent: Option<&str>,
        scopes: &mut BTreeSet<String>,
    ) -> Result<bool> {
        let challenges = parse_challenges(headers);
        if let Some(bearer) = challenges
            .iter()
            .find(|challenge| challenge.scheme == "bearer")
            && let Some(realm) = bearer.parameter("realm")
        {
            let scheme = Scheme::Bearer {
                realm: realm.to_owned(),
                service: bearer.parameter("service").unwrap_or_default().to_owned(),
            };
            let wanted = bearer.parameter("scope").unwrap_or_default().split(' ');
            merge_scopes(scopes, wanted.filter(|scope| !scope.is_empty()));
            let mut known = self.known.lock();
            let entry = known.entry(endpoint.host.clone()).or_insert_with(|| Known {
                scheme: scheme.clone(),
                tokens: HashMap::new(),
            });
            entry.scheme = scheme;
            // The token that was just refused is of no use; others may have been fetched meanwhile.
            let refused = sent.and_then(|sent| sent.strip_prefix("Bearer "));
            entry
                .tokens
                .retain(|_, (token, _)| Some(token.as_str()) != refused);
            return Ok(true);
        }
        if challenges
            .iter()
            .any(|challenge| challenge.scheme == "basic")
        {
            return self.basic(endpoint, sent).await;
        }
        let challenge = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect::<Vec<_>>();
        if challenge.is_empty() {
            return Ok(false);
        }
        Err(Error::Challenge {
            host: endpoint.host.clone(),
            challenge: challenge.join(", "),
        })
    }

    async fn basic(&self, endpoint: &Endpoint, sent: Option<&str>) -> Result<bool> {
        let Some(Credential::Basic { username, secret }) = self.credential(&endpoint.host).await?
        else {
            return Ok(false);
        };
        let header = basic_header(&username, &secret);
        // These very credentials were refused just now.
        if sent == Some(header.as_str()) {
            return Ok(false);
        }
        let known = Known {
            scheme: Scheme::Basic(header),
            tokens: HashMap::new(),
        };
        self.known.lock().insert(endpoint.host.clone(), known);
        Ok(true)
    }

    async fn credential(&self, host: &str) -> Result<Option<Credential>> {
        self.credentials
            .for_host(host)
            .await
            .map_err(|source| Error::Credentials {
                host: host.to_owned(),
                source,
            })
    }

    async fn fetch(
        &self,
        hosts: &Hosts,
        endpoint: &Endpoint,
        realm: &str,
        service: &str,
        scopes: &BTreeSet<String>,
    ) -> Result<String> {
        let request = TokenRequest {
            host: endpoint.host.clone(),
            realm: realm.to_owned(),
            service: service.to_owned(),
            scopes: scopes.iter().cloned().collect(),
        };
        let given =
            self.credentials
                .token(&request)
                .await
                .map_err(|source| Error::Credentials {
                    host: endpoint.host.clone(),
                    source,
                })?;
        let token = if let Some(token) = given {
            token
        } else {
            let credential = self.credential(&endpoint.host).await?;
            ask_token_server(hosts, endpoint, &request, credential).await?
        };
        let lifetime = token.expires_in.unwrap_or(Duration::from_mins(1));
        // Not used in its last tenth, so that it doesn't expire on the way.
        let until = Instant::now() + lifetime.mul_f32(0.9);
        if let Some(known) = self.known.lock().get_mut(&endpoint.host) {
            known
                .tokens
                .insert(scopes.clone(), (token.token.clone(), until));
        }
        Ok(token.token)
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorizer")
    }
}

fn basic_header(username: &str, secret: &str) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{secret}"));
    format!("Basic {pair}")
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

async fn ask_token_server(
    hosts: &Hosts,
    endpoint: &Endpoint,
    request: &TokenRequest,
    credential: Option<Credential>,
) -> Result<Token> {
    let url = reqwest::Url::parse(&request.realm)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| Error::Challenge {
            host: endpoint.host.clone(),
            challenge: format!("realm {:?}", request.realm),
        })?;
    let client = hosts.client_for_url(&url, endpoint)?;
    let scopes = request.scopes.iter().map(|scope| ("scope", scope.as_str()));
    let (kind, builder) = match credential {
        Some(Credential::IdentityToken(token)) => {
            let scope = request.scopes.join(" ");
            let form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", token.as_str()),
                ("service", request.service.as_str()),
                ("client_id", "kiln"),
                ("scope", scope.as_str()),
            ];
            let body = form_encoded(form.into_iter());
            let builder = client
                .post(url.clone())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body);
            ("oauth", builder)
        }
        credential => {
            let service =
                Some(("service", request.service.as_str())).filter(|(_, name)| !name.is_empty());
            let mut with_query = url.clone();
            with_query
                .query_pairs_mut()
                .extend_pairs(service.into_iter().chain(scopes));
            let mut builder = client.get(with_query);
            let mut kind = "anonymous";
            if let Some(Credential::Basic { username, secret }) = credential {
                kind = "oauth";
                builder = builder.header(header::AUTHORIZATION, basic_header(&username, &secret));
            }
            (kind, builder)
        }
    };
    let shown = url.to_string();
    let answer = builder
        .send()
        .await
        .map_err(|error| failed("Get", &shown, error))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(Error::Token {
            kind,
            url: shown,
            status,
            message: message_of(answer).await,
        });
    }
    let body = answer
        .bytes()
        .await
        .map_err(|error| failed("Get", &shown, error))?;
    let answer: Option<TokenAnswer> = serde_json::from_slice(&body).ok();
    let expires_in = answer
        .as_ref()
        .and_then(|answer| answer.expires_in)
        .map(Duration::from_secs);
    answer
        .and_then(|answer| answer.token.or(answer.access_token))
        .filter(|token| !token.is_empty())
        .map(|token| Token { token, expires_in })
        .ok_or(Error::NoToken { url: shown })
}

fn form_encoded<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    // A URL's query has the form's encoding.
    let Ok(mut url) = reqwest::Url::parse("http://form/") else {
        return String::new();
    };
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_debugged() {
        let credential = Credential::Basic {
            username: "u".into(),
            secret: "hidden".into(),
        };
        let token = Token {
            token: "hidden".into(),
            expires_in: None,
        };
        assert!(!format!("{credential:?}{token:?}").contains("hidden"));
    }
}
