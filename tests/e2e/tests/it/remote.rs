//! Caches outside of the daemon: written to a registry, into an image, into a directory, and read from there by a
//! daemon that knows nothing.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use kiln_e2e::Scenario;
use kiln_harness::{Context, Engine, Run, Stage};
use serde_json::Value;

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new(
        "caches/registry_cache_in_every_form",
        registry_cache_in_every_form,
    ),
    Scenario::new("caches/cache_modes", cache_modes),
    Scenario::new("caches/cache_in_the_image", cache_in_the_image),
    Scenario::new("caches/cache_in_a_directory", cache_in_a_directory),
    Scenario::new("caches/several_caches_at_once", several_caches_at_once),
    Scenario::new(
        "caches/missing_caches_are_no_error",
        missing_caches_are_no_error,
    ),
    Scenario::new("caches/failed_export", failed_export),
    Scenario::new(
        "caches/imported_cache_pulls_no_layer",
        imported_cache_pulls_no_layer,
    ),
    Scenario::new(
        "caches/imported_cache_is_exported_again",
        imported_cache_is_exported_again,
    ),
    Scenario::new(
        "caches/imported_results_survive_a_restart",
        imported_results_survive_a_restart,
    )
    .kilnd_only("the real one is shared and stays up"),
    Scenario::new("caches/lost_cache_directory", lost_cache_directory),
];

const FILES: [(&str, &str); 2] = [("made", "made\n"), ("used", "a1\n")];

/// Two stages, so that `min` and `max` differ.
fn sample(word: &str) -> Result<Context> {
    let context = Context::new(&format!(
        "FROM busybox AS build\nRUN echo {word} && echo made > /made\nCOPY a /a\nRUN cp /a /used\nFROM scratch\nCOPY --from=build /made \
         /\nCOPY --from=build /used /\n"
    ))?;
    context.put("a", "a1\n")?;
    Ok(context)
}

/// A repository of the scenario's own, without the registry.
fn repository(stage: &Stage<'_>) -> Result<String> {
    let name = stage.directory().file_name().context("a name")?;
    Ok(name.to_string_lossy().to_lowercase())
}

/// Makes the daemon know nothing.
fn forget(stage: &mut Stage<'_>) -> Result<()> {
    if stage.engine.is_kilnd() {
        return stage.kilnd()?.start_anew();
    }
    stage
        .client
        .buildx(["prune", "--force", "--all"])?
        .succeeds()?;
    Ok(())
}

fn build(stage: &Stage<'_>, context: &Context, options: &[&str]) -> Result<Run> {
    stage.build(context, options)?.succeeds()
}

/// Builds from a cache, takes the files and compares them.
fn import(stage: &Stage<'_>, context: &Context, from: &str, misses: &[&str]) -> Result<()> {
    let options = ["--cache-from", from];
    let run = build(stage, context, &options)?;
    run.is_cached_but(misses).context(from.to_owned())?;
    let files = stage.build_files(context, &options)?;
    for (path, text) in FILES {
        ensure!(fs::read_to_string(files.join(path))? == text, "{path}");
    }
    Ok(())
}

fn registry_cache_in_every_form(stage: &mut Stage<'_>) -> Result<()> {
    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    const FORMS: [(&str, &str, &str); 6] = [
        ("mode=max", OCI, "tar+gzip"),
        ("mode=max,image-manifest=false", OCI_INDEX, "tar+gzip"),
        (
            "mode=max,image-manifest=false,oci-mediatypes=false",
            DOCKER_LIST,
            "tar.gzip",
        ),
        (
            "mode=max,image-manifest=true,oci-mediatypes=true,compression=gzip,compression-level=9",
            OCI,
            "tar+gzip",
        ),
        (
            "mode=max,compression=zstd,force-compression=true",
            OCI,
            "tar+zstd",
        ),
        (
            "mode=max,compression=uncompressed,force-compression=true",
            OCI,
            "layer.v1.tar",
        ),
    ];
    let repository = repository(stage)?;
    for (number, (options, manifest, layer)) in FORMS.into_iter().enumerate() {
        let context = sample(&format!("form-{number}"))?;
        let name = format!("{repository}:{number}");
        let reference = stage.bed.registry.image(&name);
        let to = format!("type=registry,ref={reference},{options}");
        build(stage, &context, &["--cache-to", &to])?;
        let written = stage.bed.registry.inspect(&name, &["--raw"])?;
        let key = if written["manifests"].is_array() {
            "manifests"
        } else {
            "layers"
        };
        ensure!(written["mediaType"] == manifest, "{options}: {written}");
        let types: Vec<&str> = written[key]
            .as_array()
            .context("layers")?
            .iter()
            .filter_map(|entry| entry["mediaType"].as_str())
            .filter(|media_type| !media_type.contains("cacheconfig"))
            .collect();
        ensure!(
            !types.is_empty() && types.iter().all(|found| found.ends_with(layer)),
            "{options}: {types:?}"
        );
        forget(stage)?;
        import(
            stage,
            &context,
            &format!("type=registry,ref={reference}"),
            &[],
        )?;
    }
    Ok(())
}

