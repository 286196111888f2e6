//! The image that the guest carries, so that a first build needs no network.
//!
//! It is an OCI layout in the initial file system. Its name is set once per version of it: who removes or replaces
//! the image isn't overruled at the next start.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use kiln_content::{ContentStore, ImageTable};
use kiln_oci::{Descriptor, Digest, Manifest, Reference};
use kiln_store::StateRoot;

const LAYOUT: &str = "/usr/share/kiln/base";
/// The digest of the layout's index whose images were loaded.
const LOADED: &str = "base-image";
const NAME: &str = "org.opencontainers.image.ref.name";

/// Brings it into the content store and names it, unless that was done before.
pub(super) async fn load(state: &StateRoot, content: &ContentStore) -> anyhow::Result<()> {
    load_from(Path::new(LAYOUT), state, content).await
}

async fn load_from(layout: &Path, state: &StateRoot, content: &ContentStore) -> anyhow::Result<()> {
    let index = match fs::read(layout.join("index.json")) {
        Ok(index) => index,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("the image that the guest carries"),
    };
    let marker = state.path().join(LOADED);
    let version = Digest::of(&index).to_string();
    if fs::read_to_string(&marker).is_ok_and(|loaded| loaded == version) {
        return Ok(());
    }
    let index: kiln_oci::Index = serde_json::from_slice(&index)?;
    let table = ImageTable::new(state);
    for image in &index.manifests {
        let Some(name) = image.annotations.get(NAME) else {
            continue;
        };
        let manifest = put(layout, content, image).await?;
        let manifest: Manifest = serde_json::from_slice(&manifest)?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            put(layout, content, blob).await?;
        }
        let name: Reference = name.parse()?;
        table
            .set(
                &name,
                &Descriptor::new(image.media_type.clone(), image.digest, image.size),
            )
            .await?;
        tracing::info!(%name, "the image that the guest carries is there");
    }
    fs::write(marker, version)?;
    Ok(())
}

async fn put(layout: &Path, content: &ContentStore, blob: &Descriptor) -> anyhow::Result<Bytes> {
    let path = layout.join("blobs/sha256").join(blob.digest.hex());
    let bytes = Bytes::from(fs::read(&path).with_context(|| path.display().to_string())?);
    anyhow::ensure!(
        Digest::of(&bytes) == blob.digest,
        "{}: the bytes are not those of the digest",
        path.display()
    );
    content.put(bytes.clone()).await?;
    Ok(bytes)
}
