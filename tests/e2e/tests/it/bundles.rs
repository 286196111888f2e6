//! Bundles of build records (`.dockerbuild`): what `docker buildx history export` makes of what the daemon gives it,
//! and what `history import` makes of that.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use kiln_e2e::Scenario;
use kiln_harness::{Context, Stage};
use kiln_oci::Digest;
use serde_json::Value;

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("records_go_into_bundles", records_go_into_bundles)
        .new_buildx_only("0.13 has no history command")
        // The history of other scenarios would be in the way.
        .fresh_moby(),
    Scenario::new("bundles_are_imported", bundles_are_imported)
        .new_buildx_only("0.13 has no history command"),
];

const RECORD: &str = "application/vnd.buildkit.historyrecord.v0";
const TRACE: &str = "application/vnd.buildkit.otlp.json.v0";
const LOG: &str = "application/vnd.buildkit.status.v0";
const STATEMENT: &str = "application/vnd.in-toto+json";
const ERROR: &str = "application/vnd.googeapis.google.rpc.status+proto";
const RESULT: &str = "application/json";

/// The blobs of an archive, each of which has the digest that it is named by.
fn blobs(bundle: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let plain = std::process::Command::new("gzip")
        .arg("-dc")
        .arg(bundle)
        .output()?;
    ensure!(plain.status.success(), "it isn't compressed");
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(plain.stdout.as_slice()).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if let Some(hex) = path.strip_prefix("blobs/sha256/")
            && !hex.is_empty()
        {
            let digest = format!("sha256:{hex}");
            ensure!(Digest::of(&bytes).to_string() == digest, "{digest}");
            files.insert(digest, bytes);
        } else {
            files.insert(path, bytes);
        }
    }
    Ok(files)
}

/// What a descriptor stands for.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Result<&'a [u8]> {
    let digest = descriptor["digest"].as_str().context("a digest")?;
    let bytes = files.get(digest).with_context(|| digest.to_owned())?;
    ensure!(descriptor["size"] == bytes.len(), "{descriptor}");
    Ok(bytes)
}

/// The record of the one build of a bundle, and the types of what comes with it.
fn record(bundle: &Path) -> Result<(Value, Vec<String>)> {
    let files = blobs(bundle)?;
    let index: Value = serde_json::from_slice(files.get("index.json").context("an index")?)?;
    let manifests = index["manifests"].as_array().context("manifests")?;
    ensure!(manifests.len() == 1, "{index}");
    let manifest: Value = serde_json::from_slice(blob(&files, &manifests[0])?)?;
    ensure!(manifest["config"]["mediaType"] == RECORD, "{manifest}");
    let record: Value = serde_json::from_slice(blob(&files, &manifest["config"])?)?;
    let mut types = Vec::new();
    for layer in manifest["layers"].as_array().context("layers")? {
        blob(&files, layer)?;
        types.push(layer["mediaType"].as_str().context("a type")?.to_owned());
    }
    types.sort();
    Ok((record, types))
}

fn export(stage: &Stage<'_>, name: &str) -> Result<std::path::PathBuf> {
    let bundle = stage.path(&format!("{name}.dockerbuild"));
    let to = bundle.display().to_string();
    let arguments = ["history", "export", "--finalize", "-o", &to];
    stage.client.buildx(arguments)?.succeeds()?;
    Ok(bundle)
}

fn records_go_into_bundles(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN echo bundled > /f\n")?;
    let to = stage.path("image.tar").display().to_string();
    let output = format!("type=oci,dest={to}");
    let arguments = ["--provenance", "mode=min", "-o", &output];
    stage.build(&context, &arguments)?.succeeds()?;
    let (good, types) = record(&export(stage, "good")?)?;
    // The image itself went to the client.
    ensure!(types == [RESULT, TRACE, LOG, STATEMENT], "{types:?}");
    for key in [
        "Ref",
        "FrontendAttrs",
        "Exporters",
        "CreatedAt",
        "CompletedAt",
        "ExporterResponse",
        "Result",
        "Generation",
        "logs",
        "trace",
        "numTotalSteps",
        "numCompletedSteps",
        "DefaultPlatform",
        "localState",
    ] {
        ensure!(!good[key].is_null(), "{key} in {good:#}");
    }
    ensure!(good["error"].is_null(), "{good:#}");

    let context = Context::new("FROM busybox\nRUN echo bundled; exit 9\n")?;
    stage.build(&context, &[])?.fails()?;
    let (bad, types) = record(&export(stage, "bad")?)?;
    ensure!(types == [TRACE, LOG, ERROR], "{types:?}");
    let words = bad["error"]["message"].as_str().unwrap_or_default();
    ensure!(words.contains("exit code: 9"), "{bad:#}");
    ensure!(!bad["externalError"].is_null(), "{bad:#}");
    Ok(())
}

/// Stands in for Docker's window, which takes bundles at a socket below the user's home.
fn bundles_are_imported(stage: &mut Stage<'_>) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN echo imported\n")?;
    stage.build(&context, &[])?.succeeds()?;
    let bundle = export(stage, "whole")?;
    let from = bundle.display().to_string();
    let mut command = stage.client.command(["history", "import", "-f", &from]);
    let home = stage.path("home");
    command.env("HOME", &home);
    let socket = home.join(".docker/desktop/docker-desktop-build.sock");
    std::fs::create_dir_all(socket.parent().context("a parent")?)?;
    let listener = UnixListener::bind(&socket)?;
    let window = std::thread::spawn(move || -> Result<Vec<u8>> {
        let (stream, _) = listener.accept()?;
        let mut reader = BufReader::new(&stream);
        let mut chunked = false;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            chunked |= line
                .to_ascii_lowercase()
                .starts_with("transfer-encoding: chunked");
            if line.trim_end().is_empty() {
                break;
            }
        }
        ensure!(chunked, "the bundle comes in chunks");
        let mut bytes = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16)?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..size]);
        }
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[\"abc123\"]";
        (&stream).write_all(answer.as_bytes())?;
        Ok(bytes)
    });
    // There is no desktop here to open what was imported on.
    let ended = kiln_harness::Run::of(&mut command)?;
    ensure!(
        ended
            .transcript()
            .contains("dashboard/build/.imported/_/abc123"),
        "{}",
        ended.transcript()
    );
    let sent = window.join().ok().context("the window")??;
    ensure!(sent == std::fs::read(&bundle)?, "another bundle");
    Ok(())
}
