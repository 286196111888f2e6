//! The layers of the product: an arrow may only go down.
//!
//! Each crate of the product has its layer in `[package.metadata.kiln] layer`. A dependency of any kind must
//! be in a lower layer than its user; crates of one layer don't know each other. The programs on the host
//! (`cli/`, `src-tauri/`, `vm/`) reach the engine's crates through `client`, `link`, `config` and `proto` only, and the user's passwords through `keyring`. Tools
//! (`tests/`, `benches/`, `xtask/`) have no layer, and nothing in the product depends on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::finding::{Finding, line_where};
use crate::workspace::{self, Member};

/// Where people look for a crate.
pub(crate) const MAP: &str = "docs/architecture.md";

/// What a program on the host may name directly: these three, and the types in their interfaces.
const HOST_MAY_USE: [&str; 8] = [
    "kiln-client",
    "kiln-link",
    "kiln-config",
    "kiln-errdefs",
    "kiln-ids",
    "kiln-keyring",
    "kiln-oci",
    "kiln-proto",
];

/// Checks every edge between crates of the workspace.
pub(crate) fn check(members: &[Member]) -> Vec<Finding> {
    let by_name: BTreeMap<&str, &Member> = members
        .iter()
        .map(|member| (member.name.as_str(), member))
        .collect();
    let mut findings = Vec::new();
    for member in members {
        let manifest = member.directory.join("Cargo.toml");
        let text = fs::read_to_string(workspace::root().join(&manifest)).unwrap_or_default();
        findings.extend(own_rules(member, &manifest, &text));
        for name in &member.dependencies {
            let Some(dependency) = by_name.get(name.as_str()) else {
                continue;
            };
            if let Some(message) = forbidden(member, dependency) {
                let line = line_where(&text, |line| line.trim_start().starts_with(name));
                findings.push(Finding::new(&manifest, line, message));
            }
        }
    }
    findings
}

/// Checks that the code map names every crate.
pub(crate) fn check_map(members: &[Member], map: &str) -> Vec<Finding> {
    members
        .iter()
        .filter(|member| !map.contains(&format!("`{}`", member.directory.display())))
        .map(|member| {
            let message = format!("the code map doesn't name `{}`", member.directory.display());
            Finding::new(MAP, 1, message)
        })
        .collect()
}

fn own_rules(member: &Member, manifest: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let at = |needle: &str| line_where(text, |line| line.trim_start().starts_with(needle));
    if let Ok(crate_name) = member.directory.strip_prefix("agent") {
        let expected = format!("kiln-{}", crate_name.display());
        if member.name != expected && member.name != crate_name.to_string_lossy() {
            let message = format!("the package of this directory is called {expected}");
            findings.push(Finding::new(manifest, at("name"), message));
        }
        if member.layer.is_none() {
            let message = "a crate of the product says its layer in [package.metadata.kiln]";
            findings.push(Finding::new(manifest, 1, message));
        }
    }
    // `sys` is the one crate with unsafe code and repeats the lints without that ban.
    if member.name != "kiln-sys" && !text.contains("[lints]\nworkspace = true") {
        findings.push(Finding::new(
            manifest,
            at("[lints"),
            "take the lints of the workspace",
        ));
    }
    if !text.contains("publish = false") {
        findings.push(Finding::new(
            manifest,
            1,
            "nothing here is published: publish = false",
        ));
    }
    findings
}

/// Why `user` must not depend on `dependency`, if so.
fn forbidden(user: &Member, dependency: &Member) -> Option<String> {
    let (from, to) = (&user.name, &dependency.name);
    match (user.layer, dependency.layer) {
        (Some(upper), Some(lower)) if lower < upper => None,
        (Some(upper), Some(lower)) => Some(format!(
            "{from} (layer {upper}) must not depend on {to} (layer {lower}): arrows only go down"
        )),
        (Some(_), None) => Some(format!("{from} is product and {to} is not")),
        (None, _) if is_host_program(user) && !HOST_MAY_USE.contains(&to.as_str()) => {
            Some(format!(
                "{from} runs on the host and reaches the engine through {} only, not {to}",
                HOST_MAY_USE.join(", ")
            ))
        }
        (None, _) => None,
    }
}

fn is_host_program(member: &Member) -> bool {
    ["cli", "src-tauri", "vm"]
        .iter()
        .any(|directory| member.directory.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn member(name: &str, directory: &str, layer: Option<u64>) -> Member {
        let directory = PathBuf::from(directory);
        Member {
            name: name.into(),
            directory,
            layer,
            dependencies: Vec::new(),
        }
    }

    #[test]
    fn arrows_only_go_down() {
        let low = member("kiln-ids", "agent/ids", Some(0));
        let peer = member("kiln-oci", "agent/oci", Some(0));
        let high = member("kiln-ops", "agent/ops", Some(5));
        let tool = member("kiln-harness", "tests/harness", None);
        let cli = member("kiln-cli", "cli", None);
        let client = member("kiln-client", "agent/client", Some(2));
        let cases = [
            (&high, &low, true),
            (&low, &high, false),
            (&low, &peer, false),
            (&high, &tool, false),
            (&tool, &high, true),
            (&cli, &high, false),
            (&cli, &client, true),
        ];
        for (user, dependency, allowed) in cases {
            let verdict = forbidden(user, dependency);
            assert_eq!(
                verdict.is_none(),
                allowed,
                "{} -> {}",
                user.name,
                dependency.name
            );
        }
    }

    #[test]
    fn the_code_map_is_complete() {
        let map = fs::read_to_string(workspace::root().join(MAP)).unwrap();
        let findings = check_map(&workspace::packages().unwrap().members, &map);
        assert!(findings.is_empty(), "{}", crate::finding::render(&findings));
    }

    #[test]
    fn the_workspace_keeps_its_layers() {
        let packages = workspace::packages().unwrap();
        assert!(
            packages.members.len() > 30,
            "cargo metadata lists the workspace"
        );
        let findings = check(&packages.members);
        assert!(findings.is_empty(), "{}", crate::finding::render(&findings));
    }
}
