//! `kiln.agent.v1.Images`: named images.
//!
//! Archives cross the wire in chunks; the work reads and writes them on a thread of its own, and ends when the
//! client drops its call.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures::{Stream, StreamExt as _};
use kiln_errdefs::{WithDetail, to_status};
use kiln_history::History;
use kiln_images::{
    ArchiveFormat, BlobProgress, BlobState, Error, Filters, Image, Images, OnProgress, PullOptions,
    Removed, SaveOptions,
};
use kiln_proto::agent as api;
use kiln_proto::agent::images_server::Images as Service;
use kiln_registry::Credential;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Bytes of an archive in one message.
const CHUNK: usize = 512 << 10;

/// Of the builds that used an image; who wants to see more wants a number.
const MOST_USES: usize = 50;

/// The images of one daemon.
#[derive(Debug, Clone)]
pub struct ImagesService {
    images: Images,
    history: History,
}

impl ImagesService {
    /// Over the operations on images, and the records of the builds that made and used them.
    pub fn new(images: Images, history: History) -> Self {
        Self { images, history }
    }

    /// As they go over the wire, with the builds that made them.
    fn made(&self, images: Vec<Image>) -> Vec<api::Image> {
        let digests = images.iter().map(|image| image.digest).collect();
        let mut makers = self.history.makers(&digests);
        images
            .into_iter()
            .map(|one| {
                let maker = makers.remove(&one.digest);
                image(one, maker.unwrap_or_default())
            })
            .collect()
    }
}

fn status(error: Error) -> Status {
    let kind = error.kind();
    to_status(&WithDetail::kind(Arc::new(error), kind))
}

fn credential(given: Option<api::RegistryCredential>) -> Option<Credential> {
    let given = given.filter(|given| !given.secret.is_empty())?;
    Some(if given.token {
        Credential::IdentityToken(given.secret)
    } else {
        Credential::Basic {
            username: given.username,
            secret: given.secret,
        }
    })
}

fn image(image: Image, build_ref: String) -> api::Image {
    api::Image {
        digest: image.digest.to_string(),
        id: image.id.map(|id| id.to_string()).unwrap_or_default(),
        names: image.names,
        platforms: image.platforms,
        created: image.created.map(timestamp),
        bytes: image.bytes as i64,
        shared_bytes: image.shared_bytes as i64,
        labels: image.labels.into_iter().collect(),
        build_ref,
    }
}

fn timestamp(at: kiln_oci::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.unix_seconds(),
        nanos: at.nanosecond() as i32,
    }
}

fn begun(at: &kiln_proto::google::protobuf::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.seconds,
        nanos: at.nanos,
    }
}

fn blob(progress: BlobProgress) -> api::TransferProgress {
    let state = match progress.state {
        BlobState::Waiting => "waiting",
        BlobState::Transferring => "transferring",
        BlobState::Exists => "exists",
        BlobState::Done => "done",
    };
    api::TransferProgress {
        event: Some(api::transfer_progress::Event::Blob(api::BlobProgress {
            digest: progress.digest,
            status: state.to_owned(),
            current: progress.current as i64,
            total: progress.total as i64,
            description: progress.description.to_owned(),
        })),
    }
}

fn removed(removed: &Removed) -> Vec<api::RemovedName> {
    let names = removed.names.iter().map(|name| api::RemovedName {
        name: name.name.clone(),
        deleted_digest: name
            .deleted
            .map(|digest| digest.to_string())
            .unwrap_or_default(),
    });
    names.collect()
}

