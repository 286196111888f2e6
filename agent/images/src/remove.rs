//! Names that go, and what nothing names any more.

use std::collections::{HashMap, HashSet};

use kiln_content::NamedImage;
use kiln_oci::{Digest, Reference};

use crate::document::{self, Parts};
use crate::{Filters, Images, Result};

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub names: Vec<RemovedName>,
    /// Names that couldn't be removed.
    pub failures: Vec<RemoveFailure>,
    /// Bytes that no image names any more; the next collection frees those that no build needs.
    pub freed_bytes: u64,
}

/// A name that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedName {
    /// The full name.
    pub name: String,
    /// The image, where this was its last name.
    pub deleted: Option<Digest>,
}

/// A name that is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveFailure {
    /// As it was given.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl Images {
    /// Removes names. An id stands for all names of its image.
    pub async fn remove(&self, names: &[String]) -> Result<Removed> {
        let mut doomed = Vec::new();
        let mut removed = Removed::default();
        for name in names {
            match self.find(name).await {
                Ok(image) => {
                    let by_name = name
                        .parse::<Reference>()
                        .is_ok_and(|name| name.canonical().to_string() == image.name);
                    let all = self.table.list().await?;
                    doomed.extend(all.into_iter().filter(|other| match by_name {
                        true => other.name == image.name,
                        false => other.target.digest == image.target.digest,
                    }));
                }
                Err(error) => removed.failures.push(RemoveFailure {
                    name: name.clone(),
                    reason: error.to_string(),
                }),
            }
        }
        self.remove_names(doomed, &mut removed).await?;
        Ok(removed)
    }

    /// Removes images that have no name but a digest; with `all`, all that pass the filters.
    pub async fn prune(&self, all: bool, filters: &Filters) -> Result<Removed> {
        let mut removed = Removed::default();
        let mut wanted = HashSet::new();
        for image in self.list(filters).await? {
            if all || image.names.iter().all(|name| name.contains('@')) {
                wanted.extend(image.names);
            }
        }
        let names = self.table.list().await?;
        let doomed = names
            .into_iter()
            .filter(|image| wanted.contains(&image.name));
        self.remove_names(doomed.collect(), &mut removed).await?;
        Ok(removed)
    }

    async fn remove_names(&self, doomed: Vec<NamedImage>, removed: &mut Removed) -> Result<()> {
        let mut gone: HashMap<Digest, Parts> = HashMap::new();
        for image in doomed {
            let Ok(name) = image.name.parse::<Reference>() else {
                continue;
            };
            let digest = image.target.digest;
            if let std::collections::hash_map::Entry::Vacant(entry) = gone.entry(digest) {
                let parts = document::parts(&self.content, &image.target).await;
                entry.insert(parts.unwrap_or_default());
            }
            if !self.table.remove(&name).await? {
                continue;
            }
            let left = self.table.list().await?;
            let is_last = !left.iter().any(|other| other.target.digest == digest);
            removed.names.push(RemovedName {
                name: image.name,
                deleted: is_last.then_some(digest),
            });
        }
        let mut kept = HashSet::new();
        for image in self.table.list().await? {
            if let Ok(parts) = document::parts(&self.content, &image.target).await {
                kept.extend(parts.blobs.into_keys());
            }
        }
        let freed: HashMap<Digest, u64> = gone
            .into_values()
            .flat_map(|parts| {
                let missing = parts.missing;
                parts
                    .blobs
                    .into_values()
                    .filter(move |blob| !missing.contains(&blob.digest))
            })
            .filter(|blob| !kept.contains(&blob.digest))
            .map(|blob| (blob.digest, blob.size))
            .collect();
        removed.freed_bytes = freed.values().sum();
        Ok(())
    }
}
