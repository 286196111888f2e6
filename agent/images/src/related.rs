//! Which images are built upon each other.
//!
//! ```text
//!  base   ─ a ─ b               all of it is the beginning of the other: the other is built on it
//!  image  ─ a ─ b ─ c ─ d
//!  other  ─ a ─ b ─ x           a beginning in common: both are built on something else
//! ```
//! Layers are compared by the digests of their tars: two registries may have them compressed differently.

use std::collections::BTreeMap;

use kiln_content::NamedImage;
use kiln_oci::Digest;

use crate::Images;
use crate::document::{self, Part};

/// An image with the same first layers as another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// What the names point to.
    pub digest: Digest,
    /// Full names, sorted.
    pub names: Vec<String>,
    /// Its layers.
    pub layers: usize,
    /// How many of them, from the first, are the other's first ones.
    pub shared_layers: usize,
}

impl Images {
    /// Those of `others` that begin as `part` does, whose layers are `diff_ids`. One that isn't readable is of none.
    pub(crate) async fn related(
        &self,
        part: &Part,
        diff_ids: &[Digest],
        others: Vec<NamedImage>,
    ) -> Vec<Related> {
        let mut by_target: BTreeMap<Digest, Vec<NamedImage>> = BTreeMap::new();
        for image in others {
            let target = image.target.digest;
            by_target.entry(target).or_default().push(image);
        }
        let platform = self.platform_of(part).await;
        let mut related = Vec::new();
        for (digest, named) in by_target {
            let Ok(parts) = document::parts(&self.content, &named[0].target).await else {
                continue;
            };
            let Some(part) = self.select(&parts, platform.as_ref()).await else {
                continue;
            };
            let Ok(config) = self.config(part).await else {
                continue;
            };
            let shared_layers = common(diff_ids, &config.rootfs.diff_ids);
            if shared_layers > 0 {
                related.push(Related {
                    digest,
                    names: named.into_iter().map(|image| image.name).collect(),
                    layers: config.rootfs.diff_ids.len(),
                    shared_layers,
                });
            }
        }
        related.sort_by(|one, other| {
            (other.shared_layers, &one.names).cmp(&(one.shared_layers, &other.names))
        });
        related
    }
}

/// How many of the first are the same.
fn common(ours: &[Digest], theirs: &[Digest]) -> usize {
    ours.iter()
        .zip(theirs)
        .take_while(|(our, their)| our == their)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_first_layers_count() {
        let layers =
            |text: &str| -> Vec<Digest> { text.split_whitespace().map(Digest::of).collect() };
        for (ours, theirs, shared) in [
            ("a b c", "a b c d", 3),
            ("a b c", "a b", 2),
            ("a b c", "a x c", 1),
            ("a b", "b", 0),
            ("", "a", 0),
        ] {
            assert_eq!(
                common(&layers(ours), &layers(theirs)),
                shared,
                "{ours} | {theirs}"
            );
        }
    }
}
