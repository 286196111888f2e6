//! Every way out of a build: images pushed, archives, directories, tars.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use kiln_e2e::Scenario;
use kiln_harness::{Archive, Context, Run, Stage, on_path};
use serde_json::{Value, json};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("docker_archive", docker_archive),
    Scenario::new("oci_archive", oci_archive),
    Scenario::new("oci_compressions", oci_compressions),
    Scenario::new("pushed_image", pushed_image),
    Scenario::new("push_to_nowhere_fails", push_to_nowhere_fails),
    Scenario::new("directory", directory),
    Scenario::new("tar", tar_output),
    Scenario::new("several_platforms", several_platforms),
    Scenario::new("provenance_in_full", provenance_in_full),
    Scenario::new("provenance_by_default", provenance_by_default)
        .kilnd_only("buildx asks for it only where images with attestations are advertised"),
    Scenario::new("metadata_file", metadata_file),
    Scenario::new("two_outputs", two_outputs)
        .new_buildx_only("0.13 refuses more than one output by itself"),
    Scenario::new("annotations_and_epoch", annotations_and_epoch),
    Scenario::new("same_bytes_twice", same_bytes_twice),
];

fn sample() -> Result<Context> {
    let context =
        Context::new("FROM busybox\nCOPY f /f\nRUN echo made > /made\nCMD [\"cat\", \"/f\"]\n")?;
    context.put("f", "contents\n")?;
    Ok(context)
}

fn skopeo(arguments: &[&str]) -> Result<Run> {
    Run::of(
        Command::new(on_path("skopeo")?)
            .arg("--insecure-policy")
            .args(arguments),
    )?
    .succeeds()
}

fn docker_archive(stage: &mut Stage<'_>) -> Result<()> {
    let target = stage.path("image.tar");
    let output = format!("type=docker,dest={}", target.display());
    stage
        .build(&sample()?, &["-t", "kiln/sample:1", "-o", &output])?
        .succeeds()?;
    let source = format!("docker-archive:{}", target.display());
    let inspected: Value = serde_json::from_str(&skopeo(&["inspect", &source])?.stdout)?;
    ensure!(
        inspected["Layers"].as_array().map(Vec::len) == Some(3),
        "{inspected}"
    );
    let archive = Archive::open(&target)?;
    let manifest = archive.json("manifest.json")?;
    ensure!(
        manifest[0]["RepoTags"] == json!(["docker.io/kiln/sample:1"])
            || manifest[0]["RepoTags"] == json!(["kiln/sample:1"]),
        "{manifest}"
    );
    let copied = format!("oci:{}", stage.path("copied").display());
    skopeo(&["copy", &source, &copied])?;
    Ok(())
}

fn oci_archive(stage: &mut Stage<'_>) -> Result<()> {
    let target = stage.path("image.tar");
    let output = format!("type=oci,dest={},name=kiln/sample:2", target.display());
    stage
        .build(&sample()?, &["--provenance=false", "-o", &output])?
        .succeeds()?;
    let archive = Archive::open(&target)?;
    ensure!(archive.json("oci-layout")?["imageLayoutVersion"] == "1.0.0");
    let index = archive.json("index.json")?;
    let annotations = &index["manifests"][0]["annotations"];
    ensure!(
        annotations["io.containerd.image.name"] == "docker.io/kiln/sample:2",
        "{index}"
    );
    ensure!(
        annotations["org.opencontainers.image.ref.name"] == "2",
        "{index}"
    );
    let image = archive.image()?;
    ensure!(image.config["config"]["Cmd"] == json!(["cat", "/f"]));
    ensure!(image.top_layer()?.text("made")? == "made\n");
    let unpacked = stage.path("layout");
    let output = format!("type=oci,dest={},tar=false", unpacked.display());
    stage
        .build(&sample()?, &["--provenance=false", "-o", &output])?
        .succeeds()?;
    let layout = format!("oci:{}", unpacked.display());
    skopeo(&["inspect", &layout])?;
    Ok(())
}

