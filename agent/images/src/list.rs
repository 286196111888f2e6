//! What images there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kiln_content::NamedImage;
use kiln_oci::{Digest, Timestamp};

use crate::document::{self, Parts};
use crate::{Filters, Images, Result};

/// An image with all its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What the names point to.
    pub digest: Digest,
    /// The config for the daemon's platform.
    pub id: Option<Digest>,
    /// Full names, sorted.
    pub names: Vec<String>,
    /// The platforms that are here.
    pub platforms: Vec<String>,
    /// When it was made, if it says so.
    pub created: Option<Timestamp>,
    /// Bytes of its blobs that are here.
    pub bytes: u64,
    /// Those of them that other images have as well.
    pub shared_bytes: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Images {
    /// The images that pass the filters, newest first.
    pub async fn list(&self, filters: &Filters) -> Result<Vec<Image>> {
        let mut by_target: BTreeMap<Digest, Vec<NamedImage>> = BTreeMap::new();
        for image in self.table.list().await? {
            by_target
                .entry(image.target.digest)
                .or_default()
                .push(image);
        }
        let mut all = Vec::new();
        let mut users: HashMap<Digest, u32> = HashMap::new();
        for named in by_target.into_values() {
            // A top that isn't readable still has names, and must be removable.
            let parts = match document::parts(&self.content, &named[0].target).await {
                Ok(parts) => parts,
                Err(error) => {
                    tracing::warn!(name = %named[0].name, %error, "an image isn't readable");
                    Parts::default()
                }
            };
            for digest in parts.blobs.keys() {
                *users.entry(*digest).or_default() += 1;
            }
            all.push((named, parts));
        }
        let mut images = Vec::new();
        for (named, parts) in all {
            let mut image = self.describe(&named, &parts).await;
            let shared = parts.blobs.values().filter(|blob| {
                users.get(&blob.digest).is_some_and(|count| *count > 1)
                    && !parts.missing.contains(&blob.digest)
            });
            image.shared_bytes = shared.map(|blob| blob.size).sum();
            images.push(image);
        }
        let [before, since] = filters.bounds();
        for (name, is_before) in [(before, true), (since, false)] {
            let Some(name) = name else { continue };
            let digest = self.find(name).await?.target.digest;
            let bound = images.iter().find(|image| image.digest == digest);
            let bound = bound.and_then(|image| image.created);
            images.retain(|image| match is_before {
                true => image.created < bound,
                false => image.created > bound,
            });
        }
        images.retain_mut(|image| filters.matches(image));
        images.sort_by(|one, other| (other.created, &one.names).cmp(&(one.created, &other.names)));
        Ok(images)
    }

    pub(crate) async fn describe(&self, named: &[NamedImage], parts: &Parts) -> Image {
        let mut platforms = BTreeSet::new();
        for part in &parts.images {
            if let Some(platform) = self.platform_of(part).await {
                platforms.insert(platform.normalized().to_string());
            }
        }
        let part = self.select(parts, None).await;
        let config = match part {
            Some(part) => self.config(part).await.ok(),
            None => None,
        };
        Image {
            digest: named[0].target.digest,
            id: part.map(|part| part.manifest.config.digest),
            names: named.iter().map(|image| image.name.clone()).collect(),
            platforms: platforms.into_iter().collect(),
            created: config.as_ref().and_then(|config| config.created),
            bytes: parts.bytes(),
            shared_bytes: 0,
            labels: config
                .map(|config| config.config.labels.into_iter().collect())
                .unwrap_or_default(),
        }
    }
}
