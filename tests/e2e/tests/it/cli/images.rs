//! Named images: pulled, tagged, pushed, built upon, removed, saved and loaded.

use std::process::Command;

use anyhow::{Result, ensure};
use kiln_harness::{Context, Run, Stage};
use serde_json::Value;

use super::{json, piped, run};

/// What is pulled is named, tagged, pushed, built upon and removed.
pub(super) fn keeps_images(stage: &mut Stage<'_>) -> Result<()> {
    let busybox = stage.bed.registry.image("busybox:latest");
    let pulled = run(&mut stage.kiln(&["pull", &busybox])?)?.succeeds()?;
    pulled.says(&["layer", "done", "@sha256:"])?;
    run(&mut stage.kiln(&["pull", "-q", &busybox])?)?.succeeds()?;
    let target = stage.bed.registry.image("cli/copy:1");
    run(&mut stage.kiln(&["tag", &busybox, &target])?)?.succeeds()?;
    let listed = json(stage, &["images", "--format", "json"])?;
    ensure!(listed.as_array().map(Vec::len) == Some(1), "{listed}");
    ensure!(
        listed[0]["names"].as_array().map(Vec::len) == Some(2),
        "{listed}"
    );
    ensure!(listed[0]["platforms"][0] == "linux/amd64", "{listed}");
    let pushed = run(&mut stage.kiln(&["push", "-q", &target])?)?.succeeds()?;
    ensure!(pushed.stdout.trim() == listed[0]["digest"], "{pushed:?}");
    let seen = Run::of(
        Command::new(kiln_harness::on_path("skopeo")?)
            .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"])
            .arg(format!("docker://{target}")),
    )?
    .succeeds()?;
    ensure!(seen.stdout.trim() == listed[0]["digest"], "{seen:?}");
    let inspected = json(stage, &["inspect", &target])?;
    ensure!(
        inspected[0]["config"]["architecture"] == "amd64",
        "{inspected}"
    );
    ensure!(
        inspected[0]["layers"][0]["diffId"].is_string(),
        "{inspected}"
    );
    run(&mut stage.kiln(&["history", &busybox])?)?
        .succeeds()?
        .says(&["CREATED BY"])?;
    let context = Context::new(&format!("FROM {target}\nRUN echo upon > /x\n"))?;
    run(&mut stage.kiln_build(&context, &["-t", "kiln/upon"])?)?
        .succeeds()?
        .says(&["image store: sha256:"])?;
    knows_makers_and_users(stage, &busybox)?;
    let table = run(&mut stage.kiln(&["images", "kiln/*"])?)?.succeeds()?;
    ensure!(table.stdout.lines().count() == 2, "{}", table.stdout);
    let removed = run(&mut stage.kiln(&["rmi", &busybox, "kiln/upon", "no/such"])?)?;
    ensure!(removed.code == Some(1), "{removed:?}");
    removed.says(&[
        "Untagged: kiln/upon:latest",
        "Deleted: sha256:",
        "no such image: no/such",
    ])?;
    // The other name still holds all of it.
    run(&mut stage.kiln(&["prune", "--all", "--force"])?)?.succeeds()?;
    run(&mut stage.kiln(&["push", &target])?)?.succeeds()?;
    run(&mut stage.kiln(&["prune", "--images", "--all", "--force"])?)?.succeeds()?;
    ensure!(json(stage, &["images", "--format", "json"])? == serde_json::json!([]));
    run(&mut stage.kiln(&["pull", &stage.bed.registry.image("no/such")])?)?.fails()?;
    Ok(())
}

/// An image names the build that made it, the builds that were made from it, and the images upon it and below it.
fn knows_makers_and_users(stage: &mut Stage<'_>, base: &str) -> Result<()> {
    let upon = json(stage, &["inspect", "kiln/upon"])?;
    let maker = upon[0]["image"]["buildRef"].clone();
    ensure!(maker.as_str().is_some_and(|one| !one.is_empty()), "{upon}");
    ensure!(upon[0]["usedByTotal"] == 0, "{upon}");
    ensure!(upon[0]["related"][0]["layers"] == 1, "{upon}");
    ensure!(upon[0]["related"][0]["sharedLayers"] == 1, "{upon}");
    let base = json(stage, &["inspect", base])?;
    ensure!(base[0]["image"]["buildRef"] == "", "{base}");
    ensure!(base[0]["usedByTotal"] == 1, "{base}");
    ensure!(base[0]["usedBy"][0]["buildRef"] == maker, "{base}");
    let over = &base[0]["related"][0];
    ensure!(over["names"][0] == "docker.io/kiln/upon:latest", "{base}");
    ensure!(over["sharedLayers"] == 1 && over["layers"] == 2, "{base}");
    Ok(())
}

/// Archives of ours are read by skopeo, and skopeo's and our own by us.
pub(super) fn moves_archives(stage: &mut Stage<'_>) -> Result<()> {
    let skopeo = |arguments: &[&str]| {
        Run::of(
            Command::new(kiln_harness::on_path("skopeo")?)
                .arg("--insecure-policy")
                .args(arguments),
        )?
        .succeeds()
    };
    let context = Context::new("FROM busybox\nRUN echo moved > /x\nENV A=b\n")?;
    run(&mut stage.kiln_build(&context, &["-q", "-t", "kiln/moved:1"])?)?.succeeds()?;
    let before = json(stage, &["images", "--format", "json"])?;
    let (docker, oci, again) = (
        stage.path("d.tar"),
        stage.path("o.tar"),
        stage.path("again.tar"),
    );
    let path = |path: &std::path::Path| path.display().to_string();
    run(&mut stage.kiln(&["save", "-o", &path(&docker), "kiln/moved:1"])?)?.succeeds()?;
    run(&mut stage.kiln(&["save", "--format", "oci", "-o", &path(&oci), "kiln/moved:1"])?)?
        .succeeds()?;
    for source in [
        format!("docker-archive:{}", path(&docker)),
        format!("oci-archive:{}", path(&oci)),
    ] {
        let seen: Value = serde_json::from_str(&skopeo(&["inspect", &source])?.stdout)?;
        ensure!(
            seen["Layers"].as_array().map(Vec::len) == Some(2),
            "{source}: {seen}"
        );
        ensure!(seen["Env"].to_string().contains("A=b"), "{seen}");
    }
    // Docker's own form, without a layout.
    let source = format!("docker-archive:{}", path(&docker));
    let target = format!("docker-archive:{}:kiln/again:2", path(&again));
    skopeo(&["copy", &source, &target])?;
    run(&mut stage.kiln(&["rmi", "kiln/moved:1"])?)?.succeeds()?;
    run(&mut stage.kiln(&["load", "-i", &path(&docker)])?)?
        .succeeds()?
        .says(&["Loaded image: kiln/moved:1"])?;
    let after = json(stage, &["images", "--format", "json"])?;
    ensure!(
        before[0]["digest"] == after[0]["digest"],
        "{before}\n{after}"
    );
    run(&mut stage.kiln(&["load", "-i", &path(&again)])?)?
        .succeeds()?
        .says(&["Loaded image: kiln/again:2"])?;
    let context = Context::new("FROM kiln/again:2\nRUN echo got-$(cat /x)-$A\n")?;
    run(&mut stage.kiln_build(&context, &[])?)?
        .succeeds()?
        .says(&["got-moved-b"])?;
    let (code, said) = piped(&mut stage.kiln(&["load"])?, b"no archive at all")?;
    ensure!(
        code == Some(2) && said.contains("can't be loaded"),
        "{code:?} {said}"
    );
    Ok(())
}