fn oci_compressions(stage: &mut Stage<'_>) -> Result<()> {
    let suffixes = [
        ("uncompressed", ".tar"),
        ("gzip", ".tar+gzip"),
        ("zstd", ".tar+zstd"),
    ];
    for (compression, suffix) in suffixes {
        let target = stage.path(&format!("{compression}.tar"));
        let output = format!(
            "type=oci,dest={},compression={compression},force-compression=true",
            target.display()
        );
        stage
            .build(&sample()?, &["--provenance=false", "-o", &output])?
            .succeeds()?;
        let archive = Archive::open(&target)?;
        let image = archive.image()?;
        for layer in image.manifest["layers"].as_array().context("layers")? {
            let media_type = layer["mediaType"].as_str().unwrap_or_default();
            ensure!(media_type.ends_with(suffix), "{compression}: {media_type}");
        }
        ensure!(image.top_layer()?.text("made")? == "made\n");
    }
    Ok(())
}

fn pushed_image(stage: &mut Stage<'_>) -> Result<()> {
    let unique = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let name = format!("pushed-{}:v1", unique.trim_start_matches("stage-"));
    let reference = stage.bed.registry.image(&name);
    let output = format!("type=image,name={reference},push=true,registry.insecure=true");
    let run = stage.build(&sample()?, &["-o", &output])?.succeeds()?;
    run.says(&["pushing layers", "pushing manifest for"])?;
    let inspected = stage.bed.registry.inspect(&name, &[])?;
    ensure!(
        inspected["Layers"].as_array().map(Vec::len) == Some(3),
        "{inspected}"
    );
    // What was pushed is a base of the next build, on a daemon that has nothing of it.
    let child = Context::new(&format!("FROM {reference}\nRUN cat /f /made\n"))?;
    let run = stage.build(&child, &[])?.succeeds()?;
    ensure!(
        run.step_output("RUN cat")? == "contents\nmade",
        "{}",
        run.transcript()
    );
    Ok(())
}

fn push_to_nowhere_fails(stage: &mut Stage<'_>) -> Result<()> {
    let output = "type=image,name=127.0.0.1:9/nobody/listens,push=true";
    stage
        .build(&sample()?, &["-o", output])?
        .fails()?
        .says(&["127.0.0.1:9", "refused"])?;
    Ok(())
}

fn directory(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new(
        "FROM busybox AS b\nRUN mkdir -p /o/d && echo 1 > /o/d/f && ln -s f /o/d/l && chmod 750 \
                                /o/d/f\nFROM scratch\nCOPY --from=b /o /\n",
    )?;
    let files = stage.build_files(&context, &[])?;
    ensure!(fs::read_to_string(files.join("d/f"))? == "1\n");
    ensure!(fs::read_link(files.join("d/l"))?.as_os_str() == "f");
    Ok(())
}

fn tar_output(stage: &mut Stage<'_>) -> Result<()> {
    let target = stage.path("files.tar");
    let context = Context::new("FROM scratch\nCOPY f /dir/f\n")?;
    context.put("f", "tar")?;
    stage
        .build(
            &context,
            &["-o", &format!("type=tar,dest={}", target.display())],
        )?
        .succeeds()?;
    ensure!(Archive::open(&target)?.text("dir/f")? == "tar");
    let run = stage.build(&context, &["-o", "-"])?.succeeds()?;
    ensure!(run.stdout.contains("dir/f"));
    Ok(())
}

fn several_platforms(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /which\n")?;
    for name in ["amd64", "arm64", "s390x"] {
        context.put(name, name)?;
    }
    let platforms = "linux/amd64,linux/arm64,linux/s390x";
    let archive = Archive::open(
        &stage.build_oci(&context, &["--provenance=false", "--platform", platforms])?,
    )?;
    let images = archive.images()?;
    ensure!(images.len() == 3, "{} images", images.len());
    for image in images {
        let architecture = image.config["architecture"]
            .as_str()
            .context("an architecture")?;
        ensure!(
            image.descriptor["platform"]["architecture"] == architecture,
            "{}",
            image.descriptor
        );
        ensure!(image.top_layer()?.text("which")? == architecture);
    }
    let files = stage.build_files(&context, &["--platform", platforms])?;
    ensure!(fs::read_to_string(files.join("linux_arm64/which"))? == "arm64");
    Ok(())
}

