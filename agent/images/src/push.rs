//! To a registry: blobs side by side, then manifests, then the name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt as _;
use kiln_oci::{Descriptor, Digest, Reference, media_type};
use kiln_registry::{BlobSource, Client, Credential, Pushed, Sent};

use crate::document::{self, is_document};
use crate::pull::describe;
use crate::{BlobProgress, BlobState, Error, Given, Images, OnProgress, Result, reference};

const PARALLEL: usize = 5;
/// More repositories than this aren't worth asking.
const MOUNT_SOURCES: usize = 3;

impl Images {
    /// Brings a named image to the registry of its name. Gives the digest of its top.
    pub async fn push(
        &self,
        name: &str,
        credential: Option<Credential>,
        on_progress: OnProgress,
    ) -> Result<Digest> {
        let name = reference(name)?.with_default_tag();
        let image = self.find(&name.to_string()).await?;
        let parts = document::parts(&self.content, &image.target).await?;
        let foreign = |digest: &Digest| {
            let kind = parts.blobs.get(digest).map(|blob| blob.media_type.as_str());
            kind.is_some_and(media_type::is_nondistributable)
        };
        if let Some(digest) = parts.missing.iter().find(|digest| !foreign(digest)) {
            return Err(Error::Incomplete {
                name: name.familiar(),
                digest: *digest,
            });
        }
        let client = Given::client(self, &name, credential);
        let blobs: Vec<Descriptor> = parts
            .blobs
            .values()
            .filter(|blob| !is_document(&blob.media_type) && !foreign(&blob.digest))
            .cloned()
            .collect();
        let siblings = self.siblings(&name).await?;
        // How much it will be is known before the first byte goes.
        for blob in &blobs {
            on_progress(progress(blob, BlobState::Waiting, 0));
        }
        futures::stream::iter(blobs.into_iter().map(Ok))
            .try_for_each_concurrent(PARALLEL, |blob| {
                self.push_blob(&client, &name, blob, &siblings, &on_progress)
            })
            .await?;
        let untagged = name.without_tag_and_digest();
        for document in &parts.documents {
            let is_top = document.digest == image.target.digest;
            let target = if is_top { &name } else { &untagged };
            let bytes = self.content.read(&document.digest).await?;
            client
                .push_manifest(target, &document.media_type, bytes)
                .await?;
            on_progress(progress(document, BlobState::Done, document.size));
        }
        Ok(image.target.digest)
    }

    /// Other repositories of the registry that may have some of the blobs.
    async fn siblings(&self, name: &Reference) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        for image in self.table.list().await? {
            if let Ok(other) = image.name.parse::<Reference>()
                && other.domain() == name.domain()
                && other.path() != name.path()
                && !paths.contains(&other.path().to_owned())
            {
                paths.push(other.path().to_owned());
            }
        }
        paths.truncate(MOUNT_SOURCES);
        Ok(paths)
    }

    async fn push_blob(
        &self,
        client: &Client,
        name: &Reference,
        blob: Descriptor,
        siblings: &[String],
        on_progress: &OnProgress,
    ) -> Result<()> {
        let source = BlobSource::File(self.content.path(&blob.digest));
        let sent: Sent = {
            let (blob, on_progress) = (blob.clone(), Arc::clone(on_progress));
            let so_far = AtomicU64::new(0);
            Arc::new(move |bytes| {
                let current = so_far.fetch_add(bytes, Ordering::Relaxed) + bytes;
                on_progress(progress(&blob, BlobState::Transferring, current));
            })
        };
        let pushed = client
            .push_blob(name, &blob, &source, siblings, Some(sent))
            .await?;
        let state = match pushed {
            Pushed::Existed | Pushed::Mounted => BlobState::Exists,
            Pushed::Uploaded => BlobState::Done,
        };
        on_progress(progress(&blob, state, blob.size));
        Ok(())
    }
}

fn progress(blob: &Descriptor, state: BlobState, current: u64) -> BlobProgress {
    BlobProgress {
        digest: blob.digest.to_string(),
        state,
        current,
        total: blob.size,
        description: describe(&blob.media_type),
    }
}
