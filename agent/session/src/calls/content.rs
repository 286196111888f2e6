//! A content store that the client serves: OCI layouts as sources, and layouts as outputs.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use kiln_proto::content::content_client::ContentClient;
use kiln_proto::content::{
    InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use crate::calls::files::metadata_value;
use crate::connection::{Connection, origin};
use crate::{Caller, Error};

const INFO: &str = "/containerd.services.content.v1.Content/Info";
const READ: &str = "/containerd.services.content.v1.Content/Read";
const WRITE: &str = "/containerd.services.content.v1.Content/Write";
const TIMEOUT: Duration = Duration::from_mins(1);
const CHUNK: usize = 1 << 20;

/// One of the client's content stores.
#[derive(Debug, Clone)]
pub struct ContentProxy {
    caller: Caller,
    store: String,
}

impl Caller {
    /// The client's store of this name: `export` for outputs, the layout's id for sources.
    pub fn content(&self, store: &str) -> ContentProxy {
        ContentProxy {
            caller: self.clone(),
            store: store.to_owned(),
        }
    }
}

impl ContentProxy {
    fn client(&self) -> ContentClient<Connection> {
        ContentClient::with_origin(self.caller.connection().clone(), origin())
            .max_decoding_message_size(kiln_filesync::grpc::MAX_MESSAGE)
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Error> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("buildkit-attachable-store-id", metadata_value(&self.store)?);
        metadata.insert(
            "containerd-namespace",
            MetadataValue::from_static("buildkit"),
        );
        Ok(request)
    }

    /// The blob's size; `None` if the store hasn't got it.
    pub async fn size(&self, digest: &str) -> Result<Option<u64>, Error> {
        let request = self.request(InfoRequest {
            digest: digest.to_owned(),
        })?;
        let mut client = self.client();
        match self.caller.unary(INFO, TIMEOUT, client.info(request)).await {
            Ok(answer) => Ok(answer.info.and_then(|info| u64::try_from(info.size).ok())),
            Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The blob's bytes from `offset` on; `size` 0 means to its end. The caller verifies them.
    pub async fn read(
        &self,
        digest: &str,
        offset: u64,
        size: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, tonic::Status>>, Error> {
        let request = self.request(ReadContentRequest {
            digest: digest.to_owned(),
            offset: offset.try_into().unwrap_or(i64::MAX),
            size: size.try_into().unwrap_or(i64::MAX),
        })?;
        let mut client = self.client();
        let answers = self
            .caller
            .unary(READ, TIMEOUT, client.read(request))
            .await?;
        Ok(answers.map_ok(|piece| piece.data).boxed())
    }

    /// Writes a whole blob. A store that has it already is content with that.
    pub async fn write(
        &self,
        digest: &str,
        size: u64,
        mut data: impl futures::Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    ) -> Result<(), Error> {
        let total = size.try_into().unwrap_or(i64::MAX);
        let reference = format!("kiln-{digest}");
        let message = |action: WriteAction, offset: i64, data: Bytes| WriteContentRequest {
            action: action.into(),
            r#ref: reference.clone(),
            total,
            expected: digest.to_owned(),
            offset,
            data,
            ..WriteContentRequest::default()
        };
        let failed = |status: tonic::Status| Error::Call {
            method: WRITE,
            status: Box::new(status),
        };
        let (sender, receiver) = mpsc::channel(4);
        let request = self.request(ReceiverStream::new(receiver))?;
        let ended = |mpsc::error::SendError(_)| Error::Answer {
            method: WRITE,
            reason: "the client ended the call early",
        };
        let work = async {
            let mut client = self.client();
            sender
                .send(message(WriteAction::Stat, 0, Bytes::new()))
                .await
                .map_err(ended)?;
            let mut answers = match client.write(request).await {
                Ok(answers) => answers.into_inner(),
                Err(status) if status.code() == Code::AlreadyExists => return Ok(()),
                Err(status) => return Err(failed(status)),
            };
            let mut offset: i64 = 0;
            match next(&mut answers).await {
                Ok(_) => {}
                Err(status) if status.code() == Code::AlreadyExists => return Ok(()),
                Err(status) => return Err(failed(status)),
            }
            while let Some(piece) = data.next().await {
                let mut piece = piece.map_err(|error| {
                    failed(tonic::Status::internal(format!("read {digest}: {error}")))
                })?;
                while !piece.is_empty() {
                    let chunk = piece.split_to(piece.len().min(CHUNK));
                    let len = chunk.len() as i64;
                    sender
                        .send(message(WriteAction::Write, offset, chunk))
                        .await
                        .map_err(ended)?;
                    next(&mut answers).await.map_err(failed)?;
                    offset += len;
                }
            }
            sender
                .send(message(WriteAction::Commit, offset, Bytes::new()))
                .await
                .map_err(ended)?;
            match next(&mut answers).await {
                Ok(_) => Ok(()),
                Err(status) if status.code() == Code::AlreadyExists => Ok(()),
                Err(status) => Err(failed(status)),
            }
        };
        self.caller.while_attached(work).await
    }
}

async fn next(
    answers: &mut tonic::Streaming<WriteContentResponse>,
) -> Result<WriteContentResponse, tonic::Status> {
    answers
        .message()
        .await?
        .ok_or_else(|| tonic::Status::unavailable("the client ended the call early"))
}