/// A transfer as a stream: its progress, then its end. Dropping the stream ends the work.
fn transfer<F, Fut>(work: F) -> Messages<api::TransferProgress>
where
    F: FnOnce(OnProgress) -> Fut,
    Fut: Future<Output = kiln_images::Result<kiln_oci::Digest>> + Send + 'static,
{
    let (sender, receiver) = mpsc::unbounded_channel();
    let on_progress: OnProgress = Arc::new(move |progress| {
        // The client left; the work is about to be dropped.
        let _ = sender.send(Ok(blob(progress)));
    });
    let work = work(on_progress);
    let end = futures::stream::once(async move {
        let digest = work.await.map_err(status)?;
        let event = api::transfer_progress::Event::Finished(digest.to_string());
        Ok(api::TransferProgress { event: Some(event) })
    });
    // The work is polled beside its own progress, which ends before it: its sender is dropped with it.
    let both = futures::stream::select(UnboundedReceiverStream::new(receiver), end);
    Box::pin(both)
}

/// Writes into messages.
struct ChunkWriter {
    sender: mpsc::Sender<Result<api::ImageChunk, Status>>,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    fn send(&mut self) -> io::Result<()> {
        let data = Bytes::from(std::mem::take(&mut self.buffer));
        let sent = self.sender.blocking_send(Ok(api::ImageChunk { data }));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client left"))
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.send()
    }
}

/// Reads from messages.
struct ChunkReader {
    receiver: mpsc::Receiver<Result<Bytes, Status>>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(Ok(bytes)) => self.current = bytes,
                Some(Err(status)) => return Err(io::Error::other(status.message().to_owned())),
            }
        }
        let taken = into.len().min(self.current.len());
        self.current.copy_to_slice(&mut into[..taken]);
        Ok(taken)
    }
}

#[tonic::async_trait]
impl Service for ImagesService {
    async fn list_images(
        &self,
        request: Request<api::ListImagesRequest>,
    ) -> Result<Response<api::ListImagesResponse>, Status> {
        let filters = Filters::parse(&request.get_ref().filters).map_err(status)?;
        let images = self.images.list(&filters).await.map_err(status)?;
        Ok(Response::new(api::ListImagesResponse {
            images: self.made(images),
        }))
    }

    async fn inspect_image(
        &self,
        request: Request<api::InspectImageRequest>,
    ) -> Result<Response<api::InspectImageResponse>, Status> {
        let request = request.into_inner();
        let found = self.images.inspect(&request.name, &request.platform).await;
        let found = found.map_err(status)?;
        let users = self.history.users(&found.digests);
        Ok(Response::new(api::InspectImageResponse {
            image: self.made(vec![found.image]).pop(),
            used_by_total: users.len() as u32,
            used_by: users
                .iter()
                .take(MOST_USES)
                .map(|record| api::ImageUse {
                    build_ref: record.r#ref.clone(),
                    created: record.created_at.as_ref().map(begun),
                })
                .collect(),
            related: found
                .related
                .into_iter()
                .map(|other| api::RelatedImage {
                    digest: other.digest.to_string(),
                    names: other.names,
                    layers: other.layers as u32,
                    shared_layers: other.shared_layers as u32,
                })
                .collect(),
            manifest: found.manifest,
            config: found.config,
            layers: found
                .layers
                .into_iter()
                .map(|layer| api::Layer {
                    digest: layer.digest.to_string(),
                    diff_id: layer.diff_id.map(|id| id.to_string()).unwrap_or_default(),
                    media_type: layer.media_type,
                    bytes: layer.bytes as i64,
                })
                .collect(),
            history: found
                .history
                .into_iter()
                .map(|(entry, bytes)| api::HistoryEntry {
                    created_by: entry.created_by,
                    created: entry.created.map(timestamp),
                    comment: entry.comment,
                    empty_layer: entry.empty_layer,
                    bytes: bytes as i64,
                })
                .collect(),
            attestations: found
                .attestations
                .into_iter()
                .map(|statement| api::Attestation {
                    digest: statement.digest.to_string(),
                    predicate_type: statement.predicate_type,
                    platform: statement.platform,
                })
                .collect(),
        }))
    }

    type PullImageStream = Messages<api::TransferProgress>;

    async fn pull_image(
        &self,
        request: Request<api::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let request = request.into_inner();
        let images = self.images.clone();
        let options = PullOptions {
            platforms: request.platforms,
            all_platforms: request.all_platforms,
            credential: credential(request.credential),
        };
        let events = transfer(|on_progress| async move {
            images.pull(&request.name, options, on_progress).await
        });
        Ok(Response::new(events))
    }

