//! What is advertised is served, and what isn't is refused by name.
//!
//! A frontend at the client asks for the caps and uses each: a graph that needs it is made, or at least accepted; a
//! call that it stands for is answered. The same on the real BuildKit proves that the uses are right, and that
//! [`names`] says truly where the two differ.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use kiln_client::{Attachments, Output, Secret, SolveOptions};
use kiln_e2e::Scenario;
use kiln_harness::{Context, Repository, Stage};
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::moby::buildkit::v1::frontend as gateway;
use tonic::Status;

use crate::client::{connect, run};
use graphs::{Places, Use};
use names::Reasoned;

mod calls;
mod graphs;
mod names;

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("caps_of_graphs", caps_of_graphs),
    Scenario::new("caps_of_the_gateway", caps_of_the_gateway),
    Scenario::new("caps_of_exports_and_records", caps_of_exports_and_records),
    Scenario::new("caps_that_are_refused", caps_that_are_refused)
        .kilnd_only("what Kiln lacks, the real one has"),
];

/// The names that the daemon should advertise, and that it shouldn't.
fn check_names(
    stage: &Stage<'_>,
    found: &[control::apicaps::ApiCap],
    both: &[&str],
    kiln_only: &[Reasoned],
    not_served: &[Reasoned],
) -> Result<BTreeSet<String>> {
    let found: BTreeSet<String> = found
        .iter()
        .filter(|cap| cap.enabled)
        .map(|cap| cap.id.clone())
        .collect();
    let mut want: BTreeSet<&str> = both.iter().copied().collect();
    let mut may: BTreeSet<&str> = BTreeSet::new();
    if stage.engine.is_kilnd() {
        want.extend(kiln_only.iter().map(|(cap, _)| cap));
    } else {
        may.extend(not_served.iter().map(|(cap, _)| cap));
    }
    let more: Vec<_> = found
        .iter()
        .filter(|cap| !want.contains(cap.as_str()) && !may.contains(cap.as_str()))
        .collect();
    let less: Vec<_> = want.iter().filter(|cap| !found.contains(**cap)).collect();
    ensure!(more.is_empty(), "advertised, and not in the list: {more:?}");
    ensure!(less.is_empty(), "in the list, and not advertised: {less:?}");
    Ok(found)
}

fn caps_of_graphs(stage: &mut Stage<'_>) -> Result<()> {
    let id = stage.directory().file_name().context("a name")?;
    let id = id.to_string_lossy().to_lowercase();
    let web = stage
        .bed
        .web
        .put(&format!("{id}/data.bin"), "from the web")?;
    let repository = Repository::create(&stage.bed.web, &format!("{id}-git"))?;
    let commit = repository.commit(&[("README", "text"), ("sub/file", "in sub")])?;
    let context = Context::new("")?;
    context.put("f", "f")?.put("g", "g")?;
    let attachments = Attachments {
        shared_key: id.clone(),
        dirs: [("context".to_owned(), context.path().to_path_buf())].into(),
        secrets: [("s".to_owned(), Secret::Bytes(b"secret"[..].into()))].into(),
        ..Attachments::default()
    };
    let stage = &*stage;
    run(async {
        let client = connect(stage).await?;
        calls::in_build(&client, attachments, async |build| {
            let pong = build.ping().await?;
            let found = check_names(
                stage,
                &pong.llb_caps,
                names::LLB,
                names::LLB_KILN_ONLY,
                names::LLB_NOT_SERVED,
            )?;
            let places = Places {
                web: web.clone(),
                git: repository.url().to_owned(),
                commit: commit.clone(),
                session: build.session.clone(),
                digest: build.resolve("busybox").await?.digest,
            };
            for cap in names::LLB
                .iter()
                .chain(names::LLB_KILN_ONLY.iter().map(|(cap, _)| cap))
            {
                let Some(used) = graphs::using(cap, &places) else {
                    ensure!(ELSEWHERE.contains(cap), "{cap}: nothing uses it");
                    continue;
                };
                if !found.contains(*cap) {
                    continue;
                }
                let (edge, evaluate) = match used {
                    Use::Made(edge) => (edge, true),
                    Use::Read(edge) => (edge, false),
                };
                let definition = Some(kiln_llb::definition(Some(&edge)));
                let request = gateway::SolveRequest {
                    definition,
                    evaluate,
                    ..calls::solve_request()
                };
                build
                    .solve(request)
                    .await
                    .with_context(|| format!("a graph that uses {cap}"))?;
            }
            build.return_empty().await
        })
        .await
    })
}

