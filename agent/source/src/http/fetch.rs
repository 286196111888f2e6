//! Asks the server, and writes what comes into a record.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::time::SystemTime;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use kiln_cache::{CacheManager, RecordOptions, Ref};
use kiln_ids::SessionId;
use kiln_oci::{Digest, Digester};
use kiln_progress::{Status, VertexProgress};
use kiln_session::SessionManager;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_DISPOSITION, ETAG, IF_NONE_MATCH, LAST_MODIFIED};
use reqwest::{Method, Response, StatusCode};

use super::HttpError;
use super::request::{HttpRequest, parse_http_date};
use crate::SourceContext;

/// The host of files that the client uploads.
const UPLOAD: &str = "http://buildkit-session/";

const KEY_ETAG: &str = "http.etag";
const KEY_CHECKSUM: &str = "http.checksum";
const KEY_MODIFIED: &str = "http.modified";

/// Chunks that wait to be written.
const QUEUE: usize = 32;

/// A file that is known.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    pub(super) digest: Digest,
    pub(super) name: String,
    pub(super) modified: Option<SystemTime>,
    /// Set once it is here.
    pub(super) record: Option<Ref>,
}

impl Fetched {
    /// What the client says it is.
    pub(super) fn promised(request: &HttpRequest) -> Self {
        Self {
            digest: request.checksum.unwrap_or_else(|| Digest::of("")),
            name: request.file_name(None),
            modified: None,
            record: None,
        }
    }
}

/// Fetches files.
#[derive(Debug, Clone)]
pub(super) struct Fetcher {
    pub(super) client: reqwest::Client,
    pub(super) cache: CacheManager,
    pub(super) sessions: SessionManager,
}

/// A record of an earlier fetch.
struct Known {
    record: Ref,
    etag: String,
    digest: Digest,
    modified: Option<SystemTime>,
}

impl Fetcher {
    /// The file, from the cache if the server has nothing newer.
    pub(super) async fn fetch(
        &self,
        request: &HttpRequest,
        cx: &SourceContext,
    ) -> Result<Fetched, HttpError> {
        if let Some(path) = request.url.strip_prefix(UPLOAD) {
            return self.receive_upload(request, path, cx).await;
        }
        let known = self.known(request).await?;
        let authorization = self.authorization(request, &cx.sessions).await?;
        if !known.is_empty()
            && let Some(same) = self
                .unchanged(request, &known, authorization.as_deref())
                .await
        {
            let found = &known[same.index];
            return checked(
                request,
                Fetched {
                    digest: found.digest,
                    name: same.name,
                    modified: found.modified,
                    record: Some(found.record.clone()),
                },
            );
        }
        let response = self
            .request(request, Method::GET, authorization.as_deref())
            .send()
            .await
            .map_err(|source| transport(request, source))?;
        if !response.status().is_success() {
            return Err(HttpError::Status {
                url: request.shown(),
                status: response.status().as_u16(),
            });
        }
        self.receive(request, response, &cx.progress).await
    }

    fn request(
        &self,
        request: &HttpRequest,
        method: Method,
        authorization: Option<&str>,
    ) -> reqwest::RequestBuilder {
        let mut builder = self.client.request(method, &request.url);
        for header in &request.headers {
            builder = builder.header(header.name, &header.value);
        }
        if let Some(authorization) = authorization {
            builder = builder.header(reqwest::header::AUTHORIZATION, authorization);
        }
        builder
    }

    async fn authorization(
        &self,
        request: &HttpRequest,
        sessions: &[SessionId],
    ) -> Result<Option<String>, HttpError> {
        if request.auth_secret.is_empty() {
            return Ok(None);
        }
        let secret = self
            .sessions
            .any(sessions, |caller| async move {
                caller.secret(&request.auth_secret).await
            })
            .await?;
        Ok(Some(String::from_utf8_lossy(&secret).trim().to_owned()))
    }

