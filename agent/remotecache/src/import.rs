//! From a config to what the solver imports, and its results as lazy references.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use kiln_cache::{BlobProvider, CacheManager, LayerBlob, OpResult, RecordOptions};
use kiln_oci::{Descriptor, Digest, Digester, Timestamp, media_type};
use kiln_solver::import::{ImportLoader, ImportRecord};
use kiln_solver::op::{OpContext, OpError};

use crate::config::CacheConfig;

/// The annotation with the digest of a layer's uncompressed tar.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// The annotation with the time a layer was made.
pub const CREATED_AT: &str = "buildkit/createdat";
/// The annotation with what made a layer.
pub const DESCRIPTION: &str = "buildkit/description";

/// A config made ready for the solver: results are named by ids that [`Loader`] knows.
#[derive(Debug, Default)]
pub struct Plan {
    /// The records, as the config has them.
    pub records: Vec<ImportRecord>,
    /// The layers of each result, the lowest first.
    pub chains: HashMap<String, Vec<Descriptor>>,
}

/// Makes the plan. Results are left out where a layer isn't `available` or its uncompressed digest
/// isn't known: the record is then only a way to further ones.
pub fn plan(config: &CacheConfig, available: &BTreeMap<Digest, Descriptor>) -> Plan {
    let mut plan = Plan::default();
    for record in &config.records {
        let tops = record
            .results
            .iter()
            .map(|result| (config.chain(result.layer), result.created_at));
        let listed = record
            .chains
            .iter()
            .map(|chain| (chain.layers.clone(), chain.created_at));
        let results = tops.chain(listed).filter_map(|(layers, created)| {
            let chain: Option<Vec<Descriptor>> = layers
                .iter()
                .map(|index| {
                    let digest: Digest = config.layers.get(*index)?.blob.parse().ok()?;
                    available
                        .get(&digest)
                        .filter(|layer| diff_id(layer).is_some())
                        .cloned()
                })
                .collect();
            let chain = chain.filter(|chain| !chain.is_empty())?;
            let id = chain_name(&chain);
            plan.chains.entry(id.clone()).or_insert(chain);
            Some((id, created.to_system_time()))
        });
        plan.records.push(ImportRecord {
            digest: record.digest.parse().ok(),
            results: results.collect(),
            inputs: record
                .inputs
                .iter()
                .map(|links| {
                    let links = links.iter().filter_map(|input| {
                        // A selector that is no digest can't be one of ours: the link never matches.
                        let selector = match input.selector.as_str() {
                            "" => None,
                            selector => Some(selector.parse().ok()?),
                        };
                        Some((selector, input.link))
                    });
                    links.collect()
                })
                .collect(),
        });
    }
    plan
}

fn chain_name(chain: &[Descriptor]) -> String {
    let mut digester = Digester::new();
    for layer in chain {
        digester.update(layer.digest.as_bytes());
    }
    digester.finish().hex()
}

fn diff_id(layer: &Descriptor) -> Option<Digest> {
    let annotated = layer.annotations.get(UNCOMPRESSED);
    annotated.and_then(|text| text.parse().ok()).or_else(|| {
        let uncompressed = [media_type::OCI_LAYER, media_type::DOCKER_LAYER];
        uncompressed
            .contains(&layer.media_type.as_str())
            .then_some(layer.digest)
    })
}

/// Makes lazy references of imported results.
pub struct Loader {
    cache: CacheManager,
    chains: HashMap<String, Vec<Descriptor>>,
    providers: BTreeMap<Digest, Arc<dyn BlobProvider>>,
}

impl Loader {
    /// A loader for the results of one plan; `providers` has one for each blob.
    pub fn new(
        cache: CacheManager,
        chains: HashMap<String, Vec<Descriptor>>,
        providers: BTreeMap<Digest, Arc<dyn BlobProvider>>,
    ) -> Self {
        Self {
            cache,
            chains,
            providers,
        }
    }

    fn layer(&self, descriptor: &Descriptor) -> Option<LayerBlob> {
        let annotation = |name: &str| descriptor.annotations.get(name).map(String::as_str);
        let created = annotation(CREATED_AT).and_then(|text| text.parse::<Timestamp>().ok());
        Some(LayerBlob {
            descriptor: descriptor.clone(),
            diff_id: diff_id(descriptor)?,
            provider: Some(Arc::clone(self.providers.get(&descriptor.digest)?)),
            created: created.map(Timestamp::to_system_time),
            description: annotation(DESCRIPTION).unwrap_or_default().to_owned(),
        })
    }
}

/// The cache named a result that it doesn't have.
#[derive(Debug, thiserror::Error)]
#[error("imported cache has no result {0}")]
struct UnknownResult(String);

#[async_trait]
impl ImportLoader<OpResult> for Loader {
    async fn load(&self, result: &str, _cx: OpContext) -> Result<OpResult, OpError> {
        let chain = self.chains.get(result);
        let layers: Option<Vec<LayerBlob>> =
            chain.and_then(|chain| chain.iter().map(|layer| self.layer(layer)).collect());
        let layers = layers.ok_or_else(|| Arc::new(UnknownResult(result.to_owned())) as OpError)?;
        let description = layers
            .last()
            .map(|layer| layer.description.clone())
            .unwrap_or_default();
        let options = RecordOptions {
            created: layers.last().and_then(|layer| layer.created),
            ..RecordOptions::described(if description.is_empty() {
                "imported from a cache".to_owned()
            } else {
                description
            })
        };
        let reference = self.cache.layers_from_blobs(None, layers, options).await;
        reference
            .map(Some)
            .map_err(|error| Arc::new(error) as OpError)
    }

    fn is_part(&self, part: &str, whole: &str) -> bool {
        let digests = |id: &str| -> Option<Vec<Digest>> {
            Some(
                self.chains
                    .get(id)?
                    .iter()
                    .map(|layer| layer.digest)
                    .collect(),
            )
        };
        match (digests(part), digests(whole)) {
            (Some(part), Some(whole)) => whole.starts_with(&part),
            _ => false,
        }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("results", &self.chains.len())
            .finish_non_exhaustive()
    }
}
