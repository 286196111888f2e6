//! Calls of `kiln.agent.v1.Images`. A real `buildkitd` answers them with `UNIMPLEMENTED`.

use futures::StreamExt as _;
use kiln_filesync::grpc::MAX_MESSAGE;
use kiln_proto::agent;
use kiln_proto::agent::images_client::ImagesClient as Generated;
use kiln_proto::agent::transfer_progress::Event;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{Client, Credential, Error};

pub use kiln_proto::agent::{BlobProgress, Image};
use kiln_proto::agent::{InspectImageResponse, RemoveImagesResponse};

const CHUNK: usize = 512 << 10;

/// The images of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImagesClient {
    calls: Generated<Channel>,
}

impl Client {
    /// Named images.
    pub fn images(&self) -> ImagesClient {
        ImagesClient {
            calls: Generated::new(self.channel())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        }
    }
}

impl ImagesClient {
    /// The generated client, for calls that aren't wrapped here.
    pub fn calls(&self) -> Generated<Channel> {
        self.calls.clone()
    }

    /// The images that pass Docker's filters, newest first.
    pub async fn list(&self, filters: Vec<String>) -> Result<Vec<Image>, Error> {
        let request = agent::ListImagesRequest { filters };
        Ok(self.calls().list_images(request).await?.into_inner().images)
    }

    /// All about one image; for a platform, else for the daemon's.
    pub async fn inspect(&self, name: &str, platform: &str) -> Result<InspectImageResponse, Error> {
        let request = agent::InspectImageRequest {
            name: name.to_owned(),
            platform: platform.to_owned(),
        };
        Ok(self.calls().inspect_image(request).await?.into_inner())
    }

    /// Pulls; gives the digest. Dropping the future stops it.
    pub async fn pull(
        &self,
        request: agent::PullImageRequest,
        on_progress: impl FnMut(BlobProgress),
    ) -> Result<String, Error> {
        let events = self.calls().pull_image(request).await?.into_inner();
        finish(events, on_progress).await
    }

    /// Pushes; gives the digest. Dropping the future stops it.
    pub async fn push(
        &self,
        name: &str,
        credential: Option<Credential>,
        on_progress: impl FnMut(BlobProgress),
    ) -> Result<String, Error> {
        let request = agent::PushImageRequest {
            name: name.to_owned(),
            credential: credential.map(wire_credential),
        };
        let events = self.calls().push_image(request).await?.into_inner();
        finish(events, on_progress).await
    }

    /// Lets another name point to an image.
    pub async fn tag(&self, source: &str, target: &str) -> Result<(), Error> {
        let request = agent::TagImageRequest {
            source: source.to_owned(),
            target: target.to_owned(),
        };
        self.calls().tag_image(request).await?;
        Ok(())
    }

    /// Removes names.
    pub async fn remove(&self, names: Vec<String>) -> Result<RemoveImagesResponse, Error> {
        let request = agent::RemoveImagesRequest { names };
        Ok(self.calls().remove_images(request).await?.into_inner())
    }

    /// Loads an archive.
    pub async fn load(
        &self,
        mut archive: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<Vec<Image>, Error> {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let feed = async move {
            loop {
                let mut data = bytes::BytesMut::with_capacity(CHUNK);
                let read = archive.read_buf(&mut data).await;
                let read = read.map_err(|source| Error::Io {
                    action: "read",
                    path: "the archive".into(),
                    source,
                })?;
                let chunk = agent::ImageChunk {
                    data: data.freeze(),
                };
                // A daemon that refuses says so itself.
                if read == 0 || sender.send(chunk).await.is_err() {
                    return Ok::<_, Error>(());
                }
            }
        };
        let mut calls = self.calls();
        let call = calls.load_images(ReceiverStream::new(receiver));
        let (loaded, fed) = tokio::join!(call, feed);
        fed?;
        Ok(loaded?.into_inner().images)
    }
}

/// Credentials as the daemon takes them.
pub fn wire_credential(credential: Credential) -> agent::RegistryCredential {
    agent::RegistryCredential {
        token: credential.username.is_empty(),
        username: credential.username,
        secret: credential.secret,
    }
}

async fn finish(
    mut events: tonic::Streaming<agent::TransferProgress>,
    mut on_progress: impl FnMut(BlobProgress),
) -> Result<String, Error> {
    let mut digest = None;
    while let Some(event) = events.next().await {
        match event?.event {
            Some(Event::Blob(blob)) => on_progress(blob),
            Some(Event::Finished(finished)) => digest = Some(finished),
            None => {}
        }
    }
    digest.ok_or(Error::SessionEnded)
}
