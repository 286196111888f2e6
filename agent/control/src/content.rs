//! `containerd.services.content.v1.Content`, for reading: logs, provenance and manifests by digest.

use std::os::unix::fs::FileExt as _;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use kiln_content::ContentStore;
use kiln_oci::Digest;
use kiln_proto::content as api;
use kiln_proto::content::content_server::Content;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const CHUNK: usize = 1024 * 1024;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Read-only access to the blobs.
#[derive(Debug, Clone)]
pub(crate) struct ContentService(ContentStore);

impl ContentService {
    pub(crate) fn new(content: ContentStore) -> Self {
        Self(content)
    }

    fn find(&self, digest: &str) -> Result<(Digest, u64), Status> {
        let parsed: Digest = digest
            .parse()
            .map_err(|error| Status::invalid_argument(format!("{digest:?}: {error}")))?;
        let info = self
            .0
            .info(&parsed)
            .ok_or_else(|| Status::not_found(format!("content {digest}: not found")))?;
        Ok((parsed, info.size))
    }
}

fn read_only<T>() -> Result<T, Status> {
    Err(Status::permission_denied("read-only content store"))
}

#[tonic::async_trait]
impl Content for ContentService {
    async fn info(
        &self,
        request: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        let digest = request.into_inner().digest;
        let (_, size) = self.find(&digest)?;
        Ok(Response::new(api::InfoResponse {
            info: Some(api::Info {
                digest,
                size: size as i64,
                ..Default::default()
            }),
        }))
    }

    async fn update(
        &self,
        _: Request<api::UpdateRequest>,
    ) -> Result<Response<api::UpdateResponse>, Status> {
        read_only()
    }

    type ListStream = Messages<api::ListContentResponse>;

    async fn list(
        &self,
        request: Request<api::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        if !request.into_inner().filters.is_empty() {
            return Err(Status::unimplemented("filters of content lists"));
        }
        let blobs: Vec<_> = self
            .0
            .walk()
            .into_iter()
            .map(|blob| api::Info {
                digest: blob.digest.to_string(),
                size: blob.size as i64,
                ..Default::default()
            })
            .collect();
        let pages: Vec<_> = blobs
            .chunks(100)
            .map(|page| {
                Ok(api::ListContentResponse {
                    info: page.to_vec(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(pages))))
    }

    async fn delete(&self, _: Request<api::DeleteContentRequest>) -> Result<Response<()>, Status> {
        read_only()
    }

    type ReadStream = Messages<api::ReadContentResponse>;

    async fn read(
        &self,
        request: Request<api::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let (digest, size) = self.find(&request.digest)?;
        let offset = u64::try_from(request.offset)
            .ok()
            .filter(|offset| *offset <= size)
            .ok_or_else(|| {
                Status::out_of_range(format!("read past the end of {digest}: {size} bytes"))
            })?;
        let end = match u64::try_from(request.size) {
            Ok(0) => size,
            Ok(length) => size.min(offset.saturating_add(length)),
            Err(_) => return Err(Status::invalid_argument("negative size")),
        };
        let file = self
            .0
            .open_blob(&digest)
            .map_err(|error| kiln_errdefs::to_status(&error))?;
        let (sender, receiver) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            let mut at = offset;
            while at < end {
                let mut chunk = vec![0; CHUNK.min((end - at) as usize)];
                let message = match file.read_exact_at(&mut chunk, at) {
                    Ok(()) => Ok(api::ReadContentResponse {
                        offset: at as i64,
                        data: Bytes::from(chunk),
                    }),
                    Err(error) => Err(Status::data_loss(format!("{digest}: {error}"))),
                };
                let failed = message.is_err();
                at += CHUNK as u64;
                if sender.blocking_send(message).is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        Err(Status::not_found(request.into_inner().r#ref))
    }

    async fn list_statuses(
        &self,
        _: Request<api::ListStatusesRequest>,
    ) -> Result<Response<api::ListStatusesResponse>, Status> {
        Ok(Response::new(api::ListStatusesResponse::default()))
    }

    type WriteStream = Messages<api::WriteContentResponse>;

    async fn write(
        &self,
        _: Request<Streaming<api::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        read_only()
    }

    async fn abort(&self, _: Request<api::AbortRequest>) -> Result<Response<()>, Status> {
        read_only()
    }
}
