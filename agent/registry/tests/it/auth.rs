//! Challenges, tokens and passwords.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use kiln_oci::{Descriptor, Reference, media_type as mt};
use kiln_registry::{
    Anonymous, BlobSource, Client, Credential, CredentialError, Credentials, Registry, Token,
    TokenRequest,
};

use crate::scripted::{Asked, Reply, Scripted};

struct Login(Option<Credential>, Option<&'static str>);

#[async_trait]
impl Credentials for Login {
    async fn for_host(&self, host: &str) -> Result<Option<Credential>, CredentialError> {
        assert!(host.starts_with("127.0.0.1:"), "{host}");
        Ok(self.0.clone())
    }

    async fn token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialError> {
        assert_eq!(request.service, "here");
        Ok(self.1.map(|token| Token {
            token: token.to_owned(),
            expires_in: Some(Duration::from_mins(5)),
        }))
    }
}

fn client(credentials: impl Credentials + 'static) -> Client {
    Registry::new(BTreeMap::new(), None)
        .unwrap()
        .client(Arc::new(credentials))
}

fn basic() -> Credential {
    Credential::Basic {
        username: "u".into(),
        secret: "p".into(),
    }
}

/// A registry with a token server at `/token`, whose tokens are the scopes that they are for.
fn registry(asked: &Asked) -> Reply {
    if let Some((_, query)) = asked.path.split_once("/token?") {
        let scopes: Vec<&str> = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("scope="))
            .collect();
        let who = if asked.header("authorization").is_empty() {
            "anonymous"
        } else {
            "user"
        };
        let token = format!("{who}:{}", scopes.join("+"));
        return Reply::new(200).body(format!(r#"{{"token":"{token}","expires_in":300}}"#));
    }
    if asked.method == "POST" && asked.path == "/token" {
        let form = String::from_utf8_lossy(&asked.body).into_owned();
        assert!(
            form.contains("grant_type=refresh_token") && form.contains("refresh_token=identity"),
            "{form}"
        );
        return Reply::new(200).body(r#"{"access_token":"from-identity:pull"}"#);
    }
    let wants = if matches!(asked.method.as_str(), "GET" | "HEAD") {
        "pull"
    } else {
        "push"
    };
    if asked.header("authorization").contains(wants) {
        return match asked.method.as_str() {
            "HEAD" if asked.path.contains("/blobs/") => Reply::new(404),
            "POST" => Reply::new(202).header("Location", "/upload/1?state=x"),
            "PUT" => Reply::new(201),
            _ => Reply::new(200)
                .header("Content-Type", mt::OCI_MANIFEST)
                .header(
                    "Docker-Content-Digest",
                    kiln_oci::Digest::of("{}").to_string(),
                )
                .header("Content-Length", "2")
                .body("{}"),
        };
    }
    let challenge = format!(
        r#"Bearer realm="http://{}/token",service="here",scope="repository:app:{}",error="insufficient_scope""#,
        asked.header("host"),
        if wants == "push" { "pull,push" } else { "pull" }
    );
    Reply::new(401).header("WWW-Authenticate", challenge)
}

async fn start() -> (Scripted, Reference) {
    let server = Scripted::start(|asked, _| registry(asked)).await;
    let reference = format!("{}/app", server.host).parse().unwrap();
    (server, reference)
}

#[tokio::test]
async fn tokens_are_fetched_once_and_kept() {
    let (server, reference) = start().await;
    let client = client(Anonymous);
    client.resolve(&reference).await.unwrap();
    client.resolve(&reference).await.unwrap();
    let manifest = "HEAD /v2/app/manifests/latest";
    assert_eq!(
        server.log(),
        [
            manifest,
            "GET /token?service=here&scope=repository%3Aapp%3Apull",
            manifest,
            manifest
        ]
    );
}

#[tokio::test]
async fn a_push_asks_for_more_scope() {
    let (server, reference) = start().await;
    let client = client(Login(Some(basic()), None));
    client.resolve(&reference).await.unwrap();
    let blob = Descriptor::of(mt::OCI_LAYER, b"x");
    let source = BlobSource::Bytes(Bytes::from_static(b"x"));
    client
        .push_blob(&reference, &blob, &source, &[], None)
        .await
        .unwrap();
    let asked = server.asked();
    let token = asked
        .iter()
        .find(|asked| asked.path.contains("pull%2Cpush"))
        .unwrap();
    let pair = base64::engine::general_purpose::STANDARD.encode("u:p");
    assert_eq!(token.header("authorization"), format!("Basic {pair}"));
    let put = asked.last().unwrap();
    assert_eq!(
        put.path,
        format!("/upload/1?state=x&digest=sha256%3A{}", blob.digest.hex())
    );
    assert_eq!(
        (put.body.as_slice(), put.header("content-length")),
        (&b"x"[..], "1")
    );
}

#[tokio::test]
async fn identity_tokens_and_tokens_of_clients_are_used() {
    let (server, reference) = start().await;
    client(Login(
        Some(Credential::IdentityToken("identity".into())),
        None,
    ))
    .resolve(&reference)
    .await
    .unwrap();
    assert!(server.log().contains(&"POST /token".to_owned()));

    let (server, reference) = start().await;
    client(Login(None, Some("given:pull")))
        .resolve(&reference)
        .await
        .unwrap();
    assert_eq!(
        server.log().len(),
        2,
        "the token server isn't asked: {:?}",
        server.log()
    );
    assert_eq!(
        server.asked()[1].header("authorization"),
        "Bearer given:pull"
    );
}

#[tokio::test]
async fn basic_goes_with_each_request_after_the_challenge() {
    let server = Scripted::start(|asked, _| {
        if asked.header("authorization").starts_with("Basic ") {
            return registry(&Asked {
                headers: [("authorization".to_owned(), "pull".to_owned())].into(),
                ..asked.clone()
            });
        }
        Reply::new(401).header("WWW-Authenticate", r#"Basic realm="r""#)
    })
    .await;
    let reference = format!("{}/app", server.host).parse().unwrap();
    let login = client(Login(Some(basic()), None));
    login.resolve(&reference).await.unwrap();
    login.resolve(&reference).await.unwrap();
    assert_eq!(server.log().len(), 3);
    let denied = client(Anonymous).resolve(&reference).await.unwrap_err();
    assert!(denied.is_denied(), "{denied}");
}

#[tokio::test]
async fn requests_that_are_challenged_together_all_go_on() {
    let answers: [fn(&Asked) -> Reply; 2] = [
        |asked| match asked.header("authorization") {
            "" => Reply::new(401).header("WWW-Authenticate", r#"Basic realm="r""#),
            _ => Reply::new(200),
        },
        registry,
    ];
    for answer in answers {
        let server = Scripted::start(move |asked, _| match asked.method.as_str() {
            "HEAD"
                if asked.path.contains("/blobs/") && !asked.header("authorization").is_empty() =>
            {
                Reply::new(200)
            }
            _ => answer(asked),
        })
        .await;
        let reference: Reference = format!("{}/app", server.host).parse().unwrap();
        let client = client(Login(Some(basic()), None));
        let pushes = (0..8_u8).map(|n| {
            let (client, reference) = (client.clone(), reference.clone());
            tokio::spawn(async move {
                let blob = Descriptor::of(mt::OCI_LAYER, &[n]);
                let source = BlobSource::Bytes(Bytes::copy_from_slice(&[n]));
                client
                    .push_blob(&reference, &blob, &source, &[], None)
                    .await
            })
        });
        for push in pushes.collect::<Vec<_>>() {
            push.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn refused_logins_end() {
    let always =
        |challenge: &'static str| {
            move |asked: &Asked, _| {
                if asked.path.starts_with("/token") {
                    return Reply::new(403).body(r#"{"details":"incorrect username or password"}"#);
                }
                Reply::new(401)
                .header("WWW-Authenticate", challenge.replace("HOST", asked.header("host")))
                .body(r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
            }
        };
    for (challenge, want) in [
        (
            r#"Bearer realm="http://HOST/token",service="here""#,
            "incorrect username or password",
        ),
        (
            r#"Basic realm="x""#,
            "unauthorized: authentication required",
        ),
        ("Negotiate", "not supported: Negotiate"),
        (
            r#"Bearer realm="ftp://x",service="here""#,
            "not supported: realm",
        ),
    ] {
        let server = Scripted::start(always(challenge)).await;
        let reference = format!("{}/app", server.host).parse().unwrap();
        let error = client(Login(Some(basic()), None))
            .resolve(&reference)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(server.log().len() < 12, "{:?}", server.log());
    }
}

#[tokio::test]
async fn credentials_stay_with_their_host() {
    let elsewhere = Scripted::start(|_, _| Reply::new(200).body("blob")).await;
    let target = format!(
        "http://{}/blob",
        elsewhere.host.replace("127.0.0.1", "localhost")
    );
    let server = Scripted::start(move |asked, _| {
        if asked.path.contains("/blobs/") && !asked.header("authorization").is_empty() {
            return Reply::new(307).header("Location", target.clone());
        }
        registry(asked)
    })
    .await;
    let reference = format!("{}/app", server.host).parse().unwrap();
    let blob = Descriptor::of(mt::OCI_LAYER, b"blob");
    let mut reader = client(Login(Some(basic()), None))
        .fetch(&reference, &blob, 0)
        .await
        .unwrap();
    assert_eq!(reader.chunk().await.unwrap().unwrap(), "blob");
    let asked = elsewhere.asked();
    assert_eq!((asked.len(), asked[0].header("authorization")), (1, ""));
}
