//! One request: authorization, tries, and what a refusal says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, header};
use reqwest::{RequestBuilder, Response};
use serde::Deserialize;

use crate::client::Client;
use crate::hosts::Endpoint;
use crate::{Error, Result};

/// Tries of one request, and the pauses between them.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(6),
];
/// The longest that a registry may ask us to wait.
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// Challenges that are answered for one request: one for the token, one for a larger scope.
const MAX_CHALLENGES: usize = 3;
/// Of a refusal's body so much is read.
const MAX_MESSAGE: usize = 16 << 10;

/// How often one thing was tried.
pub(crate) struct Tries(std::slice::Iter<'static, Duration>);

impl Default for Tries {
    fn default() -> Self {
        Self(PAUSES.iter())
    }
}

impl Tries {
    /// How long to wait before the next try. `None` where none is left, or where another one would end in the same.
    pub(crate) fn pause(&mut self, outcome: &Result<Sent>) -> Option<Duration> {
        let asked = match outcome {
            Ok(sent) if is_temporary(sent.response.status(), &sent.method) => {
                retry_after(&sent.response)
            }
            Err(error) if is_worth_another(error) => {
                tracing::debug!(error = error as &dyn std::error::Error, "trying again");
                None
            }
            _ => return None,
        };
        let pause = self.0.next()?;
        Some(asked.unwrap_or(*pause).min(MAX_PAUSE))
    }
}

/// An answer, and to which method.
pub(crate) struct Sent {
    pub(crate) response: Response,
    method: Method,
}

impl Client {
    /// Sends what `build` makes, with authorization for `scopes`, again after a challenge, a temporary refusal or a
    /// broken connection. Any other status is returned.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        scopes: &[String],
        build: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response> {
        let mut tries = Tries::default();
        let build = |http: &reqwest::Client| Ok(build(http));
        loop {
            let outcome = self.send_once(endpoint, scopes, build).await;
            match tries.pause(&outcome) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return outcome.map(|sent| sent.response),
            }
        }
    }

    /// Sends it again after a challenge only: what a broken request has done already isn't known.
    pub(crate) async fn send_once(
        &self,
        endpoint: &Endpoint,
        scopes: &[String],
        build: impl Fn(&reqwest::Client) -> Result<RequestBuilder>,
    ) -> Result<Sent> {
        let http = self.hosts().client(endpoint)?;
        let mut scopes: BTreeSet<String> = scopes.iter().cloned().collect();
        let mut challenges = 0;
        loop {
            let mut request = build(&http)?;
            let sent = self.auth().header(self.hosts(), endpoint, &scopes).await?;
            if let Some(value) = &sent {
                request = request.header(header::AUTHORIZATION, value);
            }
            let request = request
                .build()
                .map_err(|error| failed("build", &endpoint.host, error))?;
            let (method, url) = (request.method().clone(), request.url().to_string());
            let response = http
                .execute(request)
                .await
                .map_err(|error| failed(&title(method.as_str()), &url, error))?;
            if response.status() != StatusCode::UNAUTHORIZED || challenges == MAX_CHALLENGES {
                return Ok(Sent { response, method });
            }
            challenges += 1;
            if !self
                .auth()
                .challenged(endpoint, response.headers(), sent.as_deref(), &mut scopes)
                .await?
            {
                return Ok(Sent { response, method });
            }
        }
    }
}

fn title(method: &str) -> String {
    let (first, rest) = method.split_at(method.len().min(1));
    format!("{first}{}", rest.to_ascii_lowercase())
}

pub(crate) fn failed(method: &str, url: &str, error: reqwest::Error) -> Error {
    Error::Request {
        method: method.to_owned(),
        url: without_secrets(url),
        source: Arc::new(error.without_url()),
    }
}

/// Takes user names, passwords and the values of queries, which may be signatures, out of a URL.
fn without_secrets(url: &str) -> String {
    let Ok(mut parsed) = reqwest::Url::parse(url) else {
        return url.to_owned();
    };
    if !parsed.username().is_empty() || parsed.password().is_some() {
        let _ = parsed.set_username("xxxxx");
        let _ = parsed.set_password(None);
    }
    if parsed
        .query()
        .is_some_and(|query| !query.starts_with("ns="))
    {
        parsed.set_query(None);
    }
    parsed.to_string()
}

/// A host that can't be reached at all is another one's turn.
fn is_worth_another(error: &Error) -> bool {
    match error {
        Error::Request { source, .. } => !source.is_connect() && !source.is_builder(),
        error => error.is_temporary(),
    }
}

/// Whether it's worth to try again. Registries also answer 500 to what they will never take, so that writes aren't
/// repeated for it.
fn is_temporary(status: StatusCode, method: &Method) -> bool {
    match status {
        StatusCode::INTERNAL_SERVER_ERROR => method.is_safe(),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => true,
        _ => false,
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// The error for a status that isn't what was hoped for. 404 is [`Error::NotFound`].
pub(crate) async fn refused(
    response: Response,
    endpoint: &Endpoint,
    action: &'static str,
    name: &str,
    method: &str,
) -> Error {
    let status = response.status();
    let url = without_secrets(response.url().as_str());
    let message = message_of(response).await;
    match status {
        StatusCode::NOT_FOUND => Error::NotFound {
            name: name.to_owned(),
            hosts: endpoint.host.clone(),
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied {
            action,
            host: endpoint.host.clone(),
            message,
        },
        status => Error::Status {
            method: method.to_owned(),
            url,
            status,
            message,
        },
    }
}

#[derive(Deserialize)]
struct Refusal {
    errors: Option<Vec<OneError>>,
    details: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct OneError {
    code: Option<String>,
    message: Option<String>,
}

/// What the body of a refusal says, on one line.
pub(crate) async fn message_of(mut response: Response) -> String {
    let mut body = Vec::new();
    while body.len() < MAX_MESSAGE
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(MAX_MESSAGE);
    let Ok(refusal) = serde_json::from_slice::<Refusal>(&body) else {
        let text = String::from_utf8_lossy(&body);
        let line = text.lines().next().unwrap_or_default().trim();
        // A page of HTML tells nobody anything.
        return if line.starts_with('<') {
            String::new()
        } else {
            line.chars().take(300).collect()
        };
    };
    let errors = refusal.errors.unwrap_or_default();
    let texts = errors
        .into_iter()
        .map(|error| match (error.code, error.message) {
            (Some(code), Some(message)) => format!("{}: {message}", code.to_ascii_lowercase()),
            (code, message) => message.or(code).unwrap_or_default(),
        });
    let texts: Vec<String> = texts
        .chain(refusal.details)
        .chain(refusal.message)
        .filter(|text| !text.is_empty())
        .collect();
    texts.join("; ")
}