/// Caps of LLB that stand for no graph: [`caps_of_exports_and_records`] uses them.
const ELSEWHERE: [&str; 8] = [
    "source.policy",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.multiple",
    "exporter.session",
    "exporter.sourcedateepoch",
    "gc.freespacefilter",
    "history.filter",
];

fn caps_of_the_gateway(stage: &mut Stage<'_>) -> Result<()> {
    let stage = &*stage;
    run(async {
        let client = connect(stage).await?;
        calls::in_build(&client, Attachments::default(), async |build| {
            let pong = build.ping().await?;
            check_names(
                stage,
                &pong.frontend_api_caps,
                names::GATEWAY,
                &[],
                names::GATEWAY_NOT_SERVED,
            )?;
            calls::use_all(build).await?;
            build.return_empty().await
        })
        .await?;
        // Each way to return ends a build.
        calls::in_build(&client, Attachments::default(), calls::return_map).await?;
        if !stage.engine.is_kilnd() {
            // A result of a solve counts there once the frontend's process has ended, and a client has none.
            return Ok(());
        }
        calls::in_build(&client, Attachments::default(), calls::return_inline).await
    })
}

fn caps_of_exports_and_records(stage: &mut Stage<'_>) -> Result<()> {
    let files = ["a.tar", "b.tar"].map(|name| stage.path(name));
    run(async {
        let client = connect(stage).await?;
        let exporter = |attributes: &[(&str, &str)]| {
            let attributes: BTreeMap<_, _> = attributes
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            ("oci".to_owned(), attributes)
        };
        let options = SolveOptions {
            definition: Some(kiln_llb::definition(Some(&graphs::plain()))),
            entitlements: vec!["network.host".to_owned()],
            frontend_attrs: [("attest:provenance".to_owned(), String::new())].into(),
            exporters: vec![
                exporter(&[("annotation.words", "said"), ("source-date-epoch", "1")]),
                exporter(&[]),
            ],
            source_policy: Some(control::sourcepolicy::Policy {
                version: 1,
                rules: Vec::new(),
            }),
            ..SolveOptions::default()
        };
        let attachments = Attachments {
            outputs: files.iter().cloned().map(Output::File).collect(),
            ..Attachments::default()
        };
        client.solve(options, attachments, |_| {}).await?;
        for file in &files {
            ensure!(file.metadata()?.len() > 0, "{} is empty", file.display());
        }
        let prune = control::PruneRequest {
            filter: vec!["id==no-such-record".to_owned()],
            max_used_space: 1 << 50,
            min_free_space: 1,
            ..control::PruneRequest::default()
        };
        let mut pruned = client.prune(prune).await?;
        let record = pruned.next().await;
        ensure!(record.is_none(), "{record:?}");
        let request = control::BuildHistoryRequest {
            early_exit: true,
            filter: vec!["status==error".to_owned()],
            ..control::BuildHistoryRequest::default()
        };
        let mut history = client.history(request).await?;
        while let Some(event) = history.next().await {
            let record = event?.record.context("a record")?;
            ensure!(record.error.is_some(), "{record:?}");
        }
        Ok(())
    })
}

fn caps_that_are_refused(stage: &mut Stage<'_>) -> Result<()> {
    run(async {
        let client = connect(stage).await?;
        calls::in_build(&client, Attachments::default(), async |build| {
            for (cap, _) in names::LLB_NOT_SERVED {
                let edge = graphs::needing(graphs::plain(), cap);
                let definition = Some(kiln_llb::definition(Some(&edge)));
                let request = gateway::SolveRequest {
                    definition,
                    ..calls::solve_request()
                };
                let Err(status) = build.solve(request).await else {
                    bail!("{cap} isn't advertised, and a graph that needs it is accepted")
                };
                names_cap(&status, cap)?;
            }
            let request = build.request(gateway::NewContainerRequest::default())?;
            let Err(status) = build.bridge().new_container(request).await else {
                bail!("gateway.exec isn't advertised, and a container is made")
            };
            names_cap(&status, "gateway.exec")?;
            build.return_empty().await
        })
        .await
    })
}

fn names_cap(status: &Status, cap: &str) -> Result<()> {
    ensure!(
        status.message().contains(cap),
        "{cap} is refused without its name: {status}"
    );
    Ok(())
}
