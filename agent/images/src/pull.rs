//! From a registry.

use futures::TryStreamExt as _;
use kiln_content::Document;
use kiln_oci::{Descriptor, Digest, Index, Manifest, PlatformMatcher, Reference, media_type};
use kiln_registry::{Client, Credential};
use kiln_store::Lease;

use crate::document::{is_attestation, is_document, parse, subject};
use crate::{
    BlobProgress, BlobState, Error, Given, Images, OnProgress, Result, platform, reference,
};

/// Blobs that are under way at a time.
const PARALLEL: usize = 4;
/// Progress isn't told for fewer bytes.
const STEP: u64 = 256 << 10;

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Platforms; empty: the daemon's.
    pub platforms: Vec<String>,
    /// Every platform there is.
    pub all_platforms: bool,
    /// What the registry may be told.
    pub credential: Option<Credential>,
}

impl Images {
    /// Brings an image here and names it. Gives the digest of its top.
    pub async fn pull(
        &self,
        name: &str,
        options: PullOptions,
        on_progress: OnProgress,
    ) -> Result<Digest> {
        let name = reference(name)?.with_default_tag();
        let mut wanted = Vec::new();
        for text in &options.platforms {
            wanted.push(platform(text)?);
        }
        if wanted.is_empty() {
            wanted.push(self.platform.clone());
        }
        let matchers: Vec<PlatformMatcher> = wanted.iter().map(PlatformMatcher::new).collect();
        let pull = Pull {
            images: self,
            client: Given::client(self, &name, options.credential),
            name: &name,
            lease: self.content.leases().lease(),
            on_progress,
        };
        let top = pull.client.manifest(&name, None).await?;
        pull.keep(&top.descriptor, top.bytes.clone()).await?;
        let mut manifests = vec![top.descriptor.clone()];
        if media_type::is_index(&top.descriptor.media_type) {
            let index: Index = parse(&top.bytes, || name.to_string())?;
            manifests = if options.all_platforms {
                index.manifests
            } else {
                chosen(index, &matchers).ok_or_else(|| Error::NoPlatform {
                    name: name.familiar(),
                    platform: list(&wanted),
                })?
            };
        }
        let mut blobs = Vec::new();
        for descriptor in manifests
            .iter()
            .filter(|entry| is_document(&entry.media_type))
        {
            blobs.extend(pull.manifest(descriptor).await?);
        }
        for blob in &blobs {
            pull.tell(blob, BlobState::Waiting, 0);
        }
        futures::stream::iter(blobs.into_iter().map(Ok))
            .try_for_each_concurrent(PARALLEL, |blob| {
                let pull = &pull;
                async move { pull.blob(&blob).await }
            })
            .await?;
        let mut target = top.descriptor;
        target.platform = None;
        self.table.set(&name, &target).await?;
        Ok(target.digest)
    }
}

fn list(platforms: &[kiln_oci::Platform]) -> String {
    let all: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    all.join(", ")
}

/// The entries for the platforms, with what is stated about them; `None` if one isn't there.
fn chosen(index: Index, matchers: &[PlatformMatcher]) -> Option<Vec<Descriptor>> {
    let mut chosen: Vec<Descriptor> = Vec::new();
    for matcher in matchers {
        let entry = index.select(matcher)?;
        if !chosen.iter().any(|known| known.digest == entry.digest) {
            chosen.push(entry.clone());
        }
    }
    let images: Vec<Digest> = chosen.iter().map(|entry| entry.digest).collect();
    let about = |entry: &Descriptor| subject(entry).is_some_and(|digest| images.contains(&digest));
    let statements = index.manifests.into_iter();
    chosen.extend(statements.filter(|entry| is_attestation(entry) && about(entry)));
    Some(chosen)
}

struct Pull<'a> {
    images: &'a Images,
    client: Client,
    name: &'a Reference,
    lease: Lease,
    on_progress: OnProgress,
}

impl Pull<'_> {
    fn tell(&self, blob: &Descriptor, state: BlobState, current: u64) {
        (self.on_progress)(BlobProgress {
            digest: blob.digest.to_string(),
            state,
            current,
            total: blob.size,
            description: describe(&blob.media_type),
        });
    }

    /// Keeps a document for the store, and for builds that name its digest.
    async fn keep(&self, descriptor: &Descriptor, bytes: bytes::Bytes) -> Result<()> {
        self.lease.hold(descriptor.digest.to_string());
        let document = Document {
            media_type: descriptor.media_type.clone(),
            bytes: bytes.clone(),
        };
        let images = self.images;
        images
            .documents
            .put(&descriptor.digest, &self.name.name(), &document)
            .await?;
        images.content.put(bytes).await?;
        Ok(())
    }

    /// Reads a manifest (or an index within an index); gives its blobs.
    async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<Descriptor>> {
        let content = &self.images.content;
        let bytes = if content.info(&descriptor.digest).is_some() {
            content.read(&descriptor.digest).await?
        } else {
            let found = self
                .client
                .manifest(self.name, Some(descriptor.digest))
                .await?;
            found.bytes
        };
        self.keep(descriptor, bytes.clone()).await?;
        if media_type::is_index(&descriptor.media_type) {
            let index: Index = parse(&bytes, || descriptor.digest.to_string())?;
            let mut blobs = Vec::new();
            for entry in index
                .manifests
                .iter()
                .filter(|entry| media_type::is_manifest(&entry.media_type))
            {
                blobs.extend(Box::pin(self.manifest(entry)).await?);
            }
            return Ok(blobs);
        }
        let manifest: Manifest = parse(&bytes, || descriptor.digest.to_string())?;
        let mut blobs = vec![manifest.config];
        blobs.extend(manifest.layers);
        blobs.retain(|blob| !media_type::is_nondistributable(&blob.media_type));
        Ok(blobs)
    }

    async fn blob(&self, blob: &Descriptor) -> Result<()> {
        let content = &self.images.content;
        self.lease.hold(blob.digest.to_string());
        if content.info(&blob.digest).is_some() {
            self.tell(blob, BlobState::Exists, blob.size);
            return Ok(());
        }
        let mut writer = content.writer(&blob.digest.to_string()).await?;
        // A build may have brought it while we waited for our turn.
        if content.info(&blob.digest).is_some() {
            writer.discard().await;
            self.tell(blob, BlobState::Exists, blob.size);
            return Ok(());
        }
        writer.expect_size(blob.size).await?;
        let mut offset = writer.offset();
        let mut reader = self.client.fetch(self.name, blob, offset).await?;
        let mut told = 0;
        while let Some(chunk) = reader.chunk().await? {
            offset += chunk.len() as u64;
            writer.push(chunk).await?;
            if offset - told >= STEP {
                told = offset;
                self.tell(blob, BlobState::Transferring, offset);
            }
        }
        writer.commit(Some(blob.digest), Some(blob.size)).await?;
        self.tell(blob, BlobState::Done, blob.size);
        Ok(())
    }
}

pub(crate) fn describe(kind: &str) -> &'static str {
    if media_type::is_config(kind) {
        "config"
    } else if is_document(kind) {
        "manifest"
    } else {
        "layer"
    }
}
