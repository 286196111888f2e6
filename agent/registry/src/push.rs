//! Uploads of blobs: not at all if the registry has it, mounted if another repository there has it.
//!
//! Invariants:
//!
//! - The daemon brings a blob to a repository once at a time, whoever wants it there (an image and a cache that go to
//!   one repository share layers): others wait and find it there. Beside the bytes that this saves, registries that
//!   keep blobs in plain files refuse manifests while a blob that is there already is entered a second time.
//! - An upload that broke is begun anew: the registry may have kept what came of it, and would add to that.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use http::{StatusCode, header};
use kiln_oci::{Descriptor, Reference};
use reqwest::{Response, Url};
use tokio_util::io::ReaderStream;

use crate::client::{Client, scope};
use crate::hosts::Endpoint;
use crate::manifest::Failures;
use crate::request::{self, Tries, refused};
use crate::{Error, Result};

/// Bytes per piece of an upload.
const PIECE: usize = 256 << 10;

/// Where the bytes of a blob are.
#[derive(Debug, Clone)]
pub enum BlobSource {
    /// In a file.
    File(PathBuf),
    /// Here.
    Bytes(Bytes),
}

/// Called with the number of bytes that were sent, from the upload's task.
pub type Sent = Arc<dyn Fn(u64) + Send + Sync>;

/// What it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// Nothing: the blob was there.
    Existed,
    /// It was mounted from another repository of the registry.
    Mounted,
    /// It was sent.
    Uploaded,
}

impl Client {
    /// Brings a blob into the reference's repository. `mount_from` names repositories of the same registry (paths
    /// without the registry) that are thought to have it.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: &BlobSource,
        mount_from: &[String],
        sent: Option<Sent>,
    ) -> Result<Pushed> {
        let mut failure = Failures::default();
        for endpoint in self.push_endpoints(reference) {
            let pushed = self
                .push_blob_at(
                    &endpoint,
                    reference,
                    descriptor,
                    source,
                    mount_from,
                    sent.clone(),
                )
                .await;
            match pushed {
                Ok(pushed) => return Ok(pushed),
                // Only a host that can't be spoken to is another scheme's turn.
                Err(error @ Error::Request { .. }) => failure.add(&endpoint, error),
                Err(error) => return Err(error),
            }
        }
        Err(failure.into_error(reference))
    }

    /// Whether the repository that is pushed to has the blob already.
    pub async fn has_blob(&self, reference: &Reference, descriptor: &Descriptor) -> Result<bool> {
        let mut failure = Failures::default();
        for endpoint in self.push_endpoints(reference) {
            match self.has_blob_at(&endpoint, reference, descriptor).await {
                Err(error @ Error::Request { .. }) => failure.add(&endpoint, error),
                outcome => return outcome,
            }
        }
        Err(failure.into_error(reference))
    }

    async fn has_blob_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<bool> {
        let scopes = [scope(reference, "pull,push")];
        let blob = endpoint.url(reference.path(), &format!("blobs/{}", descriptor.digest));
        let head = self
            .send(endpoint, &scopes, |http| http.head(&blob))
            .await?;
        match head.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(refused(head, endpoint, "push", &reference.familiar(), "HEAD").await),
        }
    }

    async fn push_blob_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        descriptor: &Descriptor,
        source: &BlobSource,
        mount_from: &[String],
        sent: Option<Sent>,
    ) -> Result<Pushed> {
        let arriving = self
            .hosts()
            .upload(endpoint, reference.path(), &descriptor.digest);
        let _alone = arriving.lock().await;
        let from = mount_from
            .iter()
            .find(|path| path.as_str() != reference.path());
        let mut tries = Tries::default();
        loop {
            if self.has_blob_at(endpoint, reference, descriptor).await? {
                return Ok(Pushed::Existed);
            }
            let begun = self.begin(endpoint, reference, descriptor, from).await?;
            if begun.status() == StatusCode::CREATED {
                return Ok(Pushed::Mounted);
            }
            let outcome = self
                .upload(
                    endpoint,
                    reference,
                    descriptor,
                    source,
                    &begun,
                    sent.as_ref(),
                )
                .await;
            if let Some(pause) = tries.pause(&outcome) {
                tokio::time::sleep(pause).await;
                continue;
            }
            let response = outcome?.response;
            if response.status().is_success() {
                return Ok(Pushed::Uploaded);
            }
            return Err(refused(response, endpoint, "push", &reference.familiar(), "PUT").await);
        }
    }

    /// Asks for an upload, or for a mount, which becomes an upload if it is refused.
    async fn begin(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        descriptor: &Descriptor,
        from: Option<&String>,
    ) -> Result<Response> {
        let mut scopes = vec![scope(reference, "pull,push")];
        let mut url = endpoint.url(reference.path(), "blobs/uploads/");
        if let Some(from) = from {
            scopes.push(format!("repository:{from}:pull"));
            url = format!("{url}?mount={}&from={from}", descriptor.digest);
        }
        let begun = self
            .send(endpoint, &scopes, |http| {
                http.post(&url).header(header::CONTENT_LENGTH, 0)
            })
            .await;
        match (begun, from) {
            (Ok(response), _)
                if matches!(
                    response.status(),
                    StatusCode::ACCEPTED | StatusCode::CREATED
                ) =>
            {
                Ok(response)
            }
            // We may not be allowed to see the other repository, or its token server may say so.
            (_, Some(_)) => Box::pin(self.begin(endpoint, reference, descriptor, None)).await,
            (Ok(response), None) => {
                Err(refused(response, endpoint, "push", &reference.familiar(), "POST").await)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Sends the bytes in one request.
    async fn upload(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        descriptor: &Descriptor,
        source: &BlobSource,
        begun: &Response,
        sent: Option<&Sent>,
    ) -> Result<request::Sent> {
        let url = upload_url(begun, endpoint, descriptor)?;
        let scopes = [scope(reference, "pull,push")];
        self.send_once(endpoint, &scopes, |http| {
            Ok(http
                .put(url.clone())
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .header(header::CONTENT_LENGTH, descriptor.size)
                .body(body(source, sent.cloned())?))
        })
        .await
    }
}

/// The bytes from the start.
fn body(source: &BlobSource, sent: Option<Sent>) -> Result<reqwest::Body> {
    let path = match source {
        BlobSource::Bytes(bytes) => return Ok(bytes.clone().into()),
        BlobSource::File(path) => path,
    };
    let file = File::open(path).map_err(|source| Error::File {
        path: path.clone(),
        source: Arc::new(source),
    })?;
    let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE);
    Ok(reqwest::Body::wrap_stream(pieces.inspect_ok(
        move |piece| {
            if let Some(sent) = &sent {
                sent(piece.len() as u64);
            }
        },
    )))
}

fn upload_url(begun: &Response, endpoint: &Endpoint, descriptor: &Descriptor) -> Result<Url> {
    let location = begun
        .headers()
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok());
    let mut url = location
        .and_then(|location| begun.url().join(location).ok())
        .ok_or_else(|| Error::Protocol {
            host: endpoint.host.clone(),
            what: "an upload without a usable Location".to_owned(),
        })?;
    url.query_pairs_mut()
        .append_pair("digest", &descriptor.digest.to_string());
    Ok(url)
}
