//! Servers that break off, are busy, or break the protocol.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_oci::{Descriptor, Digest, Reference, media_type as mt};
use kiln_registry::{Anonymous, Client, Error, MAX_MANIFEST, Pushed, Registry};

use crate::scripted::{Asked, Reply, Scripted};

fn client() -> Client {
    Registry::new(BTreeMap::new(), None)
        .unwrap()
        .client(Arc::new(Anonymous))
}

async fn start(
    answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> (Scripted, Reference) {
    let server = Scripted::start(answer).await;
    let reference = format!("{}/app:1", server.host).parse().unwrap();
    (server, reference)
}

fn data() -> Vec<u8> {
    (0..300_000_u32).map(|n| (n / 3) as u8).collect()
}

async fn read(reference: &Reference, blob: &Descriptor, offset: u64) -> Result<Vec<u8>, Error> {
    let mut reader = client().fetch(reference, blob, offset).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn range_start(asked: &Asked) -> usize {
    let range = asked.header("range");
    range
        .trim_start_matches("bytes=")
        .trim_end_matches('-')
        .parse()
        .unwrap_or(0)
}

#[tokio::test]
async fn a_download_that_breaks_off_is_resumed() {
    let (server, reference) = start(|asked, before| {
        let start = range_start(asked);
        let rest = data()[start..].to_vec();
        let reply = if start > 0 {
            let range = format!("bytes {start}-299999/300000");
            Reply::new(206).header("Content-Range", range).body(rest)
        } else {
            Reply::new(200).body(rest)
        };
        if before < 3 {
            reply.cut_at(60_000)
        } else {
            reply
        }
    })
    .await;
    let blob = Descriptor::of(mt::OCI_LAYER, &data());
    assert!(read(&reference, &blob, 0).await.unwrap() == data());
    let ranges: Vec<usize> = server.asked().iter().map(range_start).collect();
    assert!(
        ranges.len() == 4 && ranges.is_sorted() && ranges[1] > 0,
        "{ranges:?}"
    );
}

#[tokio::test]
async fn servers_without_ranges_are_read_over() {
    let (_server, reference) = start(|_, before| {
        let reply = Reply::new(200).body(data());
        if before == 0 {
            reply.cut_at(100_000)
        } else {
            reply
        }
    })
    .await;
    let blob = Descriptor::of(mt::OCI_LAYER, &data());
    assert!(read(&reference, &blob, 0).await.unwrap() == data());
    assert!(read(&reference, &blob, 12_345).await.unwrap() == data()[12_345..]);
}

#[tokio::test]
async fn bodies_of_the_wrong_length_are_refused() {
    let (server, reference) = start(|_, _| Reply::new(200).body(data())).await;
    let long = Descriptor::new(mt::OCI_LAYER, Digest::of("x"), 1000);
    assert!(matches!(
        read(&reference, &long, 0).await,
        Err(Error::TooLarge { limit: 1000, .. })
    ));
    let short = Descriptor::new(mt::OCI_LAYER, Digest::of("x"), 300_001);
    let error = read(&reference, &short, 0).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::BrokenOff {
                offset: 300_000,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains(&server.host), "{error}");
}

#[tokio::test]
async fn a_wrong_range_is_refused() {
    let (_server, reference) = start(|_, _| {
        Reply::new(206)
            .header("Content-Range", "bytes 0-299999/300000")
            .body(data())
    })
    .await;
    let blob = Descriptor::of(mt::OCI_LAYER, &data());
    assert!(matches!(
        read(&reference, &blob, 7).await,
        Err(Error::Protocol { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn busy_and_failing_servers_are_asked_again() {
    for status in [429, 500, 503] {
        let (server, reference) = start(move |_, before| match before {
            0 => Reply::new(status).header("Retry-After", "2"),
            1 => Reply::new(status),
            _ => Reply::new(200)
                .header("Content-Type", mt::OCI_INDEX)
                .header("Docker-Content-Digest", Digest::of("{}").to_string())
                .body("{}"),
        })
        .await;
        let resolved = client().resolve(&reference).await.unwrap();
        assert_eq!(
            (resolved.digest, server.log().len()),
            (Digest::of("{}"), 3),
            "{status}"
        );
    }
    let (server, reference) = start(|_, _| Reply::new(503).body("<html>busy</html>")).await;
    let error = client().manifest(&reference, None).await.unwrap_err();
    assert!(
        error.to_string().ends_with("503 Service Unavailable"),
        "{error}"
    );
    assert_eq!(server.log().len(), 5);
}

#[tokio::test]
async fn a_head_that_says_too_little_is_followed_by_a_get() {
    for (status, media_type) in [(200, ""), (405, mt::OCI_MANIFEST), (403, mt::OCI_MANIFEST)] {
        let (server, reference) = start(move |asked, _| {
            if asked.method == "HEAD" {
                return Reply::new(status).header("Content-Type", media_type);
            }
            Reply::new(200)
                .header(
                    "Content-Type",
                    format!("{}; charset=utf-8", mt::OCI_MANIFEST),
                )
                .body("{}")
        })
        .await;
        let resolved = client().resolve(&reference).await.unwrap();
        assert_eq!(resolved, Descriptor::of(mt::OCI_MANIFEST, b"{}"));
        assert_eq!(
            server.log(),
            ["HEAD /v2/app/manifests/1", "GET /v2/app/manifests/1"]
        );
    }
}

#[tokio::test]
async fn manifests_are_verified_and_bounded() {
    let (_server, reference) = start(|_, _| Reply::new(200).body("another")).await;
    let error = client()
        .manifest(&reference, Some(Digest::of("{}")))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::WrongDigest { actual, .. } if actual == Digest::of("another")),
        "{error}"
    );
    let (_server, reference) = start(|_, _| {
        Reply::new(200)
            .header("Docker-Content-Digest", Digest::of("{}").to_string())
            .body("another")
    })
    .await;
    assert!(matches!(
        client().manifest(&reference, None).await,
        Err(Error::WrongDigest { .. })
    ));
    let (_server, reference) = start(|_, _| Reply::new(200).body(vec![b' '; 9 << 20])).await;
    let error = client().manifest(&reference, None).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                limit: MAX_MANIFEST,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn uploads_need_a_location() {
    let (server, reference) = start(|asked, _| match asked.method.as_str() {
        "HEAD" => Reply::new(404),
        _ => Reply::new(202),
    })
    .await;
    let blob = Descriptor::of(mt::OCI_LAYER, b"x");
    let source = kiln_registry::BlobSource::Bytes("x".into());
    let error = client()
        .push_blob(&reference, &blob, &source, &[], None)
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Protocol { .. }) && error.to_string().contains(&server.host),
        "{error}"
    );
}

#[tokio::test]
async fn redirects_in_circles_end() {
    let (server, reference) =
        start(|asked, _| Reply::new(307).header("Location", asked.path.clone())).await;
    let blob = Descriptor::of(mt::OCI_LAYER, b"x");
    assert!(client().fetch(&reference, &blob, 0).await.is_err());
    assert!(server.log().len() < 60, "{}", server.log().len());
}

/// A registry keeps what it got of an upload: its second try has to be another upload, or the bytes would be there twice.
#[tokio::test(start_paused = true)]
async fn an_upload_that_breaks_is_begun_anew() {
    for refusal in [None, Some(503)] {
        let (server, reference) = start(move |asked, before| {
            let number = before + 1;
            match asked.method.as_str() {
                "HEAD" => Reply::new(404),
                "POST" => Reply::new(202).header("Location", format!("/uploads/{number}")),
                _ if asked.path.starts_with("/uploads/2") => match refusal {
                    None => Reply::new(0),
                    Some(status) => Reply::new(status),
                },
                _ => Reply::new(201),
            }
        })
        .await;
        let blob = Descriptor::of(mt::OCI_LAYER, b"x");
        let source = kiln_registry::BlobSource::Bytes("x".into());
        let pushed = client()
            .push_blob(&reference, &blob, &source, &[], None)
            .await
            .unwrap();
        assert_eq!(pushed, Pushed::Uploaded);
        let log = server.log();
        let methods: Vec<&str> = log
            .iter()
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(
            methods,
            ["HEAD", "POST", "PUT", "HEAD", "POST", "PUT"],
            "{refusal:?}"
        );
        assert!(log[5].starts_with("PUT /uploads/5"), "{log:?}");
    }
}
