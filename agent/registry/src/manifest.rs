//! Manifests: resolve a name to a digest, read one, write one.

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use kiln_oci::{Descriptor, Digest, Reference, media_type as mt};
use reqwest::Response;

use crate::client::{Client, scope};
use crate::hosts::Endpoint;
use crate::request::{failed, refused};
use crate::{Error, Result};

/// No manifest or config is larger.
pub const MAX_MANIFEST: u64 = 8 << 20;

const DIGEST_HEADER: &str = "docker-content-digest";

/// A manifest or an index with its bytes.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its media type, digest and size.
    pub descriptor: Descriptor,
    /// Its bytes, which have that digest.
    pub bytes: Bytes,
}

fn accept() -> String {
    [
        mt::OCI_INDEX,
        mt::OCI_MANIFEST,
        mt::DOCKER_MANIFEST_LIST,
        mt::DOCKER_MANIFEST,
        "*/*",
    ]
    .join(", ")
}

impl Client {
    /// What a name stands for now: an index or a manifest. Asks with HEAD first; mirrors that fail are passed over.
    pub async fn resolve(&self, reference: &Reference) -> Result<Descriptor> {
        let mut failure = Failures::default();
        for endpoint in self.pull_endpoints(reference)? {
            match self.resolve_at(&endpoint, reference).await {
                Ok(descriptor) => return Ok(descriptor),
                Err(error) => failure.add(&endpoint, error),
            }
        }
        Err(failure.into_error(reference))
    }

    async fn resolve_at(&self, endpoint: &Endpoint, reference: &Reference) -> Result<Descriptor> {
        let url = endpoint.url(
            reference.path(),
            &format!("manifests/{}", reference.tag_or_digest()),
        );
        let scopes = [scope(reference, "pull")];
        let response = self
            .send(endpoint, &scopes, |http| {
                http.head(&url).header(header::ACCEPT, accept())
            })
            .await?;
        let status = response.status();
        // What a registry says of a missing name stands only in the body that HEAD doesn't have.
        if status.is_success()
            && let Some(descriptor) = described(&response)
        {
            return Ok(descriptor);
        }
        if status == StatusCode::NOT_FOUND {
            return Err(refused(response, endpoint, "pull", &reference.familiar(), "HEAD").await);
        }
        Ok(self
            .manifest_at(endpoint, reference, None)
            .await?
            .descriptor)
    }

    /// Reads the manifest that the name stands for; if a digest is given, that one.
    pub async fn manifest(
        &self,
        reference: &Reference,
        digest: Option<Digest>,
    ) -> Result<Manifest> {
        let mut failure = Failures::default();
        for endpoint in self.pull_endpoints(reference)? {
            match self.manifest_at(&endpoint, reference, digest).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => failure.add(&endpoint, error),
            }
        }
        Err(failure.into_error(reference))
    }

    async fn manifest_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        digest: Option<Digest>,
    ) -> Result<Manifest> {
        let expected = digest.or(reference.digest());
        let which = expected.map_or_else(|| reference.tag_or_digest(), |digest| digest.to_string());
        let url = endpoint.url(reference.path(), &format!("manifests/{which}"));
        let scopes = [scope(reference, "pull")];
        let response = self
            .send(endpoint, &scopes, |http| {
                http.get(&url).header(header::ACCEPT, accept())
            })
            .await?;
        if !response.status().is_success() {
            return Err(refused(response, endpoint, "pull", &reference.familiar(), "GET").await);
        }
        let claimed = header_digest(&response);
        let media_type = content_type(&response);
        let bytes = read_all(response, endpoint, &which).await?;
        let actual = Digest::of(&bytes);
        if let Some(expected) = expected.or(claimed)
            && expected != actual
        {
            return Err(Error::WrongDigest {
                host: endpoint.host.clone(),
                expected,
                actual,
            });
        }
        let descriptor = Descriptor::new(media_type, actual, bytes.len() as u64);
        Ok(Manifest { descriptor, bytes })
    }

    /// Names a manifest, by the reference's tag or else by its digest. What it refers to must have been pushed.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Descriptor> {
        let descriptor = Descriptor::of(media_type, &bytes);
        let which = reference
            .tag()
            .map_or_else(|| descriptor.digest.to_string(), str::to_owned);
        let scopes = [scope(reference, "pull,push")];
        let mut failure = Failures::default();
        for endpoint in self.push_endpoints(reference) {
            let url = endpoint.url(reference.path(), &format!("manifests/{which}"));
            let put = self.send(&endpoint, &scopes, |http| {
                http.put(&url)
                    .header(header::CONTENT_TYPE, media_type)
                    .body(bytes.clone())
            });
            match put.await {
                Ok(response) if response.status().is_success() => return Ok(descriptor),
                Ok(response) => {
                    let name = reference.familiar();
                    return Err(refused(response, &endpoint, "push", &name, "PUT").await);
                }
                Err(error) => failure.add(&endpoint, error),
            }
        }
        Err(failure.into_error(reference))
    }
}

/// What HEAD says, if it says all.
fn described(response: &Response) -> Option<Descriptor> {
    let size = response
        .headers()
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    let media_type = content_type(response);
    let is_known = mt::is_index(&media_type) || mt::is_manifest(&media_type);
    (is_known && size > 0).then_some(Descriptor::new(media_type, header_digest(response)?, size))
}

fn header_digest(response: &Response) -> Option<Digest> {
    response
        .headers()
        .get(DIGEST_HEADER)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn content_type(response: &Response) -> String {
    let value = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let value = value.unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

async fn read_all(mut response: Response, endpoint: &Endpoint, what: &str) -> Result<Bytes> {
    let url = response.url().to_string();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| failed("Get", &url, error))?
    {
        if (bytes.len() + chunk.len()) as u64 > MAX_MANIFEST {
            return Err(Error::TooLarge {
                host: endpoint.host.clone(),
                what: what.to_owned(),
                limit: MAX_MANIFEST,
            });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// What all hosts said that were asked for one thing. The most telling answer is reported: the last that isn't "not
/// found", unless nobody said anything else.
#[derive(Default)]
pub(crate) struct Failures {
    asked: Vec<String>,
    telling: Option<Error>,
}

impl Failures {
    pub(crate) fn add(&mut self, endpoint: &Endpoint, error: Error) {
        tracing::debug!(
            host = endpoint.host,
            error = &error as &dyn std::error::Error,
            "asking the next host"
        );
        if !self.asked.contains(&endpoint.host) {
            self.asked.push(endpoint.host.clone());
        }
        if !error.is_not_found() {
            self.telling = Some(error);
        }
    }

    pub(crate) fn into_error(self, reference: &Reference) -> Error {
        self.telling.unwrap_or_else(|| Error::NotFound {
            name: reference.to_string(),
            hosts: self.asked.join(", "),
        })
    }
}
