//! From the solver's records to a config, sorted so that the same cache gives the same bytes.

use std::collections::{BTreeMap, HashMap};

use kiln_cache::LayerBlob;
use kiln_oci::{Digest, Timestamp};
use kiln_solver::export::ExportRecord;

use crate::config::{CacheConfig, CacheInput, CacheLayer, CacheRecord, CacheResult};

/// The layers of one result, the lowest first. Two chains are equal if their blobs are.
#[derive(Debug, Clone)]
pub struct Chain(pub Vec<LayerBlob>);

impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        let digests = |chain: &Self| -> Vec<Digest> {
            chain
                .0
                .iter()
                .map(|layer| layer.descriptor.digest)
                .collect()
        };
        digests(self) == digests(other)
    }
}

/// A config with the blobs that its layers name.
#[derive(Debug, Clone, Default)]
pub struct Assembled {
    /// The config.
    pub config: CacheConfig,
    /// Its layers, by digest.
    pub blobs: BTreeMap<Digest, LayerBlob>,
}

/// Takes the newest result of each record.
pub fn assemble(records: &[ExportRecord<Chain>]) -> Assembled {
    let mut assembled = Assembled::default();
    let mut indexes: HashMap<(Digest, i64), usize> = HashMap::new();
    let layers = &mut assembled.config.layers;
    for record in records {
        let newest = record.results.iter().max_by_key(|result| result.created);
        let mut top = None;
        for layer in newest.iter().flat_map(|result| &result.remote.0) {
            let digest = layer.descriptor.digest;
            let parent = top.map_or(-1, |index| index as i64);
            top = Some(*indexes.entry((digest, parent)).or_insert_with(|| {
                layers.push(CacheLayer {
                    blob: digest.to_string(),
                    parent,
                    annotations: None,
                });
                layers.len() - 1
            }));
            assembled
                .blobs
                .entry(digest)
                .or_insert_with(|| layer.clone());
        }
        let results = top.zip(newest).map(|(layer, result)| CacheResult {
            layer,
            created_at: Timestamp::from(result.created),
        });
        let inputs = record.inputs.iter().map(|links| {
            let inputs = links.iter().map(|link| CacheInput {
                selector: link
                    .selector
                    .map(|digest| digest.to_string())
                    .unwrap_or_default(),
                link: link.record,
            });
            inputs.collect()
        });
        assembled.config.records.push(CacheRecord {
            results: results.into_iter().collect(),
            chains: Vec::new(),
            digest: record.digest.to_string(),
            inputs: inputs.collect(),
        });
    }
    sort(&mut assembled.config);
    assembled
}

/// Orders layers by blob and parent, records by digest, inputs, selectors and the digests of what they
/// link to, and links by index, which is BuildKit's order.
pub(crate) fn sort(config: &mut CacheConfig) {
    let layers = sorted_indexes(config.layers.len(), |a, b| {
        let key = |index: usize| (&config.layers[index].blob, config.layers[index].parent);
        key(a).cmp(&key(b))
    });
    let records = sorted_indexes(config.records.len(), |a, b| record_order(config, a, b));
    let new_layer = inverse(&layers);
    let new_record = inverse(&records);
    for layer in &mut config.layers {
        if let Ok(parent) = usize::try_from(layer.parent) {
            layer.parent = new_layer[parent] as i64;
        }
    }
    for record in &mut config.records {
        for result in &mut record.results {
            result.layer = new_layer[result.layer];
        }
        for layer in record.chains.iter_mut().flat_map(|chain| &mut chain.layers) {
            *layer = new_layer[*layer];
        }
        for links in &mut record.inputs {
            for input in &mut *links {
                input.link = new_record[input.link];
            }
            links.sort_by(|a, b| (a.link, &a.selector).cmp(&(b.link, &b.selector)));
        }
    }
    config.layers = layers
        .iter()
        .map(|index| config.layers[*index].clone())
        .collect();
    config.records = records
        .iter()
        .map(|index| config.records[*index].clone())
        .collect();
}

fn record_order(config: &CacheConfig, a: usize, b: usize) -> std::cmp::Ordering {
    let (a, b) = (&config.records[a], &config.records[b]);
    let links = |record: &CacheRecord| -> Vec<(usize, Vec<(String, String)>)> {
        let described = record.inputs.iter().map(|links| {
            let mut links: Vec<_> = links
                .iter()
                .map(|link| {
                    (
                        link.selector.clone(),
                        config.records[link.link].digest.clone(),
                    )
                })
                .collect();
            links.sort();
            (links.len(), links)
        });
        described.collect()
    };
    a.digest
        .cmp(&b.digest)
        .then_with(|| a.inputs.len().cmp(&b.inputs.len()))
        .then_with(|| links(a).cmp(&links(b)))
}

fn sorted_indexes(count: usize, order: impl Fn(usize, usize) -> std::cmp::Ordering) -> Vec<usize> {
    let mut indexes: Vec<usize> = (0..count).collect();
    indexes.sort_by(|a, b| order(*a, *b));
    indexes
}

fn inverse(indexes: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; indexes.len()];
    for (new, old) in indexes.iter().enumerate() {
        inverse[*old] = new;
    }
    inverse
}
