//! Where caches are kept: a repository of a registry, or a directory of the client's.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use kiln_cache::{BlobProvider, FetchError, ProviderSource};
use kiln_content::ContentStore;
use kiln_ids::SessionId;
use kiln_oci::{Descriptor, Digest, Reference, media_type};
use kiln_progress::VertexProgress;
use kiln_registry::{BlobSource, Client};
use kiln_session::{ContentProxy, SessionManager};
use tokio_util::io::ReaderStream;

/// A manifest or a config may not be larger.
const MAX_METADATA: u64 = 64 << 20;

/// Why a place can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The registry said no, or can't be reached.
    #[error(transparent)]
    Registry(#[from] kiln_registry::Error),
    /// The client said no, or is gone.
    #[error(transparent)]
    Session(#[from] kiln_session::Error),
    /// The daemon's own content store failed.
    #[error(transparent)]
    Content(#[from] kiln_content::Error),
    /// The layer couldn't be fetched for the export.
    #[error("fetch layer {digest}")]
    Fetch {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// The blob isn't there.
    #[error("{digest} is not in {place}")]
    Missing {
        /// The blob.
        digest: Digest,
        /// Which place.
        place: String,
    },
    /// Other bytes than were asked for.
    #[error("{place} has {actual} where {expected} should be")]
    WrongDigest {
        /// Which place.
        place: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Metadata of an impossible size.
    #[error("{digest} has {size} bytes: no manifest or cache config is that large")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size.
        size: u64,
    },
}

/// Holds one cache.
#[async_trait]
pub trait Place: Send + Sync {
    /// For people: `registry.example.com/app:cache`, or the directory.
    fn name(&self) -> String;
    /// The manifest that stands for the cache.
    async fn manifest(&self) -> Result<Bytes, PlaceError>;
    /// A manifest or a config, whole and verified.
    async fn read(&self, descriptor: &Descriptor) -> Result<Bytes, PlaceError>;
    /// Fetches a layer when it is needed; nothing is asked of the place before.
    fn provider(&self, descriptor: &Descriptor) -> Option<Arc<dyn BlobProvider>>;
    /// Whether the layer is here already.
    async fn has(&self, descriptor: &Descriptor) -> Result<bool, PlaceError>;
    /// Brings a blob of the daemon's content store here.
    async fn write_blob(&self, descriptor: &Descriptor) -> Result<(), PlaceError>;
    /// Brings bytes here.
    async fn write(&self, descriptor: &Descriptor, bytes: Bytes) -> Result<(), PlaceError>;
    /// Writes the manifest, under the cache's name where there is one.
    async fn write_manifest(
        &self,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Descriptor, PlaceError>;
}

/// A repository of a registry.
pub struct RegistryPlace {
    /// Speaks with the registry, with the credentials of the build's sessions.
    pub client: Client,
    /// Names the manifest.
    pub reference: Reference,
    /// Makes providers that outlive the build.
    pub providers: Arc<dyn ProviderSource>,
    /// The daemon's blobs.
    pub content: ContentStore,
}

impl fmt::Debug for RegistryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryPlace")
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Place for RegistryPlace {
    fn name(&self) -> String {
        self.reference.familiar()
    }

    async fn manifest(&self) -> Result<Bytes, PlaceError> {
        Ok(self.client.manifest(&self.reference, None).await?.bytes)
    }

    async fn read(&self, descriptor: &Descriptor) -> Result<Bytes, PlaceError> {
        let repository = self.reference.without_tag_and_digest();
        if media_type::is_manifest(&descriptor.media_type)
            || media_type::is_index(&descriptor.media_type)
        {
            return Ok(self
                .client
                .manifest(&repository, Some(descriptor.digest))
                .await?
                .bytes);
        }
        check_size(descriptor)?;
        let mut reader = self.client.fetch(&repository, descriptor, 0).await?;
        let mut bytes = Vec::with_capacity(usize::try_from(descriptor.size).unwrap_or(0));
        while let Some(chunk) = reader.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > descriptor.size {
                break;
            }
        }
        verified(bytes.into(), descriptor.digest, self)
    }

    fn provider(&self, descriptor: &Descriptor) -> Option<Arc<dyn BlobProvider>> {
        let name = self.reference.without_tag_and_digest().name();
        self.providers.provider(descriptor, &[name])
    }

    async fn has(&self, descriptor: &Descriptor) -> Result<bool, PlaceError> {
        Ok(self.client.has_blob(&self.reference, descriptor).await?)
    }

    async fn write_blob(&self, descriptor: &Descriptor) -> Result<(), PlaceError> {
        let source = BlobSource::File(self.content.path(&descriptor.digest));
        self.client
            .push_blob(&self.reference, descriptor, &source, &[], None)
            .await?;
        Ok(())
    }

    async fn write(&self, descriptor: &Descriptor, bytes: Bytes) -> Result<(), PlaceError> {
        let source = BlobSource::Bytes(bytes);
        self.client
            .push_blob(&self.reference, descriptor, &source, &[], None)
            .await?;
        Ok(())
    }

    async fn write_manifest(
        &self,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Descriptor, PlaceError> {
        Ok(self
            .client
            .push_manifest(&self.reference, media_type, bytes)
            .await?)
    }
}

/// An OCI layout in a directory of the client's, which its session serves.
#[derive(Clone)]
pub struct ClientPlace {
    sessions: SessionManager,
    session: SessionId,
    directory: String,
    /// The manifest to import; the client reads it from the layout's index.
    manifest: Option<Digest>,
    content: ContentStore,
}

impl fmt::Debug for ClientPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientPlace")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl ClientPlace {
    /// `directory` as the client named it. `manifest` is what an import asks for.
    pub fn new(
        sessions: SessionManager,
        session: SessionId,
        directory: impl Into<String>,
        manifest: Option<Digest>,
        content: ContentStore,
    ) -> Self {
        Self {
            sessions,
            session,
            directory: directory.into(),
            manifest,
            content,
        }
    }

    async fn store(&self, session: &SessionId) -> Result<ContentProxy, kiln_session::Error> {
        let caller = self.sessions.get(session).await?;
        Ok(caller.content(&format!("local:{}", self.directory)))
    }

    fn missing(&self, digest: Digest) -> PlaceError {
        PlaceError::Missing {
            digest,
            place: self.name(),
        }
    }

    async fn fetch_from(
        &self,
        session: &SessionId,
        descriptor: &Descriptor,
    ) -> Result<(), PlaceError> {
        let store = self.store(session).await?;
        let digest = descriptor.digest.to_string();
        if store.size(&digest).await?.is_none() {
            return Err(self.missing(descriptor.digest));
        }
        let mut writer = self.content.writer(&digest).await?;
        let mut pieces = store.read(&digest, writer.offset(), 0).await?;
        while let Some(piece) = pieces.next().await {
            writer
                .push(piece.map_err(|status| broken(&status))?)
                .await?;
        }
        writer
            .commit(Some(descriptor.digest), Some(descriptor.size))
            .await?;
        Ok(())
    }
}

fn broken(status: &tonic::Status) -> kiln_session::Error {
    kiln_session::Error::Call {
        method: "/containerd.services.content.v1.Content/Read",
        status: Box::new(status.clone()),
    }
}

#[async_trait]
impl Place for ClientPlace {
    fn name(&self) -> String {
        self.directory.clone()
    }

    async fn manifest(&self) -> Result<Bytes, PlaceError> {
        let digest = self.manifest.ok_or_else(|| self.missing(Digest::of([])))?;
        let size = self
            .store(&self.session)
            .await?
            .size(&digest.to_string())
            .await?;
        let size = size.ok_or_else(|| self.missing(digest))?;
        self.read(&Descriptor::new(String::new(), digest, size))
            .await
    }

    async fn read(&self, descriptor: &Descriptor) -> Result<Bytes, PlaceError> {
        check_size(descriptor)?;
        let store = self.store(&self.session).await?;
        let pieces = store
            .read(&descriptor.digest.to_string(), 0, descriptor.size)
            .await?;
        let pieces: Vec<Bytes> = pieces
            .try_collect()
            .await
            .map_err(|status| broken(&status))?;
        verified(pieces.concat().into(), descriptor.digest, self)
    }

    fn provider(&self, _: &Descriptor) -> Option<Arc<dyn BlobProvider>> {
        Some(Arc::new(self.clone()))
    }

    async fn has(&self, descriptor: &Descriptor) -> Result<bool, PlaceError> {
        let store = self.store(&self.session).await?;
        Ok(store.size(&descriptor.digest.to_string()).await?.is_some())
    }

    async fn write_blob(&self, descriptor: &Descriptor) -> Result<(), PlaceError> {
        let store = self.store(&self.session).await?;
        let file = self.content.open_blob(&descriptor.digest)?;
        let data = ReaderStream::with_capacity(tokio::fs::File::from_std(file), 256 << 10);
        Ok(store
            .write(&descriptor.digest.to_string(), descriptor.size, data)
            .await?)
    }

    async fn write(&self, descriptor: &Descriptor, bytes: Bytes) -> Result<(), PlaceError> {
        let store = self.store(&self.session).await?;
        let data = futures::stream::iter([Ok(bytes)]);
        Ok(store
            .write(&descriptor.digest.to_string(), descriptor.size, data)
            .await?)
    }

    async fn write_manifest(
        &self,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Descriptor, PlaceError> {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.write(&descriptor, bytes).await?;
        Ok(descriptor)
    }
}

/// Layers come from whichever of the waiting builds' clients has the directory.
#[async_trait]
impl BlobProvider for ClientPlace {
    async fn fetch(
        &self,
        descriptor: &Descriptor,
        sessions: &[SessionId],
        _: &VertexProgress,
    ) -> Result<(), FetchError> {
        // The client that offered the layer surely has it; others only may.
        let mut all: Vec<SessionId> = sessions.to_vec();
        if !self.is_gone() {
            all.retain(|session| *session != self.session);
            all.insert(0, self.session.clone());
        }
        let fetched = self
            .sessions
            .any(&all, |caller| {
                let session = caller.id().clone();
                async move { self.fetch_from(&session, descriptor).await }
            })
            .await;
        fetched.map_err(|error: PlaceError| Arc::new(error) as FetchError)
    }

    fn is_gone(&self) -> bool {
        self.sessions.attached(&self.session).is_none()
    }
}

fn check_size(descriptor: &Descriptor) -> Result<(), PlaceError> {
    if descriptor.size > MAX_METADATA {
        return Err(PlaceError::TooLarge {
            digest: descriptor.digest,
            size: descriptor.size,
        });
    }
    Ok(())
}

fn verified(bytes: Bytes, expected: Digest, place: &dyn Place) -> Result<Bytes, PlaceError> {
    let actual = Digest::of(&bytes);
    if actual == expected {
        return Ok(bytes);
    }
    Err(PlaceError::WrongDigest {
        place: place.name(),
        expected,
        actual,
    })
}
