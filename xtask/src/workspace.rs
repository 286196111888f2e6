//! The workspace as `cargo metadata` and `git` see it.
//!
//! Invariant: everything here is read once and never written; paths are relative to the workspace root.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo::cargo_in;

/// The root directory of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// One package of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// The package's name.
    pub name: String,
    /// Its directory, relative to the root.
    pub directory: PathBuf,
    /// `package.metadata.kiln.layer`, which only crates of the product have.
    pub layer: Option<u64>,
    /// Names of the packages in its dependency tables of every kind.
    pub dependencies: Vec<String>,
}

/// One package that the workspace builds and doesn't own.
#[derive(Debug, Clone)]
pub(crate) struct Foreign {
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SPDX expression in its manifest.
    pub license: Option<String>,
    /// Where cargo has it from; `None` for a path.
    pub source: Option<String>,
}

/// All packages that a build of the workspace on Linux involves.
#[derive(Debug)]
pub(crate) struct Packages {
    /// The workspace's own.
    pub members: Vec<Member>,
    /// Everybody else's.
    pub foreign: Vec<Foreign>,
}

/// Asks cargo for the resolved packages.
pub(crate) fn packages() -> Result<Packages> {
    let root = root();
    let output = cargo_in(&root)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .output()
        .context("cargo metadata doesn't start")?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let own: Vec<&str> = strings(&metadata["workspace_members"]);
    let built: Vec<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let mut packages = Packages {
        members: Vec::new(),
        foreign: Vec::new(),
    };
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let id = package["id"].as_str().unwrap_or_default();
        let text = |key: &str| package[key].as_str().map(str::to_owned);
        if own.contains(&id) {
            let manifest = PathBuf::from(text("manifest_path").unwrap_or_default());
            let directory = manifest.parent().unwrap_or(&root);
            packages.members.push(Member {
                name: text("name").unwrap_or_default(),
                directory: directory
                    .strip_prefix(&root)
                    .unwrap_or(directory)
                    .to_path_buf(),
                layer: package["metadata"]["kiln"]["layer"].as_u64(),
                dependencies: package["dependencies"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
                    .collect(),
            });
        } else if built.contains(&id) {
            packages.foreign.push(Foreign {
                name: text("name").unwrap_or_default(),
                version: text("version").unwrap_or_default(),
                license: text("license"),
                source: text("source"),
            });
        }
    }
    Ok(packages)
}

/// The files that git tracks or would add, relative to the root and sorted.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let root = root();
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(&root)
        .output()
        .context("git doesn't start")?;
    if !output.status.success() {
        bail!(
            "git ls-files failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let mut files: Vec<PathBuf> = String::from_utf8(output.stdout)?
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|name| root.join(name).is_file())
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}
