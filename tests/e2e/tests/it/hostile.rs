//! Clients that send nonsense, lie, or go away in the middle. The daemon says what is wrong and goes on.

mod connections;
pub(crate) mod gateway;
mod graphs;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kiln_client::{Attachments, SolveOptions};
use kiln_e2e::Scenario;
use kiln_harness::{Client, Context, Kilnd, KilndOptions, Registry, Stage};

use crate::client::{connect, dockerfile_build, run};
use connections::{
    a_client_dies_while_it_receives, a_client_dies_while_it_sends, connections_of_nonsense,
};
use gateway::{gateway_calls_of_nonsense, gateway_calls_without_a_build};
use graphs::malformed_graphs_are_refused;

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("malformed_graphs_are_refused", malformed_graphs_are_refused)
        .kilnd_only(
            "the real one builds first and notices later, and an output of -1 makes it panic",
        )
        .new_buildx_only("no buildx takes part"),
    Scenario::new("unknown_kinds_are_named", unknown_kinds_are_named)
        .new_buildx_only("no buildx takes part"),
    Scenario::new(
        "stages_in_a_circle_are_refused",
        stages_in_a_circle_are_refused,
    ),
    Scenario::new("wrong_bytes_of_a_registry", wrong_bytes_of_a_registry),
    Scenario::new(
        "gateway_calls_without_a_build",
        gateway_calls_without_a_build,
    )
    .new_buildx_only("no buildx takes part"),
    Scenario::new("gateway_calls_of_nonsense", gateway_calls_of_nonsense)
        .kilnd_only("an output of -1 makes the real one panic")
        .new_buildx_only("no buildx takes part"),
    Scenario::new("a_client_dies_while_it_sends", a_client_dies_while_it_sends),
    Scenario::new(
        "a_client_dies_while_it_receives",
        a_client_dies_while_it_receives,
    )
    .new_buildx_only("no buildx takes part"),
    Scenario::new("connections_of_nonsense", connections_of_nonsense)
        .kilnd_only("the relay in front of the real one reads them first")
        .new_buildx_only("no buildx takes part"),
];

async fn is_refused(
    client: &kiln_client::Client,
    what: &str,
    options: SolveOptions,
    word: &str,
) -> Result<()> {
    let solved = client.solve(options, Attachments::default(), |_| {});
    let solved = tokio::time::timeout(Duration::from_secs(20), solved);
    let Err(error) = solved.await.with_context(|| format!("{what}: no answer"))? else {
        bail!("{what}: it should be refused")
    };
    let text = error.to_string();
    ensure!(text.contains(word), "{what}: {word:?} isn't in {text:?}");
    ensure!(!text.contains("panic"), "{what}: {text:?}");
    client.info().await.context("the daemon lives")?;
    Ok(())
}

fn unknown_kinds_are_named(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n")?;
    let nonsense = || vec![("nonsense".to_owned(), [].into())];
    run(async {
        let client = connect(stage).await?;
        let build = || dockerfile_build(stage, &context).0;
        let exporter = SolveOptions {
            exporters: nonsense(),
            ..build()
        };
        let cache = SolveOptions {
            cache_exports: nonsense(),
            ..build()
        };
        let frontend = SolveOptions {
            frontend: "nonsense.v9".to_owned(),
            ..build()
        };
        for (what, options) in [
            ("exporter", exporter),
            ("cache exporter", cache),
            ("frontend", frontend),
        ] {
            is_refused(&client, what, options, "nonsense").await?;
        }
        for (key, value, word) in [
            ("platform", "no/such/plat/form", "no/such/plat/form"),
            ("target", "nowhere", "nowhere"),
            ("force-network-mode", "nonsense", "nonsense"),
            ("shm-size", "nonsense", "nonsense"),
            ("ulimit", "nonsense", "nonsense"),
            ("add-hosts", "nonsense", "nonsense"),
        ] {
            let (mut options, attachments) = dockerfile_build(stage, &context);
            options
                .frontend_attrs
                .insert(key.to_owned(), value.to_owned());
            let solved = client.solve(options, attachments, |_| {}).await;
            let Err(error) = solved else {
                bail!("{key}={value}: it should be refused")
            };
            ensure!(error.to_string().contains(word), "{key}={value}: {error}");
        }
        // What frontends don't know isn't theirs.
        let (mut options, attachments) = dockerfile_build(stage, &context);
        let unknown = ("no-such-attribute".to_owned(), "x".to_owned());
        options.frontend_attrs.extend([unknown]);
        client.solve(options, attachments, |_| {}).await?;
        Ok(())
    })
}

fn stages_in_a_circle_are_refused(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM scratch AS a\nCOPY --from=b /x /\nFROM scratch AS b\nCOPY --from=a /x /\n",
    )?;
    let run = stage.build(&context, &[])?.fails()?;
    run.says(&["circular dependency detected on stage"])?;
    Ok(())
}

/// A registry whose disk is damaged: what it sends isn't what its names say.
fn wrong_bytes_of_a_registry(stage: &mut Stage<'_>) -> Result<()> {
    let bed = stage.bed;
    let version = stage.client.version();
    let tag = format!("{}-{}", version.name(), stage.engine.is_kilnd());
    let context = Context::new("FROM scratch\nCOPY big /\n")?;
    context.put("big", format!("a layer of nobody else: {tag}"))?;
    let image = bed.registry.image(&format!("hostile:{tag}"));
    let metadata = stage.path("metadata.json");
    let (output, file) = (
        format!("type=image,name={image},push=true"),
        metadata.display().to_string(),
    );
    // Another daemon makes it, so that this one has nothing of it.
    let elsewhere = Kilnd::start(&bed.registry, KilndOptions::default())?;
    let arguments = [
        "-o",
        &output,
        "--provenance=false",
        "--metadata-file",
        &file,
    ];
    Client::connect(&bed.tools, version, elsewhere.socket(), &[])?
        .build(&context, &arguments)?
        .succeeds()?;
    elsewhere.finish()?;
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(&metadata)?)?;
    let manifest = metadata["containerimage.digest"]
        .as_str()
        .context("the digest")?;
    let layer = damage_layer(&bed.registry, manifest)?;
    let user = Context::new(&format!(
        "FROM {image} AS it\nFROM busybox\nCOPY --from=it /big /x\n"
    ))?;
    let run = stage.build(&user, &[])?.fails()?;
    run.says(&[&layer])?;
    Ok(())
}

/// Changes a byte of the first layer of an image in the registry's own files; gives the layer's digest.
fn damage_layer(registry: &Registry, manifest: &str) -> Result<String> {
    let data = |digest: &str| {
        let hex = digest.trim_start_matches("sha256:");
        let place = format!(
            "data/docker/registry/v2/blobs/sha256/{}/{hex}/data",
            &hex[..2]
        );
        registry.directory().join(place)
    };
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(data(manifest))?)?;
    let layer = document["layers"][0]["digest"]
        .as_str()
        .context("a layer")?
        .to_owned();
    let mut bytes = std::fs::read(data(&layer))?;
    let last = bytes.last_mut().context("a byte")?;
    *last ^= 1;
    std::fs::write(data(&layer), bytes)?;
    Ok(layer)
}
