//! Writes a result's documents into the content store.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use kiln_cache::LayerBlob;
use kiln_content::ContentStore;
use kiln_oci::{
    Descriptor, Digest, ImageConfig, Index, Manifest, Platform, Reference, Timestamp, go_json,
    media_type,
};
use kiln_provenance::image_url;
use kiln_store::Lease;
use parking_lot::Mutex;

use super::config::{Additions, attestation_config, complete, default_config, json};
use super::options::{ImageOptions, Resolved};
use crate::attestation::{Attestation, StatementSubject, statements, unbundle};
use crate::progress::Step;
use crate::{BASE_CONFIG, CONFIG, Error, ExportInput, ResultPlatform};

const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const ATTESTATION_ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";

/// An image that is in the content store, but for layers that are still elsewhere.
pub(super) struct Written {
    /// The manifest or the index.
    pub(super) descriptor: Descriptor,
    /// The config, where there is one image only.
    pub(super) config: Option<Digest>,
    /// Its manifest, where there is one image only.
    pub(super) single: Option<Manifest>,
    /// Everything that was written, what others refer to not always first.
    pub(super) documents: Vec<Descriptor>,
    /// All layers by digest.
    pub(super) layers: BTreeMap<Digest, LayerBlob>,
    /// Keeps the documents from being pruned.
    pub(super) lease: Arc<Lease>,
}

/// Writes images.
pub(super) struct Writer<'a> {
    pub(super) content: &'a ContentStore,
    pub(super) options: &'a ImageOptions,
    pub(super) resolved: &'a Resolved,
    pub(super) input: &'a ExportInput,
    documents: Mutex<Vec<Descriptor>>,
    lease: Arc<Lease>,
}

