//! The `image` output: a name in the local store, a push, or both.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use futures::FutureExt as _;
use kiln_oci::{Reference, go_json};

use super::config::json;
use super::options::ImageOptions;
use super::push::{Push, fetch_missing};
use super::writer::{Writer, Written};
use crate::attrs::{Attributes, boolean};
use crate::progress::Step;
use crate::{Error, ExportInput, ExportOutput, Exporter, Services};

/// Names and pushes images.
pub(crate) struct ImageExporter {
    services: Services,
    options: ImageOptions,
    push: bool,
    push_by_digest: bool,
    insecure: bool,
    /// Whether the local store gets the names; by default where nothing is pushed, since a store
    /// must have all layers and a push needs none that the registry has.
    store: Option<bool>,
    name_canonical: bool,
    dangling_prefix: String,
    dangling_only_unnamed: bool,
}

impl ImageExporter {
    pub(crate) fn new(services: Services, mut attributes: Attributes) -> Result<Self, Error> {
        let options = ImageOptions::take(&mut attributes, true)?;
        let mut flag = |key: &str| match attributes.remove(key) {
            None => Ok(None),
            Some(value) => boolean(key, &value, true).map(Some),
        };
        let push = flag("push")?.unwrap_or(false);
        let push_by_digest = flag("push-by-digest")?.unwrap_or(false);
        let insecure = flag("registry.insecure")?.unwrap_or(false);
        let store = flag("store")?;
        let name_canonical = flag("name-canonical")?.unwrap_or(false);
        let dangling_only_unnamed = flag("danging-name-empty-only")?.unwrap_or(false);
        let unpack = flag("unpack")?.unwrap_or(false);
        if unpack && options.rewrite_timestamp {
            return Err(Error::Conflict(
                "exporter option \"rewrite-timestamp\" conflicts with \"unpack\"".into(),
            ));
        }
        Ok(Self {
            services,
            options,
            push,
            push_by_digest,
            insecure,
            // Unpacked layers are what the store's own snapshots are made of.
            store: store.or(unpack.then_some(true)),
            name_canonical,
            dangling_prefix: attributes
                .remove("dangling-name-prefix")
                .unwrap_or_default(),
            dangling_only_unnamed,
        })
    }

    /// Gives the image its names in the local store, which needs all of its layers.
    async fn name(
        &self,
        input: &ExportInput,
        written: &Written,
        names: &[&str],
        canonical: bool,
    ) -> Result<(), Error> {
        fetch_missing(&self.services.content, written, input).await?;
        let mut target = written.descriptor.clone();
        target.platform = None;
        for name in names {
            let _step = Step::begin(&input.progress, format!("naming to {name}"));
            let reference = parse(name)?;
            self.services.images.set(&reference, &target).await?;
            if canonical && !name.contains('@') {
                let canonical = reference
                    .without_tag_and_digest()
                    .with_digest(target.digest);
                self.services.images.set(&canonical, &target).await?;
            }
        }
        Ok(())
    }
}

pub(super) fn parse(name: &str) -> Result<Reference, Error> {
    let reference: Reference = name.parse().map_err(|source| Error::Name {
        name: name.to_owned(),
        source,
    })?;
    Ok(reference.with_default_tag())
}

/// What every image output answers.
pub(super) fn respond(written: &Written) -> Result<ExportOutput, Error> {
    let mut output = ExportOutput {
        descriptor: Some(written.descriptor.clone()),
        keep: Some(written.lease.clone()),
        ..ExportOutput::default()
    };
    let digest = written.descriptor.digest.to_string();
    output
        .response
        .insert("containerimage.digest".into(), digest);
    if let Some(config) = written.config {
        let key = "containerimage.config.digest";
        output.response.insert(key.into(), config.to_string());
    }
    let descriptor = go_json::to_vec(&written.descriptor).map_err(json("the descriptor"))?;
    output.response.insert(
        "containerimage.descriptor".into(),
        base64::engine::general_purpose::STANDARD.encode(descriptor),
    );
    Ok(output)
}

#[async_trait]
impl Exporter for ImageExporter {
    fn name(&self) -> String {
        "exporting to image".to_owned()
    }

    async fn export(&self, input: ExportInput) -> Result<ExportOutput, Error> {
        let resolved = self.options.resolve(&input, false)?;
        let content = &self.services.content;
        let written = Writer::new(content, &self.options, &resolved, &input)
            .write()
            .await?;
        let mut output = respond(&written)?;
        let mut name = resolved.name.clone();
        let mut canonical = self.name_canonical;
        let unnamed = name.is_empty();
        if !self.dangling_prefix.is_empty() && (unnamed || !self.dangling_only_unnamed) {
            let dangling = format!("{}@{}", self.dangling_prefix, written.descriptor.digest);
            if unnamed {
                name = dangling;
                canonical = false;
            } else {
                name = format!("{name},{dangling}");
            }
        }
        let names: Vec<&str> = name.split(',').filter(|name| !name.is_empty()).collect();
        if !names.is_empty() {
            if self.store.unwrap_or(!self.push) {
                self.name(&input, &written, &names, canonical).await?;
            }
            output.response.insert("image.name".into(), name.clone());
        }
        if self.push && !names.is_empty() {
            let mut references = Vec::new();
            for name in &names {
                references.push(if self.push_by_digest {
                    by_digest(name)?
                } else {
                    parse(name)?
                });
            }
            let push = Push {
                client: self.services.registry_client(
                    &input.sessions,
                    self.insecure,
                    &references,
                )?,
                content: content.clone(),
                written: Arc::new(written),
                input,
            };
            output.finalize = Some(
                async move {
                    for reference in &references {
                        push.run(reference).await?;
                    }
                    Ok(())
                }
                .boxed(),
            );
        }
        Ok(output)
    }
}

/// A name to be pushed without a tag.
fn by_digest(name: &str) -> Result<Reference, Error> {
    let reference: Reference = name.parse().map_err(|source| Error::Name {
        name: name.to_owned(),
        source,
    })?;
    if reference.tag().is_some() {
        return Err(Error::Conflict(format!(
            "can't push tagged ref {name} by digest"
        )));
    }
    Ok(reference)
}
