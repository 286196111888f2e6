//! House rules that neither rustfmt nor clippy knows.
//!
//! | rule | why |
//! |---|---|
//! | a source file opens with `//!` | its purpose and invariants are where the reader starts |
//! | at most 800 lines | a longer file has more than one purpose |
//! | no `mod.rs`; no `util`, `common`, `helpers`, `misc` | a name says what is inside |
//! | no ignored test, no `todo!`, no `#[allow(…)]` without a reason | what is missing fails or says so; silence has a reason |
//! | links between documents lead somewhere | a broken link is a promise that isn't true |
//! | each dependency has its line in `docs/dependencies.md` | it is there for a reason |
//!
//! Invariant: generated files (`generated/`, `bindings*`) and test data (`testdata/`, `golden/`) are exempt.

use std::fs;
use std::path::{Path, PathBuf};

use crate::finding::{Finding, line_where};
use crate::workspace;

const MAX_LINES: usize = 800;
const MEANINGLESS: [&str; 5] = ["util", "utils", "common", "helpers", "misc"];
const REASONS: &str = "docs/dependencies.md";

/// Checks every file that git knows or would add.
pub(crate) fn check(files: &[PathBuf]) -> Vec<Finding> {
    let root = workspace::root();
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| !is_exempt(file)) {
        let extension = file.extension().and_then(|extension| extension.to_str());
        if !matches!(extension, Some("rs" | "ts" | "svelte" | "md")) {
            continue;
        }
        let Ok(text) = fs::read_to_string(root.join(file)) else {
            continue;
        };
        match extension {
            Some("rs") => findings.extend(rust_file(file, &text)),
            Some("md") => findings.extend(links(file, &text, |target| root.join(target).exists())),
            _ => findings.extend(length(file, &text)),
        }
    }
    findings
}

/// Checks that the reason of each dependency of the workspace is written down.
pub(crate) fn dependencies_have_reasons(manifest: &str, reasons: &str) -> Vec<Finding> {
    let table: toml::Table = match manifest.parse() {
        Ok(table) => table,
        Err(error) => return vec![Finding::new("Cargo.toml", 1, error.to_string())],
    };
    let dependencies = table["workspace"]
        .get("dependencies")
        .and_then(toml::Value::as_table);
    dependencies
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with("kiln") && !reasons.contains(&format!("`{name}`")))
        .map(|name| {
            let line = line_where(manifest, |line| line.starts_with(&format!("{name} ")));
            Finding::new(
                "Cargo.toml",
                line,
                format!("`{name}` has no line in {REASONS}"),
            )
        })
        .collect()
}

fn is_exempt(file: &Path) -> bool {
    file.iter().filter_map(|part| part.to_str()).any(|part| {
        part.starts_with("bindings") || ["generated", "testdata", "golden"].contains(&part)
    })
}

fn length(file: &Path, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    (lines > MAX_LINES).then(|| {
        Finding::new(
            file,
            MAX_LINES,
            format!("{lines} lines; {MAX_LINES} is the limit"),
        )
    })
}

fn rust_file(file: &Path, text: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = length(file, text).into_iter().collect();
    let first = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    if !first.starts_with("//!") {
        findings.push(Finding::new(
            file,
            1,
            "open the file with `//!`: its purpose, its invariants",
        ));
    }
    let stem = file
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    if stem == "mod" {
        findings.push(Finding::new(
            file,
            1,
            "name it after its directory, beside it",
        ));
    }
    if MEANINGLESS.contains(&stem) {
        findings.push(Finding::new(
            file,
            1,
            format!("`{stem}` says nothing about what is inside"),
        ));
    }
    for (index, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        for (pattern, message) in FORBIDDEN {
            if code.starts_with(pattern) && !has_reason(text, index) {
                findings.push(Finding::new(file, index + 1, *message));
            }
        }
    }
    findings
}

