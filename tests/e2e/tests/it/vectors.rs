//! Cache records of graphs that no Dockerfile makes, or none of the golden ones: every op and every kind of mount.
//!
//! `testdata/vectors.json` holds, for each graph, the records that a real BuildKit exported with `mode=max`: record
//! digests, selectors and links, without times and blobs. `testdata/README.md` tells how they were recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use kiln_client::{Address, Attachments, Client, SolveOptions};
use kiln_e2e::Scenario;
use kiln_harness::{Registry, Repository, Stage};
use kiln_llb::Edge;
use kiln_proto::pb;
use serde_json::{Value, json};

pub(crate) mod graphs;

pub(crate) const ALL: &[Scenario] = &[Scenario::new(
    "cache_records_of_every_op",
    cache_records_of_every_op,
)];

/// Set to write the records down instead of comparing them; for a real BuildKit only.
const RECORD: &str = "KILN_RECORD_VECTORS";

/// The keys of the base image: by its manifest, by its layers, and by the manifest with a limit of layers. The
/// real one links what it builds to those that it looked up this time, Kiln to all; here they are one.
const IMAGE: [&str; 3] = [
    "sha256:08043b6a6321fcd7ac54058d6c1e2f4b3eb61aad98a797bc7b69c23af37450ae",
    "sha256:c562115739b8457ebc6c8d22f7944fa3e6db18653200db9047e79761066377f5",
    "sha256:d7f58bb98eef3846fbfd8fcef192aea088370b1f66cb9e1dea2ddca466a7b1f5",
];

fn cache_records_of_every_op(stage: &mut Stage<'_>) -> Result<()> {
    let id = stage.directory().file_name().context("a name")?;
    let id = id.to_string_lossy().to_lowercase();
    let web = stage
        .bed
        .web
        .put(&format!("{id}/data.bin"), "from the web")?;
    let repository = Repository::create(&stage.bed.web, &format!("{id}-git"))?;
    repository.commit(&[("README", "text"), ("sub/file", "in sub")])?;
    repository.tag("v1")?;
    let graphs = graphs::all(&web, repository.url());

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let address = Address::Unix(stage.engine.socket().to_path_buf());
    let client = runtime.block_on(Client::connect(&address))?;
    let mut found = BTreeMap::new();
    for (name, graph) in graphs {
        let tag = format!("{id}:{name}");
        let reference = stage.bed.registry.image(&tag);
        runtime
            .block_on(solve(&client, &graph, reference))
            .with_context(|| format!("graph {name}"))?;
        found.insert(name, records(&stage.bed.registry, &tag)?);
    }
    if std::env::var_os(RECORD).is_some() {
        ensure!(!stage.engine.is_kilnd(), "only a real BuildKit is recorded");
        let mut text = serde_json::to_string_pretty(&found)?;
        text.push('\n');
        fs::write(recorded(), text)?;
        return Ok(());
    }
    let recorded: BTreeMap<String, Value> = serde_json::from_slice(&fs::read(recorded())?)?;
    let names = |map: Vec<&str>| map.join(" ");
    ensure!(
        names(found.keys().copied().collect())
            == names(recorded.keys().map(String::as_str).collect()),
        "other graphs than were recorded"
    );
    let differences: Vec<String> = found
        .iter()
        .filter(|(name, records)| recorded[**name] != **records)
        .map(|(name, records)| format!("{name}\nrecorded {:#}\nfound {records:#}", recorded[*name]))
        .collect();
    ensure!(differences.is_empty(), "{}", differences.join("\n\n"));
    Ok(())
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/vectors.json")
}

async fn solve(client: &Client, graph: &Edge, reference: String) -> Result<()> {
    let attributes = [
        ("ref".to_owned(), reference),
        ("mode".to_owned(), "max".to_owned()),
    ];
    let options = SolveOptions {
        definition: Some(kiln_llb::definition(Some(graph))),
        cache_exports: vec![("registry".to_owned(), attributes.into())],
        entitlements: vec!["network.host".to_owned(), "security.insecure".to_owned()],
        ..SolveOptions::default()
    };
    client
        .solve(options, Attachments::default(), |_| {})
        .await?;
    Ok(())
}

/// The records of an exported cache, with the digests of what they link to in place of indexes.
fn records(registry: &Registry, tag: &str) -> Result<Value> {
    let manifest = registry.inspect(tag, &["--raw"])?;
    let digest = manifest["config"]["digest"].as_str().context("a config")?;
    let config: Value = serde_json::from_slice(&registry.blob(digest)?)?;
    let records = config["records"].as_array().context("records")?;
    let described = records.iter().map(|record| {
        let inputs = record["inputs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|links| {
                let links = links.as_array().into_iter().flatten().map(|link| {
                    let to = link["link"].as_u64().unwrap_or_default();
                    let to = usize::try_from(to).unwrap_or_default();
                    json!({ "selector": link["selector"], "digest": key(&records[to]["digest"]) })
                });
                let mut links: Vec<Value> = links.collect();
                links.sort_by_key(Value::to_string);
                links.dedup();
                Value::Array(links)
            });
        json!({
            "digest": key(&record["digest"]),
            "inputs": inputs.collect::<Vec<_>>(),
            "result": record["layers"].is_array(),
        })
    });
    let mut described: Vec<Value> = described.collect();
    described.sort_by_key(Value::to_string);
    described.dedup();
    Ok(Value::Array(described))
}

fn key(digest: &Value) -> Value {
    let is_image = digest
        .as_str()
        .is_some_and(|digest| IMAGE.contains(&digest));
    if is_image {
        return json!("the image");
    }
    digest.clone()
}

/// A vertex of an op, by its first output.
pub(crate) fn vertex(op: pb::op::Op, inputs: &[&Edge], platform: Option<pb::Platform>) -> Edge {
    let inputs = inputs.iter().map(|edge| (*edge).clone()).collect();
    Edge {
        vertex: kiln_llb::vertex(op, inputs, platform, kiln_llb::VertexOptions::default()),
        index: 0,
    }
}
