//! A state root with everything that sources need.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use kiln_cache::CacheManager;
use kiln_content::codec::Compressor;
use kiln_content::{Compression, CompressionSpec, ContentStore, Documents, ImageTable};
use kiln_oci::{Descriptor, Digest, ImageConfig, Manifest, Platform, Reference, media_type as mt};
use kiln_progress::VertexProgress;
use kiln_proto::pb;
use kiln_registry::{Anonymous, BlobSource, Client, Registry};
use kiln_session::SessionManager;
use kiln_snapshot::Snapshots;
use kiln_source::{GitSources, ImageSources, SourceContext};
use kiln_store::StateRoot;

pub(crate) struct Fixture {
    pub(crate) root: StateRoot,
    pub(crate) content: ContentStore,
    pub(crate) cache: CacheManager,
    pub(crate) images: ImageSources,
    pub(crate) git: GitSources,
}

impl Fixture {
    pub(crate) async fn open(path: &Path) -> Self {
        let root = StateRoot::open(path).unwrap();
        let content = ContentStore::open(&root).unwrap();
        let snapshots = Snapshots::open(root.snapshots_dir()).unwrap();
        let cache = CacheManager::new(&root, content.clone(), snapshots)
            .await
            .unwrap();
        let images = ImageSources::new(
            Registry::new(BTreeMap::new(), None).unwrap(),
            SessionManager::new(),
            content.clone(),
            ImageTable::new(&root),
            Documents::new(&root),
            cache.clone(),
        );
        let git = GitSources::new(cache.clone(), SessionManager::new(), root.tmp_dir());
        cache.set_provider_source(Arc::new(images.clone()));
        Self {
            root,
            content,
            cache,
            images,
            git,
        }
    }
}

pub(crate) fn context() -> SourceContext {
    SourceContext {
        sessions: Vec::new(),
        progress: VertexProgress::silent(),
    }
}

pub(crate) fn op(identifier: impl Into<String>, attrs: &[(&str, &str)]) -> pb::SourceOp {
    pb::SourceOp {
        identifier: identifier.into(),
        attrs: attrs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

pub(crate) fn client() -> Client {
    Registry::new(BTreeMap::new(), None)
        .unwrap()
        .client(Arc::new(Anonymous))
}

/// A tar of files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Pushes an image of these layers; also returns their diff ids.
pub(crate) async fn push_image(
    reference: &Reference,
    platform: &Platform,
    layers: &[Vec<u8>],
    diff_ids: Option<Vec<Digest>>,
) -> (Descriptor, Vec<Digest>) {
    let client = client();
    let diff_ids = diff_ids.unwrap_or_else(|| layers.iter().map(Digest::of).collect());
    let mut config = ImageConfig {
        platform: platform.clone(),
        ..ImageConfig::default()
    };
    config.rootfs.kind.push_str("layers");
    config.rootfs.diff_ids.clone_from(&diff_ids);
    let config = config.to_vec().unwrap();
    let mut manifest = Manifest::new(mt::OCI_MANIFEST, Descriptor::of(mt::OCI_CONFIG, &config));
    let mut blobs = vec![(manifest.config.clone(), config)];
    for (at, layer) in layers.iter().enumerate() {
        let kind = [
            Compression::Gzip,
            Compression::Zstd,
            Compression::Uncompressed,
        ][at % 3];
        let spec = CompressionSpec {
            kind,
            ..CompressionSpec::default()
        };
        let mut writer = Compressor::new(&spec, Vec::new()).unwrap();
        writer.write_all(layer).unwrap();
        let blob = writer.finish().unwrap();
        let descriptor = Descriptor::of(kind.media_type(true), &blob);
        manifest.layers.push(descriptor.clone());
        blobs.push((descriptor, blob));
    }
    for (descriptor, bytes) in blobs {
        client
            .push_blob(
                reference,
                &descriptor,
                &BlobSource::Bytes(bytes.into()),
                &[],
                None,
            )
            .await
            .unwrap();
    }
    let bytes = manifest.to_vec().unwrap();
    let mut pushed = client
        .push_manifest(reference, mt::OCI_MANIFEST, bytes.into())
        .await
        .unwrap();
    pushed.platform = Some(platform.clone());
    (pushed, diff_ids)
}