    type PushImageStream = Messages<api::TransferProgress>;

    async fn push_image(
        &self,
        request: Request<api::PushImageRequest>,
    ) -> Result<Response<Self::PushImageStream>, Status> {
        let request = request.into_inner();
        let images = self.images.clone();
        let events = transfer(|on_progress| async move {
            let credential = credential(request.credential);
            images.push(&request.name, credential, on_progress).await
        });
        Ok(Response::new(events))
    }

    async fn tag_image(
        &self,
        request: Request<api::TagImageRequest>,
    ) -> Result<Response<api::TagImageResponse>, Status> {
        let request = request.into_inner();
        let tagged = self.images.tag(&request.source, &request.target).await;
        tagged.map_err(status)?;
        Ok(Response::new(api::TagImageResponse {}))
    }

    async fn remove_images(
        &self,
        request: Request<api::RemoveImagesRequest>,
    ) -> Result<Response<api::RemoveImagesResponse>, Status> {
        let gone = self.images.remove(&request.get_ref().names).await;
        let gone = gone.map_err(status)?;
        Ok(Response::new(api::RemoveImagesResponse {
            removed: removed(&gone),
            freed_bytes: gone.freed_bytes as i64,
            failures: gone
                .failures
                .into_iter()
                .map(|failure| api::RemoveFailure {
                    name: failure.name,
                    reason: failure.reason,
                })
                .collect(),
        }))
    }

    type SaveImagesStream = Messages<api::ImageChunk>;

    async fn save_images(
        &self,
        request: Request<api::SaveImagesRequest>,
    ) -> Result<Response<Self::SaveImagesStream>, Status> {
        let request = request.into_inner();
        let format = match request.format.as_str() {
            "" | "docker" => ArchiveFormat::Docker,
            "oci" => ArchiveFormat::Oci,
            other => {
                let text = format!("unknown format {other:?}: want docker or oci");
                return Err(Status::invalid_argument(text));
            }
        };
        let options = SaveOptions {
            names: request.names,
            format,
            platforms: request.platforms,
        };
        let archive = self.images.save(&options).await.map_err(status)?;
        let (sender, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let mut writer = ChunkWriter {
                sender: sender.clone(),
                buffer: Vec::with_capacity(CHUNK),
            };
            let written = archive.write(&mut writer).and_then(|()| {
                writer.flush().map_err(|source| Error::Io {
                    action: "send the archive",
                    source,
                })
            });
            if let Err(error) = written {
                let _ = sender.blocking_send(Err(status(error)));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn load_images(
        &self,
        request: Request<Streaming<api::ImageChunk>>,
    ) -> Result<Response<api::LoadImagesResponse>, Status> {
        let mut chunks = request.into_inner();
        let (sender, receiver) = mpsc::channel(4);
        let reader = ChunkReader {
            receiver,
            current: Bytes::new(),
        };
        let feed = async {
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map(|chunk| chunk.data);
                let failed = chunk.is_err();
                // A reader that has what it needs ends early; the rest of the archive is padding.
                if sender.send(chunk).await.is_err() || failed {
                    break;
                }
            }
            drop(sender);
        };
        let (loaded, ()) = tokio::join!(self.images.load(reader), feed);
        Ok(Response::new(api::LoadImagesResponse {
            images: self.made(loaded.map_err(status)?),
        }))
    }

    async fn prune_images(
        &self,
        request: Request<api::PruneImagesRequest>,
    ) -> Result<Response<api::PruneImagesResponse>, Status> {
        let request = request.into_inner();
        let filters = Filters::parse(&request.filters).map_err(status)?;
        let gone = self.images.prune(request.all, &filters).await;
        let gone = gone.map_err(status)?;
        Ok(Response::new(api::PruneImagesResponse {
            removed: removed(&gone),
            freed_bytes: gone.freed_bytes as i64,
        }))
    }
}