fn provenance_by_default(stage: &mut Stage<'_>) -> Result<()> {
    let unique = stage
        .directory()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let name = format!("attested-{}:v1", unique.trim_start_matches("stage-"));
    let reference = stage.bed.registry.image(&name);
    let output = format!("type=image,name={reference},push=true,registry.insecure=true");
    stage.build(&sample()?, &["-o", &output])?.succeeds()?;
    let index = stage.bed.registry.inspect(&name, &["--raw"])?;
    let attested = index["manifests"].as_array().is_some_and(|manifests| {
        manifests.iter().any(|manifest| {
            manifest["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
        })
    });
    ensure!(attested, "{index}");
    Ok(())
}

fn provenance_in_full(stage: &mut Stage<'_>) -> Result<()> {
    has_provenance(stage, &["--provenance=mode=max"])
}

fn has_provenance(stage: &mut Stage<'_>, arguments: &[&str]) -> Result<()> {
    let archive = Archive::open(&stage.build_oci(&sample()?, arguments)?)?;
    let images = archive.images()?;
    let attestation = images
        .iter()
        .find(|image| image.is_attestation())
        .context("an attestation manifest")?;
    let layer = &attestation.manifest["layers"][0];
    let kind = layer["annotations"]["in-toto.io/predicate-type"]
        .as_str()
        .unwrap_or_default();
    ensure!(kind.starts_with("https://slsa.dev/provenance/"), "{layer}");
    let digest = layer["digest"].as_str().context("a digest")?;
    let statement = archive.json(&format!("blobs/{}", digest.replace(':', "/")))?;
    ensure!(
        statement["predicateType"] == kind && statement["subject"].is_array(),
        "{statement}"
    );
    ensure!(
        statement.to_string().contains("pkg:docker/busybox"),
        "{statement}"
    );
    Ok(())
}

fn metadata_file(stage: &mut Stage<'_>) -> Result<()> {
    let target = stage.path("metadata.json");
    let output = format!("type=oci,dest={}", stage.path("image.tar").display());
    stage
        .build(
            &sample()?,
            &["--metadata-file", &target.to_string_lossy(), "-o", &output],
        )?
        .succeeds()?;
    let metadata: Value = serde_json::from_slice(&fs::read(target)?)?;
    for key in [
        "containerimage.digest",
        "containerimage.descriptor",
        "buildx.build.ref",
    ] {
        ensure!(!metadata[key].is_null(), "{key} in {metadata}");
    }
    ensure!(
        metadata["containerimage.digest"] == metadata["containerimage.descriptor"]["digest"],
        "{metadata}"
    );
    Ok(())
}

fn two_outputs(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY f /\n")?;
    context.put("f", "both")?;
    let directory = format!("type=local,dest={}", stage.path("dir").display());
    let archive = format!("type=tar,dest={}", stage.path("files.tar").display());
    stage
        .build(&context, &["-o", &directory, "-o", &archive])?
        .succeeds()?;
    ensure!(fs::read_to_string(stage.path("dir/f"))? == "both");
    ensure!(Archive::open(&stage.path("files.tar"))?.text("f")? == "both");
    Ok(())
}

fn annotations_and_epoch(stage: &mut Stage<'_>) -> Result<()> {
    let output = format!(
        "type=oci,dest={},rewrite-timestamp=true",
        stage.path("image.tar").display()
    );
    stage
        .build(
            &sample()?,
            &[
                "--provenance=false",
                "--annotation",
                "who=me",
                "--build-arg",
                "SOURCE_DATE_EPOCH=1000000000",
                "-o",
                &output,
            ],
        )?
        .succeeds()?;
    let archive = Archive::open(&stage.path("image.tar"))?;
    let image = archive.image()?;
    ensure!(
        image.manifest["annotations"]["who"] == "me",
        "{}",
        image.manifest
    );
    ensure!(
        image.config["created"] == "2001-09-09T01:46:40Z",
        "{}",
        image.config
    );
    Ok(())
}

fn same_bytes_twice(stage: &mut Stage<'_>) -> Result<()> {
    let mut digests = Vec::new();
    for (name, options) in [("one.tar", &[][..]), ("two.tar", &["--no-cache"][..])] {
        let target = stage.path(name);
        let output = format!("type=oci,dest={},rewrite-timestamp=true", target.display());
        let mut all = vec![
            "--provenance=false",
            "--build-arg",
            "SOURCE_DATE_EPOCH=1",
            "-o",
            &output,
        ];
        all.extend(options);
        stage.build(&sample()?, &all)?.succeeds()?;
        digests.push(Archive::open(&target)?.json("index.json")?["manifests"][0]["digest"].clone());
    }
    ensure!(digests[0] == digests[1], "{digests:?}");
    Ok(())
}
