//! What Dockerfiles with mistakes give: BuildKit's texts where clients match on them, our own where they
//! say more.

use std::collections::BTreeSet;

use kiln_errdefs::{Detail, details, text};
use serde_json::Value;

use crate::bridge::FakeEngine;

/// Cases in which the frontend has done its part and something else fails.
const NOT_OURS: [&str; 13] = [
    "copy-missing",
    "copy-missing-ignored",
    "copy-outside",
    "copy-multi-nodir",
    "run-exit-3",
    "run-127",
    "run-json-missing",
    "mount-secret-required",
    "mount-ssh-required",
    "bad-user",
    "entitlement",
    "network-host",
    "circular",
];

/// Texts that are our own.
const OWN: [(&str, &str); 9] = [
    (
        "copy-from-unknown",
        "none: failed to resolve source metadata for docker.io/library/none:latest: docker.io/library/none:latest: not found",
    ),
    (
        "mount-from-unknown",
        "q: failed to resolve source metadata for docker.io/library/q:latest: docker.io/library/q:latest: not found",
    ),
    (
        "circular",
        "a: failed to resolve source metadata for docker.io/library/a:latest: docker.io/library/a:latest: not found",
    ),
    (
        "bad-chmod",
        "invalid chmod parameter: 'zz'. invalid syntax: it should be octal, or symbolic such as u=rwX,go=rX",
    ),
    (
        "bad-expansion-syntax",
        "failed to process \"${b\": syntax error: missing '}'",
    ),
    (
        "bad-platform",
        "failed to parse platform foo/bar/baz/qux: \"foo/bar/baz/qux\" is an invalid component of \"foo/bar/baz/qux\": want os[/architecture[/variant]]",
    ),
    (
        "bad-ref",
        "failed to parse stage name \"UPPER//x\": invalid reference format: \"UPPER//x\"",
    ),
    ("mount-bad-type", "unsupported mount type \"foo\""),
    (
        "mount-unknown-key",
        "unexpected key 'foo' in 'foo=1' (did you mean from?)",
    ),
];

fn lines_of(error: &(dyn std::error::Error + 'static)) -> BTreeSet<i64> {
    let sources = details(error)
        .into_iter()
        .filter_map(|detail| match detail {
            Detail::Source(source) => Some(source),
            _ => None,
        });
    let ranges = sources.flat_map(|source| source.ranges);
    ranges
        .filter_map(|range| Some(i64::from(range.start?.line)))
        .collect()
}

#[tokio::test]
async fn mistakes_give_the_texts_that_clients_know() {
    let data = include_str!("../golden/errors.json");
    let cases: Vec<Value> = serde_json::from_str(data).unwrap();
    assert_eq!(cases.len(), 47);
    let mut failures = Vec::new();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let engine = FakeEngine::new(case["dockerfile"].as_str().unwrap().as_bytes());
        if name == "copy-missing-ignored" {
            engine.file("context", ".dockerignore", b"ignored.txt\n");
        }
        let options = case["opts"].as_array().unwrap().iter();
        let options: Vec<&str> = options.map(|option| option.as_str().unwrap()).collect();
        let result = engine.build(&options).await;

        let own = OWN.iter().find(|(own, _)| *own == name);
        let want = match own {
            Some((_, text)) => Some(*text),
            None => case["error"].as_str().filter(|_| !NOT_OURS.contains(&name)),
        };
        let got = result.as_ref().err().map(|error| text(error.as_ref()));
        if got.as_deref() != want {
            failures.push(format!("{name}: {got:?}\n  is not {want:?}"));
        }
        let recorded: BTreeSet<i64> = case["lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_i64().unwrap())
            .collect();
        if let Err(error) = &result {
            let lines = lines_of(error.as_ref());
            if lines != recorded {
                failures.push(format!("{name}: lines {lines:?} are not {recorded:?}"));
            }
        }
        let warnings = engine.warnings.lock().unwrap();
        let warnings: Vec<&str> = warnings.iter().map(|w| w.short.as_str()).collect();
        let recorded = case["warnings"].as_array().unwrap().iter();
        let recorded: Vec<&str> = recorded.map(|w| w.as_str().unwrap()).collect();
        if warnings != recorded {
            failures.push(format!("{name}: {warnings:?}\n  are not {recorded:?}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[tokio::test]
async fn a_near_name_is_suggested() {
    for (dockerfile, want) in [
        ("FROM busybx\n", "busybx (did you mean busybox?)"),
        (
            "FROM scratch AS builder\nFROM scratch\nCOPY --from=bulder a /\n",
            "bulder (did you mean builder?)",
        ),
    ] {
        let engine = FakeEngine::new(dockerfile.as_bytes());
        let error = engine.build(&[]).await.unwrap_err();
        let text = text(error.as_ref());
        assert!(text.starts_with(want), "{text}");
    }
}

#[tokio::test]
async fn cycles_between_stages_are_found() {
    let dockerfile = "FROM scratch AS a\nCOPY --from=b x /\nFROM scratch AS b\nCOPY --from=a x /\n";
    let engine = FakeEngine::new(dockerfile.as_bytes());
    let error = engine.build(&[]).await.unwrap_err();
    assert_eq!(
        text(error.as_ref()),
        "circular dependency detected on stage: a"
    );
    assert_eq!(lines_of(error.as_ref()), BTreeSet::from([2, 4]));
}