    async fn known(&self, request: &HttpRequest) -> Result<Vec<Known>, HttpError> {
        let mut known = Vec::new();
        for id in self.cache.search(&request.index_key()) {
            let Some(record) = self.cache.get(&id).await? else {
                continue;
            };
            let text = |key: &str| {
                record
                    .value(key)
                    .and_then(|value| String::from_utf8(value).ok())
            };
            let (Some(etag), Some(digest)) = (
                text(KEY_ETAG),
                text(KEY_CHECKSUM).and_then(|text| text.parse().ok()),
            ) else {
                continue;
            };
            let modified = text(KEY_MODIFIED).and_then(|text| parse_http_date(&text));
            known.push(Known {
                record,
                etag,
                digest,
                modified,
            });
        }
        Ok(known)
    }

    /// Whether the server still has one of the known files. A failure only means that it has to be
    /// fetched.
    async fn unchanged(
        &self,
        request: &HttpRequest,
        known: &[Known],
        authorization: Option<&str>,
    ) -> Option<Same> {
        let tags: Vec<&str> = known.iter().map(|one| one.etag.as_str()).collect();
        let response = self
            .request(request, Method::HEAD, authorization)
            .header(IF_NONE_MATCH, tags.join(", "))
            // As BuildKit asks, since tags depend on it with some servers.
            .header(ACCEPT_ENCODING, "gzip")
            .send()
            .await
            .ok()?;
        let not_modified = response.status() == StatusCode::NOT_MODIFIED;
        if !not_modified && response.status() != StatusCode::OK {
            return None;
        }
        let index = match etag(&response) {
            Some(etag) => known.iter().position(|one| one.etag == etag)?,
            // Without a tag, "not modified" speaks of the only one that was asked about.
            None if not_modified && known.len() == 1 => 0,
            None => return None,
        };
        Some(Same {
            index,
            name: request.file_name(header(&response, &CONTENT_DISPOSITION).as_deref()),
        })
    }

    async fn receive(
        &self,
        request: &HttpRequest,
        response: Response,
        progress: &VertexProgress,
    ) -> Result<Fetched, HttpError> {
        let name = request.file_name(header(&response, &CONTENT_DISPOSITION).as_deref());
        let etag = etag(&response);
        let date = header(&response, &LAST_MODIFIED);
        let modified = date.as_deref().and_then(parse_http_date);
        let total = response.content_length();
        let url = request.shown();
        let body = response.bytes_stream().map(move |chunk| {
            chunk.map_err(|source| HttpError::Transport {
                url: url.clone(),
                source: source.without_url(),
            })
        });
        let (record, digest) = self
            .write(request, &name, modified, total, progress, body.boxed())
            .await?;
        record.set_value(KEY_CHECKSUM, digest.to_string().into_bytes());
        if let Some(date) = date {
            record.set_value(KEY_MODIFIED, date.into_bytes());
        }
        // Without a tag there is nothing to ask the server with later.
        if let Some(etag) = etag {
            record.set_value(KEY_ETAG, etag.into_bytes());
        }
        Ok(Fetched {
            digest,
            name,
            modified,
            record: Some(record),
        })
    }

    async fn receive_upload(
        &self,
        request: &HttpRequest,
        path: &str,
        cx: &SourceContext,
    ) -> Result<Fetched, HttpError> {
        let path = format!("/{path}");
        let body = self
            .sessions
            .any(&cx.sessions, |caller| {
                let opened = caller.upload("buildkit-session", &path);
                async move { opened }
            })
            .await?;
        let body = body.map(|chunk| chunk.map_err(|status| HttpError::Upload(Box::new(status))));
        let name = request.file_name(None);
        let (record, digest) = self
            .write(request, &name, None, None, &cx.progress, body.boxed())
            .await?;
        Ok(Fetched {
            digest,
            name,
            modified: None,
            record: Some(record),
        })
    }