fn cache_modes(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("modes")?;
    let repository = repository(stage)?;
    let reference = |mode: &str| {
        let name = format!("{repository}:{mode}");
        (stage.bed.registry.image(&name), name)
    };
    let mut layers = Vec::new();
    for mode in ["min", "max"] {
        let (reference, name) = reference(mode);
        let to = format!("type=registry,ref={reference},mode={mode}");
        build(stage, &context, &["--cache-to", &to])?;
        let written = stage.bed.registry.inspect(&name, &["--raw"])?;
        layers.push(written["layers"].as_array().map_or(0, Vec::len));
    }
    ensure!(layers[0] == 2 && layers[1] > 4, "{layers:?}");
    let references = [reference("min").0, reference("max").0];
    // The last steps are copies of files that a changed stage leaves as they were.
    let dockerfile = fs::read_to_string(context.path().join("Dockerfile"))?;
    for (reference, misses) in references.iter().zip([
        &[
            "RUN echo modes",
            "COPY a /a",
            "RUN cp /a /used",
            "RUN cat /used",
        ] as &[_],
        &["RUN cat /used"],
    ]) {
        let from = format!("type=registry,ref={reference}");
        context.put("Dockerfile", &dockerfile)?;
        forget(stage)?;
        import(stage, &context, &from, &[])?;
        let changed = dockerfile.replace("/used\nFROM", "/used\nRUN cat /used\nFROM");
        context.put("Dockerfile", changed)?;
        forget(stage)?;
        build(stage, &context, &["--cache-from", &from])?.is_cached_but(misses)?;
    }
    Ok(())
}

fn cache_in_the_image(stage: &mut Stage<'_>) -> Result<()> {
    let name = repository(stage)?;
    let image = stage.bed.registry.image(&name);
    let output = format!("type=image,name={image},push=true");
    let zstd = format!("{output},compression=zstd,force-compression=true");
    let context = sample("inline")?;
    for options in [
        ["--cache-to", "type=inline", "--output", &output],
        [
            "--build-arg",
            "BUILDKIT_INLINE_CACHE=1",
            "--output",
            &output,
        ],
        ["--cache-to", "type=inline", "--output", &zstd],
    ] {
        build(stage, &context, &options)?;
        forget(stage)?;
        import(stage, &context, &image, &[])?;
    }
    // A change in the middle: what comes before it is found, though its layers aren't in the image.
    context.put("a", "a2\n")?;
    forget(stage)?;
    build(stage, &context, &["--cache-from", &image])?;
    let plain = stage.bed.registry.image(&format!("{name}:plain"));
    let output = format!("type=image,name={plain},push=true");
    build(stage, &context, &["--output", &output])?;
    // An image without a cache in it is no error.
    forget(stage)?;
    build(stage, &context, &["--cache-from", &plain])?.is_run("RUN cp /a /used")?;
    Ok(())
}