/// One platform's part.
struct Part {
    platform: ResultPlatform,
    layers: Vec<LayerBlob>,
    epoch: Option<Timestamp>,
    base: Option<ImageConfig>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        content: &'a ContentStore,
        options: &'a ImageOptions,
        resolved: &'a Resolved,
        input: &'a ExportInput,
    ) -> Self {
        Self {
            content,
            options,
            resolved,
            input,
            documents: Mutex::default(),
            lease: Arc::new(content.leases().lease()),
        }
    }

    /// Writes the image: a manifest alone where that says everything, else an index.
    pub(super) async fn write(self) -> Result<Written, Error> {
        let mut attested = HashMap::new();
        for platform in self.input.platforms()? {
            let wanted = self.attestations(&platform.id);
            if !wanted.is_empty() {
                attested.insert(platform.id, wanted);
            }
        }
        let parts = self.parts().await?;
        let caches = match &self.input.inline_cache {
            None => BTreeMap::default(),
            Some(cache) => cache.entries().await.map_err(Error::InlineCache)?,
        };
        let mut layers = BTreeMap::new();
        for part in &parts {
            for layer in &part.layers {
                layers.insert(layer.descriptor.digest, layer.clone());
            }
        }
        if !self.input.is_multi() && attested.is_empty() {
            let [part] = parts.as_slice() else {
                return Err(Error::Conflict(
                    "cannot export multiple platforms without multi-platform enabled".into(),
                ));
            };
            let group = self.resolved.annotations.of(Some(&part.platform.platform));
            if !group.index.is_empty() || !group.index_descriptor.is_empty() {
                return Err(Error::Conflict(
                    "index annotations not supported for single platform export".into(),
                ));
            }
            let cache = caches.get(&part.platform.id).or(caches.get(""));
            let (mut descriptor, manifest) = self.manifest(part, cache).await?;
            descriptor.platform = Some(part.platform.platform.clone());
            return Ok(Written {
                descriptor,
                config: Some(manifest.config.digest),
                single: Some(manifest),
                layers,
                documents: self.documents.into_inner(),
                lease: self.lease,
            });
        }
        if !self.resolved.oci_types && !attested.is_empty() {
            return Err(Error::Conflict(
                "cannot export attestations with \"oci-mediatypes=false\"".into(),
            ));
        }
        let mut manifests = Vec::new();
        let mut about = Vec::new();
        for part in &parts {
            let id = &part.platform.id;
            let cache = caches.get(id).or(caches.get(""));
            let (mut manifest, _) = self.manifest(part, cache).await?;
            manifest.platform = Some(part.platform.platform.clone());
            if let Some(attestations) = attested.remove(id) {
                about.push(self.attest(part, &manifest, attestations).await?);
            }
            manifests.push(manifest);
        }
        manifests.extend(about);
        let descriptor = self.index(manifests).await?;
        Ok(Written {
            descriptor,
            config: None,
            single: None,
            layers,
            documents: self.documents.into_inner(),
            lease: self.lease,
        })
    }

    /// The attestations of a platform that go into the image.
    fn attestations(&self, id: &str) -> Vec<Attestation> {
        let all = self
            .input
            .attestations
            .get(id)
            .map_or(&[][..], Vec::as_slice);
        let multi = self.input.is_multi();
        let keep =
            |one: &&Attestation| multi || self.options.inline_attestations || !one.inline_only();
        // What is left out must not turn a single image into an index.
        all.iter().filter(keep).cloned().collect()
    }

    /// The layers of all platforms, made at the same time.
    async fn parts(&self) -> Result<Vec<Part>, Error> {
        let platforms = self.input.platforms()?;
        let _step = Step::begin(&self.input.progress, "exporting layers");
        let parts = platforms.into_iter().map(|platform| async move {
            let epoch = self.options.epoch(self.input, &platform.id)?;
            let base = match self.input.key(BASE_CONFIG, Some(&platform.id)) {
                None => None,
                Some(json) if json.is_empty() => None,
                Some(text) => {
                    Some(ImageConfig::parse(text).map_err(json("the base image's config"))?)
                }
            };
            let layers = self.layers(&platform.id, epoch, base.as_ref()).await?;
            Ok::<_, Error>(Part {
                platform,
                layers,
                epoch,
                base,
            })
        });
        try_join_all(parts).await
    }

    async fn layers(
        &self,
        id: &str,
        epoch: Option<Timestamp>,
        base: Option<&ImageConfig>,
    ) -> Result<Vec<LayerBlob>, Error> {
        let Some(state) = self.input.find(id)? else {
            return Ok(Vec::new());
        };
        let spec = &self.options.compression;
        let (sessions, progress) = (&self.input.sessions, &self.input.progress);
        let mut layers = match (self.options.rewrite_timestamp, epoch) {
            (true, Some(epoch)) => {
                let seconds = epoch.unix_seconds();
                let _step = Step::begin(
                    progress,
                    format!("rewriting layers with source-date-epoch {seconds} ({epoch})"),
                );
                let keep = base.map_or(&[][..], |base| base.rootfs.diff_ids.as_slice());
                state
                    .rewritten_blobs(spec, seconds, keep, sessions, progress)
                    .await?
            }
            _ => state.blobs(spec, true, sessions, progress).await?,
        };
        for layer in &mut layers {
            let descriptor = &mut layer.descriptor;
            if !self.options.keep_nondistributable
                && media_type::is_nondistributable(&descriptor.media_type)
            {
                let kind = kiln_content::Compression::from_media_type(&descriptor.media_type)
                    .map_err(|error| Error::Conflict(error.to_string()))?;
                let plain = kind.media_type(self.resolved.oci_types);
                plain.clone_into(&mut descriptor.media_type);
                descriptor.urls.clear();
            }
            let converted = media_type::convert(&descriptor.media_type, self.resolved.oci_types);
            descriptor.media_type = converted.to_owned();
            if self.resolved.oci_types {
                descriptor.annotations.retain(|key, _| !is_internal(key));
            } else {
                descriptor.annotations.clear();
            }
        }
        Ok(layers)
    }

    async fn put(&self, media_type: &str, bytes: Vec<u8>) -> Result<Descriptor, Error> {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.lease.hold(descriptor.digest.to_string());
        self.content.put(Bytes::from(bytes)).await?;
        let mut documents = self.documents.lock();
        if documents
            .iter()
            .all(|known| known.digest != descriptor.digest)
        {
            documents.push(descriptor.clone());
        }
        Ok(descriptor)
    }

    fn media_types(&self) -> (&'static str, &'static str, &'static str) {
        if self.resolved.oci_types {
            (
                media_type::OCI_MANIFEST,
                media_type::OCI_CONFIG,
                media_type::OCI_INDEX,
            )
        } else {
            (
                media_type::DOCKER_MANIFEST,
                media_type::DOCKER_CONFIG,
                media_type::DOCKER_MANIFEST_LIST,
            )
        }
    }

    /// Writes config and manifest of one platform.
    async fn manifest(
        &self,
        part: &Part,
        cache: Option<&Bytes>,
    ) -> Result<(Descriptor, Manifest), Error> {
        let given = self.input.key(CONFIG, Some(&part.platform.id));
        let config = match given {
            Some(config) if !config.is_empty() => config.to_vec(),
            _ => default_config()?,
        };
        let config = complete(
            &config,
            &Additions {
                layers: &part.layers,
                epoch: part.epoch,
                base: part.base.as_ref(),
                inline_cache: cache,
            },
        )?;
        let (manifest_type, config_type, _) = self.media_types();
        let group = self.resolved.annotations.of(Some(&part.platform.platform));
        let mut manifest = Manifest::new(manifest_type, Descriptor::of(config_type, &config));
        manifest.annotations = group.manifest;
        manifest.layers = part
            .layers
            .iter()
            .map(|layer| layer.descriptor.clone())
            .collect();
        let bytes = manifest.to_vec().map_err(json("the manifest"))?;
        let digest = Digest::of(&bytes);
        let progress = &self.input.progress;
        let mut descriptor = {
            let _step = Step::begin(progress, format!("exporting manifest {digest}"));
            self.put(manifest_type, bytes).await?
        };
        let config_digest = manifest.config.digest;
        {
            let _step = Step::begin(progress, format!("exporting config {config_digest}"));
            self.put(config_type, config).await?;
        }
        descriptor.annotations = group.manifest_descriptor;
        Ok((descriptor, manifest))
    }

    /// Writes the statements about one platform's image and the manifest that lists them.
    async fn attest(
        &self,
        part: &Part,
        target: &Descriptor,
        attestations: Vec<Attestation>,
    ) -> Result<Descriptor, Error> {
        let input = self.input;
        let attestations = unbundle(attestations, &input.sessions, &input.progress).await?;
        let subjects = self.subjects(&part.platform.platform, &target.digest)?;
        let mut layers = Vec::new();
        for statement in statements(&attestations, &subjects)? {
            let bytes = go_json::to_vec(&statement).map_err(json("an attestation"))?;
            let layer = self.put(media_type::IN_TOTO, bytes).await?;
            let kind = statement.predicate_type;
            layers.push(layer.annotated("in-toto.io/predicate-type", kind));
        }
        let (manifest_type, config_type, _) = self.media_types();
        let artifact = self.resolved.oci_artifact;
        let (config, config_bytes) = if artifact {
            let mut config = Descriptor::of(media_type::OCI_EMPTY, b"{}");
            config.data = Some("e30=".to_owned());
            (config, b"{}".to_vec())
        } else {
            let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
            let bytes = attestation_config(&digests)?;
            (Descriptor::of(config_type, &bytes), bytes)
        };
        let mut manifest = Manifest::new(manifest_type, config);
        manifest.layers = layers;
        if !self.resolved.oci_types {
            for layer in &mut manifest.layers {
                layer.annotations.clear();
            }
        }
        if artifact {
            ATTESTATION_ARTIFACT.clone_into(&mut manifest.artifact_type);
            let subject = Descriptor::new(target.media_type.clone(), target.digest, target.size);
            manifest.subject = Some(Box::new(subject));
        }
        let bytes = manifest
            .to_vec()
            .map_err(json("the attestation manifest"))?;
        let digest = Digest::of(&bytes);
        let _step = Step::begin(
            &input.progress,
            format!("exporting attestation manifest {digest}"),
        );
        let mut descriptor = self.put(manifest_type, bytes).await?;
        self.put(&manifest.config.media_type, config_bytes).await?;
        descriptor.platform = Some(Platform::new("unknown", "unknown", ""));
        Ok(descriptor
            .annotated(REFERENCE_TYPE, "attestation-manifest")
            .annotated(REFERENCE_DIGEST, target.digest.to_string()))
    }

    /// What statements are about: the image under each of its names.
    fn subjects(
        &self,
        platform: &Platform,
        digest: &Digest,
    ) -> Result<Vec<StatementSubject>, Error> {
        let names = self
            .resolved
            .name
            .split(',')
            .filter(|name| !name.is_empty());
        names
            .map(|name| {
                let reference: Reference = name.parse().map_err(|source| Error::Name {
                    name: name.to_owned(),
                    source,
                })?;
                Ok(StatementSubject::new(
                    image_url(&reference, Some(platform)),
                    digest,
                ))
            })
            .collect()
    }

    async fn index(&self, manifests: Vec<Descriptor>) -> Result<Descriptor, Error> {
        let (_, _, index_type) = self.media_types();
        let group = self.resolved.annotations.of(None);
        let mut index = Index::new(index_type, manifests);
        index.annotations = group.index;
        let bytes = index.to_vec().map_err(json("the index"))?;
        let digest = Digest::of(&bytes);
        let _step = Step::begin(
            &self.input.progress,
            format!("exporting manifest list {digest}"),
        );
        let mut descriptor = self.put(index_type, bytes).await?;
        descriptor.annotations = group.index_descriptor;
        Ok(descriptor)
    }
}

/// Annotations of layers that are for the engine, not for images.
fn is_internal(key: &str) -> bool {
    matches!(key, "containerd.io/uncompressed" | "buildkit/createdat")
        || key.starts_with("containerd.io/distribution.source.")
}
