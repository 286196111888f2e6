//! OCI layouts in directories, as content stores that the daemon reads and writes.
//!
//! ```text
//! DIRECTORY/blobs/sha256/<hex>      complete
//! DIRECTORY/ingest/<hash of a ref>  being written
//! ```
//!
//! Invariant: a blob gets its name only when its hash is right.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use http::Request;
use hyper::body::Incoming;
use kiln_filesync::grpc::MAX_MESSAGE;
use kiln_oci::{Digest, Digester};
use kiln_proto::content::content_server::{Content, ContentServer};
use kiln_proto::content::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, InfoResponse, ListContentRequest,
    ListContentResponse, ListStatusesRequest, ListStatusesResponse, ReadContentRequest,
    ReadContentResponse, StatusRequest, StatusResponse, UpdateRequest, UpdateResponse, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Response, Status, Streaming};
use tower::ServiceExt as _;

use super::Attached;

const STORE: &str = "buildkit-attachable-store-id";
const CHUNK: usize = 1 << 20;

pub(super) async fn serve(
    attached: Arc<Attached>,
    request: Request<Incoming>,
) -> http::Response<Body> {
    let service = ContentServer::new(Stores(attached))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    match service.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

struct Stores(Arc<Attached>);

impl Stores {
    fn directory<T>(&self, request: &tonic::Request<T>) -> Result<PathBuf, Status> {
        let name = request
            .metadata()
            .get(STORE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let found = self.0.stores.get(name).cloned();
        found.ok_or_else(|| Status::not_found(format!("no store {name:?} is attached")))
    }
}

fn blob(directory: &Path, digest: &str) -> Result<PathBuf, Status> {
    let digest: Digest = digest
        .parse()
        .map_err(|_| Status::invalid_argument(format!("{digest:?} isn't a sha256 digest")))?;
    Ok(directory.join("blobs/sha256").join(digest.hex()))
}

fn failed(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Status {
    let text = format!("{action} {}", path.display());
    move |error| match error.kind() {
        std::io::ErrorKind::NotFound => Status::not_found(format!("{text}: not found")),
        _ => Status::unknown(format!("{text}: {error}")),
    }
}

#[tonic::async_trait]
impl Content for Stores {
    type ListStream = BoxStream<'static, Result<ListContentResponse, Status>>;
    type ReadStream = BoxStream<'static, Result<ReadContentResponse, Status>>;
    type WriteStream = BoxStream<'static, Result<WriteContentResponse, Status>>;

    async fn info(
        &self,
        request: tonic::Request<InfoRequest>,
    ) -> Result<Response<InfoResponse>, Status> {
        let directory = self.directory(&request)?;
        let digest = request.into_inner().digest;
        let path = blob(&directory, &digest)?;
        let metadata = std::fs::metadata(&path).map_err(failed("look at", &path))?;
        Ok(Response::new(InfoResponse {
            info: Some(Info {
                digest,
                size: metadata.len() as i64,
                ..Info::default()
            }),
        }))
    }

    async fn read(
        &self,
        request: tonic::Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let directory = self.directory(&request)?;
        let request = request.into_inner();
        let path = blob(&directory, &request.digest)?;
        let mut file = std::fs::File::open(&path).map_err(failed("read", &path))?;
        let length = file.metadata().map_err(failed("look at", &path))?.len();
        let start = u64::try_from(request.offset).unwrap_or(0);
        if start > length {
            return Err(Status::out_of_range("the offset is beyond the blob's end"));
        }
        let wanted = match u64::try_from(request.size) {
            Ok(0) | Err(_) => length - start,
            Ok(size) => size.min(length - start),
        };
        file.seek(SeekFrom::Start(start))
            .map_err(failed("read", &path))?;
        let (sender, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let mut left = wanted;
            while left > 0 {
                let mut data = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
                let answer = match file.read_exact(&mut data) {
                    Ok(()) => Ok(ReadContentResponse {
                        offset: (start + wanted - left) as i64,
                        data: Bytes::from(data),
                    }),
                    Err(error) => Err(failed("read", &path)(error)),
                };
                left = left.saturating_sub(CHUNK as u64);
                let ended = answer.is_err();
                if sender.blocking_send(answer).is_err() || ended {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn status(
        &self,
        request: tonic::Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let reference = &request.get_ref().r#ref;
        Err(Status::not_found(format!(
            "nothing is written as {reference}"
        )))
    }

    async fn write(
        &self,
        request: tonic::Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let directory = self.directory(&request)?;
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut writer = None;
            loop {
                let step = match requests.message().await {
                    Ok(Some(message)) => {
                        let (at, mut taken) = (directory.clone(), writer.take());
                        let work = tokio::task::spawn_blocking(move || {
                            let answer = step(&at, &mut taken, &message);
                            (taken, answer)
                        });
                        match work.await {
                            Ok((left, answer)) => {
                                writer = left;
                                answer
                            }
                            Err(error) => Err(Status::internal(error.to_string())),
                        }
                    }
                    Ok(None) => return,
                    Err(status) => Err(status),
                };
                let ended = step.is_err();
                if sender.send(step).await.is_err() || ended {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn abort(&self, request: tonic::Request<AbortRequest>) -> Result<Response<()>, Status> {
        // A writer that goes away takes its file along.
        self.directory(&request)?;
        Ok(Response::new(()))
    }

    async fn update(
        &self,
        request: tonic::Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        // Labels have no place in a layout.
        self.directory(&request)?;
        let info = request.into_inner().info;
        Ok(Response::new(UpdateResponse { info }))
    }

    async fn list(
        &self,
        _: tonic::Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        Err(Status::unimplemented("a layout's blobs aren't listed"))
    }

    async fn delete(
        &self,
        _: tonic::Request<DeleteContentRequest>,
    ) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("a layout's blobs aren't deleted"))
    }

    async fn list_statuses(
        &self,
        _: tonic::Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        Ok(Response::new(ListStatusesResponse::default()))
    }
}

/// A blob on its way.
struct Writing {
    file: tempfile::NamedTempFile,
    digester: Digester,
    offset: u64,
}

impl Writing {
    fn begin(directory: &Path) -> Result<Self, Status> {
        let ingest = directory.join("ingest");
        std::fs::create_dir_all(&ingest).map_err(failed("create", &ingest))?;
        let file = tempfile::NamedTempFile::new_in(&ingest).map_err(failed("write", &ingest))?;
        Ok(Self {
            file,
            digester: Digester::new(),
            offset: 0,
        })
    }
}

fn step(
    directory: &Path,
    writing: &mut Option<Writing>,
    message: &WriteContentRequest,
) -> Result<WriteContentResponse, Status> {
    if !message.expected.is_empty() && blob(directory, &message.expected)?.is_file() {
        let text = format!("content {}: already exists", message.expected);
        return Err(Status::already_exists(text));
    }
    let current = match writing {
        Some(current) if message.offset != 0 || message.data.is_empty() => current,
        _ => writing.insert(Writing::begin(directory)?),
    };
    if !message.data.is_empty() {
        if u64::try_from(message.offset) != Ok(current.offset) {
            return Err(Status::out_of_range(format!(
                "data for offset {} where {} is next",
                message.offset, current.offset
            )));
        }
        current
            .file
            .write_all(&message.data)
            .map_err(failed("write", directory))?;
        current.digester.update(&message.data);
        current.offset += message.data.len() as u64;
    }
    let mut answer = WriteContentResponse {
        action: message.action,
        offset: current.offset as i64,
        total: message.total,
        ..WriteContentResponse::default()
    };
    if message.action() == WriteAction::Commit {
        let Some(done) = writing.take() else {
            return Err(Status::failed_precondition("nothing was written"));
        };
        let digest = done.digester.finish();
        if message.total > 0 && message.total as u64 != done.offset {
            let text = format!("{} bytes where {} are expected", done.offset, message.total);
            return Err(Status::failed_precondition(text));
        }
        if !message.expected.is_empty() && message.expected != digest.to_string() {
            let text = format!("the bytes are {digest}, not {}", message.expected);
            return Err(Status::failed_precondition(text));
        }
        let path = blob(directory, &digest.to_string())?;
        let parent = path.parent().unwrap_or(directory);
        std::fs::create_dir_all(parent).map_err(failed("create", parent))?;
        let persisted = done.file.persist(&path);
        persisted.map_err(|error| failed("write", &path)(error.error))?;
        let _ = std::fs::remove_dir(directory.join("ingest"));
        answer.digest = digest.to_string();
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(action: WriteAction, offset: i64, data: &'static [u8]) -> WriteContentRequest {
        WriteContentRequest {
            action: action.into(),
            r#ref: "r".into(),
            offset,
            data: data.into(),
            ..WriteContentRequest::default()
        }
    }

    #[test]
    fn blobs_are_named_when_they_are_right() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let expected = Digest::of(b"hello").to_string();
        let mut writing = None;
        step(at, &mut writing, &message(WriteAction::Stat, 0, b"")).unwrap();
        let answer = step(at, &mut writing, &message(WriteAction::Write, 0, b"hel")).unwrap();
        assert_eq!(answer.offset, 3);
        assert!(step(at, &mut writing, &message(WriteAction::Write, 7, b"x")).is_err());
        step(at, &mut writing, &message(WriteAction::Write, 3, b"lo")).unwrap();
        let mut commit = message(WriteAction::Commit, 5, b"");
        commit.expected = Digest::of(b"other").to_string();
        assert!(step(at, &mut writing, &commit).is_err());
        step(at, &mut writing, &message(WriteAction::Write, 0, b"hello")).unwrap();
        commit.expected.clone_from(&expected);
        commit.total = 5;
        let answer = step(at, &mut writing, &commit).unwrap();
        assert_eq!(answer.digest, expected);
        assert_eq!(
            std::fs::read(blob(at, &expected).unwrap()).unwrap(),
            b"hello"
        );
        let again = step(at, &mut None, &commit).unwrap_err();
        assert_eq!(again.code(), tonic::Code::AlreadyExists);
        assert!(blob(at, "sha256:../../x").is_err());
    }
}