fn cache_in_a_directory(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("directory")?;
    let path = stage.path("cache");
    let path = path.display();
    let other = sample("directory-other")?;
    for (context, options) in [
        (&context, "mode=max,tag=first"),
        (&other, "mode=max,tag=second,compression=zstd"),
    ] {
        let to = format!("type=local,dest={path},{options}");
        build(stage, context, &["--cache-to", &to])?;
    }
    let index: Value = serde_json::from_slice(&fs::read(stage.path("cache").join("index.json"))?)?;
    let tags: Vec<&Value> = index["manifests"]
        .as_array()
        .context("manifests")?
        .iter()
        .map(|entry| &entry["annotations"]["org.opencontainers.image.ref.name"])
        .collect();
    ensure!(tags == ["first", "second"], "{index}");
    for (context, tag) in [(&context, "first"), (&other, "second")] {
        forget(stage)?;
        let from = format!("type=local,src={path},tag={tag}");
        import(stage, context, &from, &[])?;
    }
    Ok(())
}

fn several_caches_at_once(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("several")?;
    let name = repository(stage)?;
    let [cache, image] =
        ["cache", "image"].map(|tag| stage.bed.registry.image(&format!("{name}:{tag}")));
    let directory = stage.path("cache").display().to_string();
    let output = format!("type=image,name={image},push=true");
    let to_registry = format!("type=registry,ref={cache},mode=max");
    let to_directory = format!("type=local,dest={directory},mode=max");
    let mut options = vec!["--output", &output];
    for to in [&to_registry, &to_directory, "type=inline"] {
        options.extend(["--cache-to", to]);
    }
    build(stage, &context, &options)?;
    for from in [
        format!("type=registry,ref={cache}"),
        format!("type=local,src={directory}"),
        format!("type=registry,ref={image}"),
    ] {
        forget(stage)?;
        import(stage, &context, &from, &[])?;
    }
    // Each has a part: all are asked.
    let other = sample("several-other")?;
    let second = stage.bed.registry.image(&format!("{name}:second"));
    let to = format!("type=registry,ref={second},mode=max");
    build(stage, &other, &["--cache-to", &to])?;
    forget(stage)?;
    for context in [&context, &other] {
        let [one, two] = [&cache, &second].map(|from| format!("type=registry,ref={from}"));
        build(
            stage,
            context,
            &["--cache-from", &one, "--cache-from", &two],
        )?
        .is_cached_but(&[])?;
    }
    Ok(())
}

fn missing_caches_are_no_error(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("missing")?;
    let name = repository(stage)?;
    let missing = stage.bed.registry.image(&format!("{name}:missing"));
    let good = stage.bed.registry.image(&format!("{name}:good"));
    let to = format!("type=registry,ref={good},mode=max");
    let run = build(
        stage,
        &context,
        &["--cache-from", &missing, "--cache-to", &to],
    )?;
    run.says(&[
        &format!("importing cache manifest from {missing}"),
        &format!("{missing}: not found"),
        "ERROR:",
    ])?;
    forget(stage)?;
    let run = build(
        stage,
        &context,
        &["--cache-from", &missing, "--cache-from", &good],
    )?;
    run.is_cached_but(&[])?;
    Ok(())
}

fn failed_export(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("failed-export")?;
    // Nobody listens there.
    let to = "type=registry,ref=127.0.0.1:1/nowhere:cache";
    stage
        .build(&context, &["--cache-to", to])?
        .fails()?
        .says(&["127.0.0.1:1"])?;
    let to = format!("{to},ignore-error=true");
    build(stage, &context, &["--cache-to", &to])?;
    Ok(())
}

/// The layers that a cache's manifest lists.
fn layers_of(stage: &Stage<'_>, name: &str) -> Result<Vec<String>> {
    let manifest = stage.bed.registry.inspect(name, &["--raw"])?;
    let layers = manifest["layers"].as_array().context("layers")?;
    layers
        .iter()
        .map(|layer| Ok(layer["digest"].as_str().context("a digest")?.to_owned()))
        .collect()
}