/// Whether the attribute that starts at `index` carries `reason = "…"`.
fn has_reason(text: &str, index: usize) -> bool {
    for line in text.lines().skip(index).take(12) {
        if line.contains("reason = \"") {
            return true;
        }
        if line.trim_end().ends_with(")]") {
            break;
        }
    }
    false
}

/// Starts of lines that don't belong here. They are compared with the start only, so that this table and
/// strings in other files don't count.
const FORBIDDEN: &[(&str, &str)] = &[
    (
        "#[ignore",
        "a test that doesn't run proves nothing: make it run or remove it",
    ),
    ("todo!(", "what is missing says so in an error"),
    ("unimplemented!(", "what is missing says so in an error"),
    (
        "#[allow(",
        "#[expect(…, reason = \"…\")] says why and goes away with its cause",
    ),
    (
        "#![allow(",
        "#![expect(…, reason = \"…\")] says why and goes away with its cause",
    ),
];

/// Checks the relative links of a Markdown file.
fn links(file: &Path, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let directory = file.parent().unwrap_or(Path::new(""));
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for target in line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            if !elsewhere && !exists(&directory.join(path)) {
                findings.push(Finding::new(
                    file,
                    index + 1,
                    format!("{path} doesn't exist"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::render;

    #[test]
    fn rules_name_the_line() {
        let long = format!("//! x\n{}", "\n".repeat(MAX_LINES));
        let cases: [(&str, &str, &[usize]); 9] = [
            ("a/x.rs", "//! Good.\nfn f() {}\n", &[]),
            ("a/x.rs", "use std::fs;\n", &[1]),
            ("a/x.rs", &long, &[800]),
            ("a/mod.rs", "//! Why.\n", &[1]),
            ("a/util.rs", "//! Why.\n", &[1]),
            ("a/x.rs", "//! Why.\n\n    #[ignore]\n", &[3]),
            ("a/x.rs", "//! Why.\n#[allow(dead_code)]\n", &[2]),
            (
                "a/x.rs",
                "//! Why.\n#[allow(\n  dead_code,\n  reason = \"generated\")]\n",
                &[],
            ),
            ("a/x.rs", "//! Why.\n// #[allow(dead_code)]\n", &[]),
        ];
        for (name, text, lines) in cases {
            let found = render(&rust_file(Path::new(name), text));
            let expected: Vec<String> =
                lines.iter().map(|line| format!("{name}:{line}:")).collect();
            assert_eq!(found.lines().count(), expected.len(), "{found}");
            assert!(
                expected.iter().all(|place| found.contains(place)),
                "{found}"
            );
        }
    }

    #[test]
    fn links_are_followed_from_the_file() {
        let text = "[a](b.md) [c](https://x) [d](#e)\n```\n[f](g.md)\n```\n[h](../i.md#j)\n";
        let found = links(Path::new("docs/x.md"), text, |path| {
            path == Path::new("docs/b.md")
        });
        assert_eq!(render(&found), "docs/x.md:5: ../i.md doesn't exist");
    }

    #[test]
    fn a_dependency_without_a_reason_is_named() {
        let manifest =
            "[workspace]\n[workspace.dependencies]\nkiln-ids = \"1\"\nbytes = \"1\"\nhex = \"1\"\n";
        let found = dependencies_have_reasons(manifest, "| `bytes` | buffers |");
        assert_eq!(
            render(&found),
            "Cargo.toml:5: `hex` has no line in docs/dependencies.md"
        );
    }

    #[test]
    fn the_tree_is_tidy() {
        let files = workspace::files().unwrap();
        assert!(files.len() > 50, "git lists the tree");
        let findings = check(&files);
        assert!(findings.is_empty(), "{}", render(&findings));
    }

    #[test]
    fn every_dependency_has_its_reason() {
        let read = |name: &str| fs::read_to_string(workspace::root().join(name)).unwrap();
        let findings = dependencies_have_reasons(&read("Cargo.toml"), &read(REASONS));
        assert!(findings.is_empty(), "{}", render(&findings));
    }
}
