//! Tests a login, layer by layer, so that a failure says where it is.
//!
//! ```text
//! name ─► address ─► connection ─► TLS and HTTP ─► challenge ─► credentials accepted
//!  DNS      DNS         TCP            TLS            protocol      auth
//! ```

mod probe;
mod route;

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Credential;

pub use probe::{Probed, Reach, probe};

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The name has no address.
    Dns,
    /// Nothing listens.
    Tcp,
    /// The certificate isn't trusted, or it isn't HTTPS.
    Tls,
    /// What answers isn't a registry.
    Protocol,
    /// The credentials are refused.
    Auth,
    /// The token server takes them, and the registry doesn't take its token.
    Scope,
}

impl Layer {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Protocol => "protocol",
            Self::Auth => "authentication",
            Self::Scope => "scope",
        }
    }

    /// What to look at next.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Dns => {
                "is the registry's name right, and does this machine resolve it (VPN, proxy)?"
            }
            Self::Tcp => {
                "is the registry running, and does a firewall or proxy let this machine reach it?"
            }
            Self::Tls => {
                "add its CA to the registry's settings, or have its certificate not checked"
            }
            Self::Protocol => "is this the registry's address, and not that of its web page?",
            Self::Auth => {
                "check name and password; many registries want an access token in place of the password"
            }
            Self::Scope => "the account is known and may not use this registry",
        }
    }
}