fn imported_cache_pulls_no_layer(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("lazy")?;
    let name = repository(stage)?;
    let reference = stage.bed.registry.image(&format!("{name}:cache"));
    let to = format!("type=registry,ref={reference},mode=max");
    build(stage, &context, &["--cache-to", &to])?;
    let layers = layers_of(stage, &format!("{name}:cache"))?;
    ensure!(layers.len() > 4, "{layers:?}");
    forget(stage)?;
    let read = |stage: &Stage<'_>| -> Vec<String> {
        let mut read = stage.bed.registry.blobs_read(&name);
        read.retain(|digest| layers.contains(digest));
        read
    };
    ensure!(read(stage).is_empty(), "{:?}", read(stage));
    build(stage, &context, &["--cache-from", &reference])?.is_cached_but(&[])?;
    ensure!(read(stage).is_empty(), "{:?}", read(stage));
    ensure!(
        !stage.bed.registry.blobs_read(&name).is_empty(),
        "the cache's config was read from the registry"
    );
    let base = layers_of(stage, "library/busybox:latest")?;
    if let Engine::Kilnd(kilnd) = &stage.engine {
        for layer in layers.iter().chain(&base) {
            ensure!(!kilnd.has_blob(layer), "{layer} was pulled");
        }
    }
    // An output needs the last two layers and no other.
    stage.build_files(&context, &["--cache-from", &reference])?;
    kiln_harness::within(
        "the log is written",
        std::time::Duration::from_secs(5),
        || read(stage).len() >= 2,
    )?;
    ensure!(read(stage).len() == 2, "{:?}", read(stage));
    Ok(())
}

/// What CI does in each run: the runner is new, and the cache of the last run becomes that of the next.
fn imported_cache_is_exported_again(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("again")?;
    let name = repository(stage)?;
    let [first, second] =
        ["first", "second"].map(|tag| stage.bed.registry.image(&format!("{name}:{tag}")));
    let to = format!("type=registry,ref={first},mode=max");
    build(stage, &context, &["--cache-to", &to])?;
    forget(stage)?;
    let to = format!("type=registry,ref={second},mode=max");
    let run = build(
        stage,
        &context,
        &["--cache-from", &first, "--cache-to", &to],
    )?;
    run.is_cached_but(&[])?;
    let mut layers = ["first", "second"]
        .map(|tag| layers_of(stage, &format!("{name}:{tag}")))
        .into_iter();
    let (Some(first), Some(again)) = (layers.next(), layers.next()) else {
        unreachable!("there are two");
    };
    let (first, again) = (first?, again?);
    ensure!(first == again, "{first:?}\n{again:?}");
    forget(stage)?;
    context.put(
        "Dockerfile",
        fs::read_to_string(context.path().join("Dockerfile"))?
            .replace("/used\nFROM", "/used\nRUN cat /used\nFROM"),
    )?;
    build(stage, &context, &["--cache-from", &second])?.is_cached_but(&["RUN cat /used"])?;
    Ok(())
}

fn imported_results_survive_a_restart(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("restarted")?;
    let name = repository(stage)?;
    let reference = stage.bed.registry.image(&name);
    let to = format!("type=registry,ref={reference},mode=max");
    build(stage, &context, &["--cache-to", &to])?;
    forget(stage)?;
    build(stage, &context, &["--cache-from", &reference])?.is_cached_but(&[])?;
    stage.kilnd()?.restart()?;
    // No cache is named any more, and nothing was pulled yet.
    build(stage, &context, &[])?.is_cached_but(&[])?;
    let files = stage.build_files(&context, &[])?;
    for (path, text) in FILES {
        ensure!(fs::read_to_string(files.join(path))? == text, "{path}");
    }
    Ok(())
}

/// Results whose layers were in a directory that is gone are made again.
fn lost_cache_directory(stage: &mut Stage<'_>) -> Result<()> {
    let context = sample("lost")?;
    let path = stage.path("cache");
    let to = format!("type=local,dest={},mode=max", path.display());
    build(stage, &context, &["--cache-to", &to])?;
    forget(stage)?;
    let from = format!("type=local,src={}", path.display());
    build(stage, &context, &["--cache-from", &from])?.is_cached_but(&[])?;
    fs::remove_dir_all(&path)?;
    let files = stage.build_files(&context, &[])?;
    for (path, text) in FILES {
        ensure!(fs::read_to_string(files.join(path))? == text, "{path}");
    }
    Ok(())
}
