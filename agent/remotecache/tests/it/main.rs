//! Configs that a real `buildkitd` exported, taken apart and put together again.
//!
//! `tests/golden/` has the cache part of the golden vectors: what `mode=max` local exports held, without
//! times.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::SystemTime;

use kiln_cache::LayerBlob;
use kiln_oci::{Descriptor, Digest, media_type};
use kiln_remotecache::{CacheConfig, Chain, UNCOMPRESSED, assemble, inline, plan};
use kiln_solver::export::{ExportLink, ExportRecord, ExportedResult};

const GOLDEN: [(&str, &str); 5] = [
    (
        "copy-from-stage",
        include_str!("../golden/copy-from-stage.json"),
    ),
    (
        "multi-stage-diamond",
        include_str!("../golden/multi-stage-diamond.json"),
    ),
    (
        "run-mount-many",
        include_str!("../golden/run-mount-many.json"),
    ),
    (
        "scratch-copy-link",
        include_str!("../golden/scratch-copy-link.json"),
    ),
    (
        "busybox-copy-chown-name",
        include_str!("../golden/busybox-copy-chown-name.json"),
    ),
];

fn golden(json: &str) -> CacheConfig {
    CacheConfig::parse(json.as_bytes()).unwrap()
}

/// The descriptor of a layer as a cache manifest has it; its diff id is made up from its digest.
fn layer(digest: Digest) -> Descriptor {
    Descriptor::new(media_type::OCI_LAYER_GZIP, digest, 1)
        .annotated(UNCOMPRESSED, Digest::of(digest.as_bytes()).to_string())
}

fn blob(digest: Digest) -> LayerBlob {
    LayerBlob::local(layer(digest), Digest::of(digest.as_bytes()))
}

fn available(config: &CacheConfig) -> BTreeMap<Digest, Descriptor> {
    config
        .layers
        .iter()
        .map(|entry| entry.blob.parse().unwrap())
        .map(|d| (d, layer(d)))
        .collect()
}

/// The records as a solver would hand them over: inputs before those that name them.
fn export_records(config: &CacheConfig) -> Vec<ExportRecord<Chain>> {
    let plan = plan(config, &available(config));
    let mut order: Vec<usize> = Vec::new();
    let mut place = vec![None; plan.records.len()];
    while order.len() < plan.records.len() {
        for (index, record) in plan.records.iter().enumerate().rev() {
            let ready = record
                .inputs
                .iter()
                .flatten()
                .all(|(_, link)| place[*link].is_some());
            if place[index].is_none() && ready {
                place[index] = Some(order.len());
                order.push(index);
            }
        }
    }
    let records = order.iter().map(|index| {
        let record = &plan.records[*index];
        ExportRecord {
            digest: record.digest.unwrap(),
            inputs: record
                .inputs
                .iter()
                .map(|links| {
                    let links = links.iter().map(|(selector, link)| ExportLink {
                        selector: *selector,
                        record: place[*link].unwrap(),
                    });
                    links.collect()
                })
                .collect(),
            results: record
                .results
                .iter()
                .map(|(id, created)| ExportedResult {
                    created: *created,
                    remote: Chain(
                        plan.chains[id]
                            .iter()
                            .map(|layer| blob(layer.digest))
                            .collect(),
                    ),
                    vertex: Digest::of(id),
                    output: 0,
                })
                .collect(),
        }
    });
    records.collect()
}

#[test]
fn records_in_any_order_give_the_config_that_buildkit_wrote() {
    for (name, json) in GOLDEN {
        let config = golden(json);
        assert_eq!(assemble(&export_records(&config)).config, config, "{name}");
    }
}

#[test]
fn the_newest_of_several_results_is_taken() {
    let (_, json) = GOLDEN[0];
    let mut records = export_records(&golden(json));
    let record = records
        .iter_mut()
        .find(|record| !record.results.is_empty())
        .unwrap();
    let mut newer = record.results[0].clone();
    newer.created = SystemTime::UNIX_EPOCH;
    newer.remote = Chain(vec![blob(Digest::of("newer"))]);
    record.results.insert(0, newer);
    let assembled = assemble(&records);
    assert!(assembled.blobs.contains_key(&Digest::of("newer")));
}

#[test]
fn a_result_whose_layer_is_missing_is_left_out_and_its_record_stays() {
    for (name, json) in GOLDEN {
        let config = golden(json);
        let plan = plan(&config, &BTreeMap::new());
        assert_eq!(plan.records.len(), config.records.len(), "{name}");
        assert!(plan.chains.is_empty() && plan.records.iter().all(|r| r.results.is_empty()));
    }
}

#[test]
fn inline_records_name_layers_of_the_image() {
    let config = golden(GOLDEN[0].1);
    let assembled = assemble(&export_records(&config));
    let image: Vec<inline::ImageLayer> = [1, 2]
        .map(|index: usize| config.layers[index].blob.parse().unwrap())
        .map(|blob: Digest| inline::ImageLayer {
            blob,
            diff_id: Digest::of(blob.as_bytes()),
        })
        .to_vec();
    let json = inline::records_for(&assembled, &image).unwrap().unwrap();
    let blobs: Vec<Digest> = image.iter().map(|layer| layer.blob).collect();
    let read = inline::parse(&json, &blobs).unwrap();
    let results: Vec<_> = read
        .records
        .iter()
        .filter_map(|record| record.results.first())
        .map(|result| result.layer)
        .collect();
    assert_eq!(
        results,
        [1],
        "the stage's own layer isn't the image's, its first two are"
    );
    assert_eq!(read.records.len(), config.records.len());
}

#[test]
fn layers_in_another_order_than_the_images_become_a_chain() {
    let config = golden(GOLDEN[0].1);
    let assembled = assemble(&export_records(&config));
    let image: Vec<inline::ImageLayer> = [2, 1]
        .map(|index: usize| config.layers[index].blob.parse().unwrap())
        // Another compression of the same layers: only the uncompressed digests agree.
        .map(|blob: Digest| inline::ImageLayer {
            blob: Digest::of("other"),
            diff_id: Digest::of(blob.as_bytes()),
        })
        .to_vec();
    let json = inline::records_for(&assembled, &image).unwrap().unwrap();
    let read = inline::parse(&json, &[Digest::of("a"), Digest::of("b")]).unwrap();
    let chains: Vec<_> = read
        .records
        .iter()
        .flat_map(|record| &record.chains)
        .collect();
    assert_eq!(
        chains
            .iter()
            .map(|chain| chain.layers.clone())
            .collect::<Vec<_>>(),
        [[1, 0]]
    );
}

#[test]
fn an_image_that_shares_no_layer_has_no_inline_cache() {
    let assembled = assemble(&export_records(&golden(GOLDEN[0].1)));
    let other = inline::ImageLayer {
        blob: Digest::of("x"),
        diff_id: Digest::of("y"),
    };
    assert_eq!(inline::records_for(&assembled, &[other]).unwrap(), None);
}