/// A login that doesn't work.
#[derive(Debug, thiserror::Error)]
#[error("{registry}: {}: {reason}", .layer.name())]
pub struct LoginError {
    /// The registry.
    pub registry: String,
    /// Where it fails.
    pub layer: Layer,
    /// Why.
    pub reason: String,
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer(BTreeMap<String, String>),
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// Tests credentials against a registry, by what the engine is told of registries; changes nothing.
pub async fn test(
    registry: &str,
    credential: &Credential,
    reach: &Reach,
) -> Result<(), LoginError> {
    let steps = probe(registry, Some(credential), reach).await;
    for step in steps {
        if let Err(reason) = step.outcome {
            return Err(LoginError {
                registry: registry.to_owned(),
                layer: step.layer,
                reason,
            });
        }
    }
    Ok(())
}

fn challenge(text: &str) -> Option<Challenge> {
    let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
    if kind.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !kind.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = BTreeMap::new();
    let mut rest = rest.trim();
    while let Some((key, value)) = rest.split_once('=') {
        let (value, left) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_once(',').unwrap_or((value, "")),
        };
        parameters.insert(key.trim().to_lowercase(), value.to_owned());
        rest = left.trim_start_matches([',', ' ']);
    }
    parameters
        .contains_key("realm")
        .then_some(Challenge::Bearer(parameters))
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn challenges_are_read() {
        let text = r#"Bearer realm="http://a/token",service="a, b",scope=x"#;
        let Some(Challenge::Bearer(parameters)) = challenge(text) else {
            panic!("a bearer challenge");
        };
        assert_eq!(parameters["realm"], "http://a/token");
        assert_eq!(parameters["service"], "a, b");
        assert_eq!(parameters["scope"], "x");
        assert_eq!(challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(challenge("Digest x=y"), None);
    }

    /// A server whose answer to each request is what `answer` makes of the request's head, in lower case.
    async fn server(answer: impl Fn(&str, &str) -> String + Send + 'static) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let own = address.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let Ok(read) = stream.read(&mut head).await else {
                    continue;
                };
                let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
                let answer = answer(&head, &own);
                let answer = format!("HTTP/1.1 {answer}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    const OK: &str = "200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

    fn refusal(challenge: &str) -> String {
        format!(
            "401 Unauthorized\r\nwww-authenticate: {challenge}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
    }

    /// `me:right`, as basic authentication has it.
    const RIGHT: &str = "authorization: basic bwu6cmlnahq=";

    /// Wants basic authentication.
    fn basic(head: &str, _: &str) -> String {
        match head.contains(RIGHT) {
            true => OK.to_owned(),
            false => refusal("Basic realm=\"x\""),
        }
    }

    /// Gives tokens for a password, and takes the token `wanted`.
    fn bearer(head: &str, own: &str, wanted: &str) -> String {
        if head.starts_with("get /token") {
            let body = "{\"token\":\"t1\"}";
            return match head.contains(RIGHT) {
                true => format!(
                    "200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                ),
                false => refusal("Basic realm=\"x\""),
            };
        }
        match head.contains(&format!("authorization: bearer {wanted}\r")) {
            true => OK.to_owned(),
            false => refusal(&format!(
                "Bearer realm=\"http://{own}/token\",service=\"s\""
            )),
        }
    }

    #[tokio::test]
    async fn a_proxy_is_gone_through_and_named() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // It answers for everybody, as a proxy does.
        let proxy = server(
            |head, _| match head.starts_with("get http://registry.example/v2/") {
                true => OK.to_owned(),
                false => OK.replace("200 OK", "404 Not Found"),
            },
        );
        let proxy = proxy.await;
        let mut reach = Reach::default();
        reach.proxy.http = format!("http://{proxy}");
        let plain = kiln_config::RegistryConfig {
            http: Some(true),
            ..Default::default()
        };
        reach.registries.insert("registry.example".into(), plain);
        let steps = probe("registry.example", None, &reach).await;
        let words: Vec<_> = steps.iter().map(|step| step.outcome.clone()).collect();
        assert!(words.iter().all(Result::is_ok), "{words:?}");
        for step in &words[..2] {
            assert!(
                step.as_ref()
                    .unwrap()
                    .contains(&format!("the proxy {proxy}: ")),
                "{words:?}"
            );
        }
    }

    #[tokio::test]
    async fn failures_say_their_layer() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = free.local_addr().unwrap().to_string();
        drop(free);
        let guarded = server(basic).await;
        let tokens = server(|head, own| bearer(head, own, "t1")).await;
        // No name has a part of more than 63 letters, so that nobody needs to be asked.
        let nowhere = format!("{}.example:5000", "x".repeat(70));
        for (what, host, plain, secret, want) in [
            (
                "open to all",
                server(|_, _| OK.to_owned()).await,
                true,
                "any",
                None,
            ),
            ("basic", guarded.clone(), true, "right", None),
            (
                "basic, wrong",
                guarded.clone(),
                true,
                "wrong",
                Some(Layer::Auth),
            ),
            ("token", tokens.clone(), true, "right", None),
            ("token, wrong", tokens, true, "wrong", Some(Layer::Auth)),
            (
                "a token that isn't taken",
                server(|head, own| bearer(head, own, "t2")).await,
                true,
                "right",
                Some(Layer::Scope),
            ),
            ("no such name", nowhere, true, "right", Some(Layer::Dns)),
            ("nobody listens", closed, true, "right", Some(Layer::Tcp)),
            ("no TLS there", guarded, false, "right", Some(Layer::Tls)),
            (
                "no registry",
                server(|_, _| OK.replace("200 OK", "404 Not Found")).await,
                true,
                "right",
                Some(Layer::Protocol),
            ),
            (
                "a login of another kind",
                server(|_, _| refusal("Digest realm=\"x\"")).await,
                true,
                "right",
                Some(Layer::Protocol),
            ),
        ] {
            let credential = Credential {
                username: "me".into(),
                secret: secret.into(),
            };
            let mut reach = Reach::default();
            let config = kiln_config::RegistryConfig {
                http: Some(plain),
                ..Default::default()
            };
            reach.registries.insert(host.clone(), config);
            let outcome = test(&host, &credential, &reach).await;
            let got = outcome.as_ref().err().map(|error| error.layer);
            assert_eq!(got, want, "{what}: {outcome:?}");
            if let Err(error) = outcome {
                let text = error.to_string();
                assert!(text.starts_with(&format!("{host}: ")), "{text}");
                assert!(!text.contains(secret), "{text}");
            }
        }
    }
}
