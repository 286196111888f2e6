//! `http://` and `https://`: one file from a server, or from the client's upload.
//!
//! A file is known by its checksum. Where the client says it, nothing is asked for; else the server is:
//! first whether it still has what the cache has (by entity tag, with HEAD, since some servers handle
//! `If-None-Match` badly), then for the file itself, which is hashed while it is written. The tag, the
//! checksum and the date stay with the record.
//!
//! **Invariant:** what a checksum was asked for and doesn't match fails the build and leaves no record.

mod fetch;
mod request;

use std::sync::Arc;

use async_trait::async_trait;
use kiln_cache::{CacheManager, Ref};
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_frontend::{ResolveImage, SourceMeta};
use kiln_oci::Platform;
use kiln_proto::moby::buildkit::v1::frontend::ResolveSourceHttpResponse;
use kiln_proto::pb;
use kiln_session::SessionManager;
use tokio::sync::Mutex;

use crate::{Source, SourceContext, SourceKey, SourceProvider};
use fetch::{Fetched, Fetcher};
use request::HttpRequest;

/// Why a file couldn't be had.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// An attribute that can't be read.
    #[error("invalid value for {key} {value:?}")]
    Attribute {
        /// The attribute.
        key: String,
        /// Its value.
        value: String,
    },
    /// Something known that isn't served.
    #[error("http source: {0} is not supported by this builder")]
    Unsupported(&'static str),
    /// The server, or the way to it, failed.
    #[error("failed to fetch {url}")]
    Transport {
        /// What was asked for, without credentials.
        url: String,
        /// Why it failed.
        #[source]
        source: reqwest::Error,
    },
    /// The server said no.
    #[error("failed to fetch {url}: invalid response status {status}")]
    Status {
        /// What was asked for, without credentials.
        url: String,
        /// What it said.
        status: u16,
    },
    /// Another file than was asked for.
    #[error("digest mismatch for {url}: {got} (expected: {wanted})")]
    Checksum {
        /// What was asked for, without credentials.
        url: String,
        /// What came.
        got: kiln_oci::Digest,
        /// What should have come.
        wanted: kiln_oci::Digest,
    },
    /// The client failed.
    #[error(transparent)]
    Session(#[from] kiln_session::Error),
    /// The client's upload broke off.
    #[error("upload")]
    Upload(#[source] Box<tonic::Status>),
    /// The record failed.
    #[error(transparent)]
    Cache(#[from] kiln_cache::Error),
    /// The file couldn't be written.
    #[error("write {name:?}")]
    Write {
        /// The file's name.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl HttpError {
    fn shared(self) -> SharedError {
        let kind = match &self {
            Self::Attribute { .. } | Self::Checksum { .. } => Some(Kind::User),
            Self::Unsupported(_) => Some(Kind::Unimplemented),
            Self::Transport { .. } => Some(Kind::Unavailable),
            Self::Status { status: 404, .. } => Some(Kind::NotFound),
            Self::Status {
                status: 401 | 403, ..
            } => Some(Kind::Denied),
            _ => None,
        };
        let error: SharedError = Arc::new(self);
        match kind {
            Some(kind) => WithDetail::kind(error, kind).shared(),
            None => error,
        }
    }
}

/// Makes sources of URLs.
#[derive(Debug, Clone)]
pub struct Files(Fetcher);

impl Files {
    /// Fetches with `client` into records of `cache`.
    pub fn new(client: reqwest::Client, cache: CacheManager, sessions: SessionManager) -> Self {
        Self(Fetcher {
            client,
            cache,
            sessions,
        })
    }
}

#[async_trait]
impl SourceProvider for Files {
    fn schemes(&self) -> &'static [&'static str] {
        &["http", "https"]
    }

    fn open(
        &self,
        op: &pb::SourceOp,
        _platform: Option<&Platform>,
    ) -> Result<Arc<dyn Source>, SharedError> {
        Ok(Arc::new(File {
            fetcher: self.0.clone(),
            request: HttpRequest::parse(op).map_err(HttpError::shared)?,
            fetched: Mutex::new(None),
        }))
    }

    async fn look_up(
        &self,
        op: pb::SourceOp,
        _options: &ResolveImage,
        cx: &SourceContext,
    ) -> Result<SourceMeta, SharedError> {
        let request = HttpRequest::parse(&op).map_err(HttpError::shared)?;
        let known = match &request.checksum {
            Some(_) => Fetched::promised(&request),
            None => self
                .0
                .fetch(&request, cx)
                .await
                .map_err(HttpError::shared)?,
        };
        Ok(SourceMeta {
            source: op,
            http: Some(ResolveSourceHttpResponse {
                checksum: known.digest.to_string(),
                filename: known.name.clone(),
                last_modified: known.modified.map(kiln_progress::wire::timestamp),
                checksum_response: None,
            }),
            ..SourceMeta::default()
        })
    }
}

struct File {
    fetcher: Fetcher,
    request: HttpRequest,
    fetched: Mutex<Option<Fetched>>,
}

#[async_trait]
impl Source for File {
    async fn cache_key(&self, _index: usize, cx: &SourceContext) -> Result<SourceKey, SharedError> {
        let mut fetched = self.fetched.lock().await;
        if fetched.is_none() {
            *fetched = Some(if self.request.checksum.is_some() {
                Fetched::promised(&self.request)
            } else {
                self.fetcher
                    .fetch(&self.request, cx)
                    .await
                    .map_err(HttpError::shared)?
            });
        }
        let Some(known) = fetched.as_ref() else {
            return Err(HttpError::Unsupported("a file that is gone").shared());
        };
        Ok(SourceKey {
            key: self.request.cache_key(known).to_string(),
            pin: Some(known.digest.to_string()),
            last: true,
        })
    }

    async fn snapshot(&self, cx: &SourceContext) -> Result<Option<Ref>, SharedError> {
        let mut fetched = self.fetched.lock().await;
        if let Some(Fetched {
            record: Some(record),
            ..
        }) = fetched.as_ref()
        {
            return Ok(Some(record.clone()));
        }
        let new = self
            .fetcher
            .fetch(&self.request, cx)
            .await
            .map_err(HttpError::shared)?;
        let record = new.record.clone();
        *fetched = Some(new);
        Ok(record)
    }
}
