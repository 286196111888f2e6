//! Dockerfiles that fail, and what a current `buildkitd` says of each: the same words and the same lines.
//!
//! `testdata/errors.json` was recorded from a real daemon, newer than the one in Debian. Cases whose words depend on
//! the network there are left out, and so is the one where Kiln says more.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use kiln_client::{Address, Attachments, Client, Error, SolveOptions};
use kiln_e2e::Scenario;
use kiln_errdefs::Detail;
use kiln_harness::{Context, Stage};
use serde_json::Value;

pub(crate) const ALL: &[Scenario] = &[Scenario::new(
    "errors_in_the_words_of_buildkit",
    errors_in_the_words_of_buildkit,
)
.kilnd_only("recorded from a newer daemon than the one at hand")];

const RECORDED_REGISTRY: &str = "127.0.0.1:5000";
const LEFT_OUT: [(&str, &str); 9] = [
    (
        "copy-from-unknown",
        "names the resolver of the recording machine",
    ),
    (
        "mount-from-unknown",
        "names the resolver of the recording machine",
    ),
    ("circular", "names the resolver of the recording machine"),
    ("copy-missing-ignored", "Kiln names the ignore file too"),
    ("bad-chmod", "Kiln says what a mode looks like"),
    (
        "bad-expansion-syntax",
        "the real one prints a zero byte; Kiln says that the brace is missing",
    ),
    ("bad-platform", "Kiln says what a platform looks like"),
    ("missing-image", "Kiln says which registry was asked"),
    ("bad-ref", "Kiln quotes the reference"),
];

/// What went wrong, as far as it can be compared.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    message: Option<String>,
    lines: BTreeSet<i32>,
}

fn errors_in_the_words_of_buildkit(stage: &mut Stage<'_>) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/errors.json");
    let cases: Value = serde_json::from_slice(&fs::read(path)?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let address = Address::Unix(stage.engine.socket().to_path_buf());
    let client = runtime.block_on(Client::connect(&address))?;
    let mut differences = Vec::new();
    for case in cases.as_array().context("a list")? {
        let name = case["name"].as_str().context("a name")?;
        if LEFT_OUT.iter().any(|(left_out, _)| *left_out == name) {
            continue;
        }
        let expected = recorded(case["stderr"].as_str().unwrap_or_default());
        let found = runtime.block_on(build(&client, stage, case))?;
        if expected != found {
            differences.push(format!(
                "{name}\n  expected {expected:?}\n  found    {found:?}"
            ));
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

async fn build(client: &Client, stage: &Stage<'_>, case: &Value) -> Result<Outcome> {
    let host = stage.bed.registry.host();
    let dockerfile = case["dockerfile"]
        .as_str()
        .unwrap_or_default()
        .replace(RECORDED_REGISTRY, host);
    let context = Context::new(&dockerfile)?;
    context.put("a.txt", "a")?.put("b.txt", "b")?;
    let mut options = SolveOptions {
        frontend: "dockerfile.v0".to_owned(),
        ..SolveOptions::default()
    };
    for option in case["opts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        let (key, value) = option.split_once('=').context("an option")?;
        options
            .frontend_attrs
            .insert(key.to_owned(), value.to_owned());
    }
    let attachments = Attachments {
        dirs: ["context", "dockerfile"]
            .map(|name| (name.to_owned(), context.path().to_path_buf()))
            .into(),
        ..Attachments::default()
    };
    match client.solve(options, attachments, |_| {}).await {
        Ok(_) => Ok(Outcome {
            message: None,
            lines: BTreeSet::new(),
        }),
        Err(Error::Status(status)) => {
            let mut lines = BTreeSet::new();
            for detail in kiln_errdefs::details_of_status(&status) {
                if let Detail::Source(source) = detail {
                    for range in source.ranges {
                        let (start, end) = (
                            range.start.unwrap_or_default(),
                            range.end.unwrap_or_default(),
                        );
                        lines.extend(start.line..=end.line);
                    }
                }
            }
            let message = status.message().replace(host, RECORDED_REGISTRY);
            Ok(Outcome {
                message: Some(without_reference(&message)),
                lines,
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// The error and the marked lines in what `buildctl` printed.
fn recorded(printed: &str) -> Outcome {
    let message = printed
        .lines()
        .find_map(|line| line.strip_prefix("error: failed to solve: "));
    let marked = printed
        .lines()
        .filter_map(|line| line.split_once("| >>>")?.0.trim().parse().ok());
    Outcome {
        message: message.map(without_reference),
        lines: marked.collect(),
    }
}

/// Names of cache records differ from run to run.
fn without_reference(message: &str) -> String {
    let Some((before, rest)) = message.split_once("checksum of ref ") else {
        return message.to_owned();
    };
    let after = rest.split_once(": ").map_or("", |(_, after)| after);
    format!("{before}checksum of ref R: {after}")
}
