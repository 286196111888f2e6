//! Images that a real BuildKit made: the same Dockerfile gives the same layers and the same config.
//!
//! `testdata/images.json` was recorded from a real daemon with `SOURCE_DATE_EPOCH=1` and
//! `rewrite-timestamp=true`, on the busybox image that the registry of these tests has.

use anyhow::{Context as _, Result, bail, ensure};
use kiln_e2e::Scenario;
use kiln_harness::{Archive, Context, Stage};
use serde_json::Value;

pub(crate) const ALL: &[Scenario] = &[Scenario::new(
    "layers_and_configs_of_buildkit",
    layers_and_configs_of_buildkit,
)
.kilnd_only("the images were recorded from a real daemon already")
.new_buildx_only("one client is enough to compare what the daemon makes")];

/// The registry that was there when the images were recorded.
const RECORDED_REGISTRY: &str = "127.0.0.1:5000";

/// Archives were padded to this.
const TAR_RECORD: usize = 20 * 512;

fn layers_and_configs_of_buildkit(stage: &mut Stage<'_>) -> Result<()> {
    let recorded: Value = serde_json::from_str(include_str!("../../testdata/images.json"))?;
    let mut failures = Vec::new();
    for image in recorded["images"].as_array().context("images")? {
        let name = image["name"].as_str().context("a name")?;
        let index = image["context"].as_u64().context("a context")? as usize;
        if let Err(error) = compare(stage, image, &recorded["contexts"][index]) {
            failures.push(format!("{name}: {error:#}"));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn compare(stage: &Stage<'_>, image: &Value, files: &Value) -> Result<()> {
    let dockerfile = image["dockerfile"].as_str().context("a Dockerfile")?;
    let host = stage.bed.registry.host();
    // The Dockerfile wasn't in the recorded context, so it lies elsewhere.
    let beside = Context::new(&dockerfile.replace(RECORDED_REGISTRY, host))?;
    let file = beside.path().join("Dockerfile");
    let context = Context::new("")?;
    context.remove("Dockerfile")?;
    for (path, member) in files.as_object().context("a context")? {
        put(&context, path, member)?;
    }
    let secret = stage.path("secret");
    std::fs::write(&secret, "s3cr3t")?;
    let mut arguments = vec!["--file".to_owned(), file.display().to_string()];
    for id in ["s", "k"] {
        let secret = format!("id={id},src={}", secret.display());
        arguments.extend(["--secret".to_owned(), secret]);
    }
    arguments.extend(["--build-arg".to_owned(), "SOURCE_DATE_EPOCH=1".to_owned()]);
    for option in image["opts"].as_array().into_iter().flatten() {
        arguments.extend(flag(option.as_str().context("an option")?)?);
    }
    let target = stage.path("recorded.tar");
    let output = format!("type=oci,dest={},rewrite-timestamp=true", target.display());
    arguments.extend(["--output".to_owned(), output]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    stage.build(&context, &arguments)?.succeeds()?;
    let archive = Archive::open(&target)?;
    let made = archive.image()?;
    for (key, want) in image["config"].as_object().context("a config")? {
        let got = &made.config[key];
        ensure!(got == want, "{key} is {got}, not {want}");
    }
    Ok(())
}

/// A member as it was recorded: a file, a symbolic link, or a tar with one file.
fn put(context: &Context, path: &str, member: &Value) -> Result<()> {
    if let Some(target) = member["symlink"].as_str() {
        context.link(path, target)?;
        return Ok(());
    }
    if let Some(members) = member["tar"].as_object() {
        let (name, text) = members.iter().next().context("a member")?;
        let text = text.as_str().context("a text")?;
        let text = text
            .strip_suffix(", mode 0600, mtime 1")
            .context("a tar member of a form that isn't known")?;
        context.put(path, archive(name, text))?;
    } else {
        context.put(path, member["data"].as_str().context("data")?)?;
    }
    let mode = member["mode"].as_str().context("a mode")?;
    context.mode(path, u32::from_str_radix(mode, 8)?)?;
    Ok(())
}

/// A tar with one file, of mode 0600 and from the first second of 1970. One image holds the archive
/// itself, so its bytes matter: they are those of Python's `tarfile`.
fn archive(name: &str, text: &str) -> Vec<u8> {
    let mut bytes = vec![0; TAR_RECORD];
    let mut write = |at: usize, field: &str| {
        bytes[at..at + field.len()].copy_from_slice(field.as_bytes());
    };
    write(0, name);
    write(100, "0000600\0");
    write(108, "0000000\0");
    write(116, "0000000\0");
    write(124, &format!("{:011o}\0", text.len()));
    write(136, "00000000001\0");
    write(148, "        0");
    write(257, "ustar\x0000");
    write(512, text);
    let sum: u32 = bytes[..512].iter().map(|&byte| u32::from(byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

/// The flag of buildx for a frontend's option.
fn flag(option: &str) -> Result<Vec<String>> {
    let (key, value) = option.split_once('=').context("an option with a value")?;
    let flag = match key {
        "target" => vec!["--target".to_owned(), value.to_owned()],
        "no-cache" => vec!["--no-cache-filter".to_owned(), value.to_owned()],
        "ulimit" => vec!["--ulimit".to_owned(), value.to_owned()],
        "shm-size" => vec!["--shm-size".to_owned(), value.to_owned()],
        "add-hosts" => vec!["--add-host".to_owned(), value.replace('=', ":")],
        // buildx has no flag for it, and nothing of it stays in the image.
        "hostname" => Vec::new(),
        _ => match key.strip_prefix("build-arg:") {
            Some(name) => vec!["--build-arg".to_owned(), format!("{name}={value}")],
            None => bail!("no flag for {key}"),
        },
    };
    Ok(flag)
}
