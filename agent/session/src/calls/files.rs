//! Files in (build contexts) and out (`local` outputs and single files such as tars).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::StreamExt as _;
use kiln_filesync::grpc::PacketCodec;
use kiln_filesync::{FileRequest, Progress, ReceiveOptions, Summary, Tree};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::PollSender;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::{Caller, Error};

const SYNC: &str = "/moby.filesync.v1.FileSync/DiffCopy";
const SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
const MULTI_PLATFORM: &str = "buildkit-exporter-multi-platform";
const EXPORTER_META: &str = "exporter-md-";
/// Clients take messages of 4 MiB at most.
const CHUNK: usize = 1 << 20;

pub(crate) fn metadata_value(text: &str) -> Result<MetadataValue<Ascii>, Error> {
    MetadataValue::try_from(text).map_err(|_| Error::Metadata {
        text: text.to_owned(),
    })
}

impl Caller {
    /// Brings `dest` to the state of the client's directory.
    pub async fn sync_files(
        &self,
        request: &FileRequest,
        dest: &Path,
        options: ReceiveOptions,
    ) -> Result<Summary, Error> {
        self.require(SYNC)?;
        let metadata = request.to_metadata()?;
        let (outgoing, mut incoming) = self.connection().stream(SYNC, metadata, PacketCodec);
        self.while_attached(async {
            let received = kiln_filesync::receive(dest, &mut incoming, outgoing, options).await;
            let summary = received.map_err(|error| match error {
                kiln_filesync::Error::Transport(status)
                    if status.code() == Code::NotFound
                        || status.message().starts_with("no access allowed to dir") =>
                {
                    Error::NoDirectory {
                        name: request.name.clone(),
                    }
                }
                error => broken(SYNC, error),
            })?;
            drain(incoming).await;
            Ok(summary)
        })
        .await
    }

    /// Sends a tree to the client's output of this number. `complete` says that all platforms come
    /// in this one transfer, which a client needs that deletes what it isn't sent.
    pub async fn copy_dir(
        &self,
        exporter: usize,
        complete: bool,
        tree: Arc<dyn Tree>,
        progress: Option<Progress>,
    ) -> Result<(), Error> {
        self.require(SEND)?;
        let mut metadata = MetadataMap::new();
        metadata.insert(EXPORTER_ID, MetadataValue::from(exporter));
        if complete {
            metadata.insert(MULTI_PLATFORM, MetadataValue::from_static("1"));
        }
        let (outgoing, mut incoming) = self.connection().stream(SEND, metadata, PacketCodec);
        self.while_attached(async {
            kiln_filesync::send(tree, &mut incoming, outgoing, progress)
                .await
                .map_err(|error| broken(SEND, error))?;
            drain(incoming).await;
            Ok(())
        })
        .await
    }

    /// Opens the client's output of this number for one file, described by `meta`.
    pub fn send_file(
        &self,
        exporter: usize,
        meta: &BTreeMap<String, String>,
    ) -> Result<FileWriter, Error> {
        self.require(SEND)?;
        let mut metadata = MetadataMap::new();
        for (key, value) in meta {
            let name = format!("{EXPORTER_META}{key}");
            let key = MetadataKey::<Ascii>::from_bytes(name.as_bytes())
                .map_err(|_| Error::Metadata { text: name })?;
            metadata.insert(key, metadata_value(value)?);
        }
        metadata.insert(EXPORTER_ID, MetadataValue::from(exporter));
        let (outgoing, mut incoming) = self.connection().bytes(SEND, metadata);
        // The call is driven by reading its answers, which are empty until its end.
        let answer = tokio::spawn(async move {
            while let Some(message) = incoming.next().await {
                message?;
            }
            Ok(())
        });
        Ok(FileWriter {
            caller: self.clone(),
            outgoing: PollSender::new(outgoing),
            answer: Answer(answer),
        })
    }
}

/// A call that the client ended says why.
fn broken(method: &'static str, error: kiln_filesync::Error) -> Error {
    match error {
        kiln_filesync::Error::Transport(status) => Error::Call { method, status },
        error => Error::Files(error),
    }
}

/// Reads a call to its end, so that the client sees it end in order. Both sides have agreed that the
/// transfer is complete, so nothing that comes now can matter.
async fn drain<T>(mut answers: impl futures::Stream<Item = Result<T, Status>> + Unpin) {
    while let Some(Ok(_)) = answers.next().await {}
}

/// Writes one file to the client. Without [`finish`](Self::finish) the client keeps a torn file.
#[derive(Debug)]
pub struct FileWriter {
    caller: Caller,
    outgoing: PollSender<Bytes>,
    answer: Answer,
}

/// The rest of the call; given up with the writer.
#[derive(Debug)]
struct Answer(JoinHandle<Result<(), Status>>);

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a client took a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It has the whole file.
    Whole,
    /// It already had what the metadata describes and wants no more.
    AlreadyThere,
}

impl FileWriter {
    /// Sends bytes without copying them. Fails when the client ended the call: `finish` says why.
    pub async fn send(&mut self, mut bytes: Bytes) -> io::Result<()> {
        let Some(sender) = self.outgoing.get_ref().cloned() else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK));
            sender
                .send(chunk)
                .await
                .map_err(|mpsc::error::SendError(_)| io::ErrorKind::BrokenPipe)?;
        }
        Ok(())
    }

    /// Ends the file and waits until the client has it.
    pub async fn finish(mut self) -> Result<Taken, Error> {
        self.outgoing.close();
        let caller = self.caller.clone();
        caller
            .while_attached(async {
                let answer = (&mut self.answer.0)
                    .await
                    .unwrap_or_else(|error| Err(Status::cancelled(error.to_string())));
                match answer {
                    Ok(()) => Ok(Taken::Whole),
                    Err(status) if status.code() == Code::AlreadyExists => Ok(Taken::AlreadyThere),
                    Err(status) => Err(Error::Call {
                        method: SEND,
                        status: Box::new(status),
                    }),
                }
            })
            .await
    }
}

impl AsyncWrite for FileWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.outgoing.poll_reserve(cx)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        let len = buf.len().min(CHUNK);
        self.outgoing
            .send_item(Bytes::copy_from_slice(&buf[..len]))
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}
