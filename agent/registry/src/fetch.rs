//! Downloads of blobs, resumed where they break off.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use kiln_oci::{Descriptor, Reference};
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;

use crate::client::{Client, scope};
use crate::hosts::Endpoint;
use crate::manifest::Failures;
use crate::request::{failed, refused};
use crate::{Error, Result};

/// Tries in a row that bring no byte.
const MAX_TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// A blob's bytes from some offset on. They are not verified.
#[derive(Debug)]
pub struct BlobReader {
    client: Client,
    reference: Reference,
    descriptor: Descriptor,
    endpoint: Endpoint,
    body: Option<Body>,
    offset: u64,
    fruitless: u32,
    _permit: Option<OwnedSemaphorePermit>,
}

/// A response, and how many of its first bytes were had before.
#[derive(Debug)]
struct Body {
    response: Response,
    skip: u64,
}

impl Client {
    /// Opens a blob at `offset`. Hosts are asked in order; the first that has it serves it.
    pub async fn fetch(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BlobReader> {
        let mut failure = Failures::default();
        for endpoint in self.pull_endpoints(reference)? {
            let permit = self
                .hosts()
                .downloads(&endpoint.host)
                .acquire_owned()
                .await
                .ok();
            match self.open(&endpoint, reference, descriptor, offset).await {
                Ok(body) => {
                    return Ok(BlobReader {
                        client: self.clone(),
                        reference: reference.clone(),
                        descriptor: descriptor.clone(),
                        endpoint,
                        body: Some(body),
                        offset,
                        fruitless: 0,
                        _permit: permit,
                    });
                }
                Err(error) => failure.add(&endpoint, error),
            }
        }
        let blob = reference
            .without_tag_and_digest()
            .with_digest(descriptor.digest);
        Err(failure.into_error(&blob))
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<Body> {
        // Manifests may be asked for as content, too.
        let kind = if kiln_oci::media_type::is_manifest(&descriptor.media_type)
            || kiln_oci::media_type::is_index(&descriptor.media_type)
        {
            "manifests"
        } else {
            "blobs"
        };
        let url = endpoint.url(reference.path(), &format!("{kind}/{}", descriptor.digest));
        let scopes = [scope(reference, "pull")];
        let response = self
            .send(endpoint, &scopes, |http| {
                let request = http
                    .get(&url)
                    .header(header::ACCEPT, format!("{}, */*", descriptor.media_type));
                if offset > 0 {
                    request.header(header::RANGE, format!("bytes={offset}-"))
                } else {
                    request
                }
            })
            .await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if begins_at(&response, offset) => {
                Ok(Body { response, skip: 0 })
            }
            // A server that knows no ranges.
            StatusCode::OK => Ok(Body {
                response,
                skip: offset,
            }),
            StatusCode::PARTIAL_CONTENT => Err(Error::Protocol {
                host: endpoint.host.clone(),
                what: format!("not the range that begins at byte {offset}"),
            }),
            _ => {
                let blob = reference
                    .without_tag_and_digest()
                    .with_digest(descriptor.digest);
                Err(refused(response, endpoint, "pull", &blob.to_string(), "GET").await)
            }
        }
    }
}

fn begins_at(response: &Response, offset: u64) -> bool {
    let range = response
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    range.is_none_or(|range| {
        let start = range
            .trim_start_matches("bytes")
            .trim_start()
            .split('-')
            .next();
        start.and_then(|start| start.parse().ok()) == Some(offset)
    })
}

impl BlobReader {
    /// The host that serves it.
    pub fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// Where the next chunk begins.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes; `None` at the end. Resumes by itself what broke off. Safe to be dropped while it waits.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let error = match self.next_from_response().await {
                Ok(Some(bytes)) => {
                    self.fruitless = 0;
                    self.offset += bytes.len() as u64;
                    if self.descriptor.size > 0 && self.offset > self.descriptor.size {
                        return Err(Error::TooLarge {
                            host: self.endpoint.host.clone(),
                            what: self.descriptor.digest.to_string(),
                            limit: self.descriptor.size,
                        });
                    }
                    return Ok(Some(bytes));
                }
                Ok(None) if self.offset >= self.descriptor.size => return Ok(None),
                Ok(None) => Error::Protocol {
                    host: self.endpoint.host.clone(),
                    what: format!(
                        "the body ended at byte {} of {}",
                        self.offset, self.descriptor.size
                    ),
                },
                Err(error) => error,
            };
            self.body = None;
            self.fruitless += 1;
            if self.fruitless > MAX_TRIES {
                return Err(Error::BrokenOff {
                    digest: self.descriptor.digest,
                    host: self.endpoint.host.clone(),
                    tries: MAX_TRIES,
                    offset: self.offset,
                    source: Arc::new(error),
                });
            }
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                digest = %self.descriptor.digest,
                offset = self.offset,
                "resuming a download"
            );
            tokio::time::sleep(PAUSE * (1 << (self.fruitless - 1))).await;
        }
    }

    async fn next_from_response(&mut self) -> Result<Option<Bytes>> {
        let body = if let Some(body) = &mut self.body {
            body
        } else {
            let opened = self.client.open(
                &self.endpoint,
                &self.reference,
                &self.descriptor,
                self.offset,
            );
            self.body.insert(opened.await?)
        };
        let url = body.response.url().to_string();
        while let Some(mut chunk) = body
            .response
            .chunk()
            .await
            .map_err(|error| failed("Get", &url, error))?
        {
            let over = body.skip.min(chunk.len() as u64);
            body.skip -= over;
            let wanted = chunk.split_off(over as usize);
            if !wanted.is_empty() {
                return Ok(Some(wanted));
            }
        }
        Ok(None)
    }
}