    /// Writes `body` into a new record, hashing it on the way.
    async fn write(
        &self,
        request: &HttpRequest,
        name: &str,
        modified: Option<SystemTime>,
        total: Option<u64>,
        progress: &VertexProgress,
        mut body: BoxStream<'static, Result<Bytes, HttpError>>,
    ) -> Result<(Ref, Digest), HttpError> {
        let options = RecordOptions {
            description: format!("http url {}", request.shown()),
            index: vec![request.index_key()],
            ..RecordOptions::default()
        };
        let record = self.cache.new_mutable(None, options.clone()).await?;
        let failed = |source| HttpError::Write {
            name: name.to_owned(),
            source,
        };
        // A record without a parent is one directory.
        let root = record
            .root_path()
            .ok_or_else(|| failed(std::io::ErrorKind::Unsupported.into()))?;
        let mode = if request.perm == 0 {
            0o600
        } else {
            request.perm as u32 & 0o7777
        };
        let (chunks, mut queue) = tokio::sync::mpsc::channel::<Bytes>(QUEUE);
        let target = Target {
            path: root.join(name),
            mode,
            uid: request.uid as u32,
            gid: request.gid as u32,
            modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
        };
        let writer =
            tokio::task::spawn_blocking(move || target.write(&mut || queue.blocking_recv()));
        let started = SystemTime::now();
        let mut received = 0_u64;
        while let Some(bytes) = body.next().await {
            let bytes = bytes?;
            received += bytes.len() as u64;
            if chunks.send(bytes).await.is_err() {
                // The writer failed; its error comes below.
                break;
            }
            progress.status(status(received, total, started, None));
        }
        drop(chunks);
        let digest = match writer.await {
            Ok(written) => written.map_err(failed)?,
            Err(panicked) => return Err(failed(std::io::Error::other(panicked))),
        };
        progress.status(status(received, total, started, Some(SystemTime::now())));
        if let Some(wanted) = request.checksum
            && wanted != digest
        {
            return Err(HttpError::Checksum {
                url: request.shown(),
                got: digest,
                wanted,
            });
        }
        Ok((record.commit(options).await?, digest))
    }
}

struct Same {
    index: usize,
    name: String,
}

struct Target {
    path: std::path::PathBuf,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: SystemTime,
}

impl Target {
    fn write(self, next: &mut dyn FnMut() -> Option<Bytes>) -> std::io::Result<Digest> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.path)?;
        let mut digester = Digester::new();
        while let Some(bytes) = next() {
            digester.update(&bytes);
            file.write_all(&bytes)?;
        }
        fchown(&file, Some(self.uid), Some(self.gid))?;
        // After the owner, since a change of owner drops set-id bits.
        file.set_permissions(std::fs::Permissions::from_mode(self.mode))?;
        file.set_modified(self.modified)?;
        Ok(digester.finish())
    }
}

fn status(
    current: u64,
    total: Option<u64>,
    started: SystemTime,
    completed: Option<SystemTime>,
) -> Status {
    Status {
        id: "downloading".into(),
        name: String::new(),
        current: current as i64,
        total: total.unwrap_or(0) as i64,
        started: Some(started),
        completed,
    }
}

fn header(response: &Response, name: &reqwest::header::HeaderName) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// The entity tag. What servers append for a compressed form isn't part of the file's identity.
fn etag(response: &Response) -> Option<String> {
    let value = header(response, &ETAG)?;
    let value = value
        .strip_suffix("-gzip")
        .map_or(value.clone(), str::to_owned);
    Some(match value.strip_suffix("-gzip\"") {
        Some(start) => format!("{start}\""),
        None => value,
    })
}

fn transport(request: &HttpRequest, source: reqwest::Error) -> HttpError {
    HttpError::Transport {
        url: request.shown(),
        source: source.without_url(),
    }
}

fn checked(request: &HttpRequest, fetched: Fetched) -> Result<Fetched, HttpError> {
    match request.checksum {
        Some(wanted) if wanted != fetched.digest => Err(HttpError::Checksum {
            url: request.shown(),
            got: fetched.digest,
            wanted,
        }),
        _ => Ok(fetched),
    }
}
