//! The base image that the guest carries, `busybox`, as an OCI layout; and the same program for the guest's shell.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kiln_oci::Digest;
use serde_json::{Value, json};

use super::cpio::{Entry, Tree};
use super::packages::Packages;
use super::{library, loader};

/// Where the layout is in the guest.
const LAYOUT: &str = "usr/share/kiln/base";
const NAME: &str = "docker.io/library/busybox:latest";
/// The image's age is no fact of its making.
const CREATED: &str = "2023-06-10T00:00:00Z";
const LIBRARIES: [&str; 2] = ["libc.so.6", "libresolv.so.2"];

/// Adds the image's layout to the guest's tree.
pub(super) fn add_image(tree: &mut Tree, packages: &Packages) -> Result<()> {
    let layer = layer(packages)?;
    let config = serde_json::to_vec(&json!({
        "created": CREATED,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["sh"],
        },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer).to_string()] },
        "history": [{ "created": CREATED, "created_by": "busybox of Debian" }],
    }))?;
    let descriptor = |kind: &str, bytes: &[u8]| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": Digest::of(bytes).to_string(),
            "size": bytes.len(),
        })
    };
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.v1.tar", &layer)],
    }))?;
    let mut named: Value = descriptor("manifest.v1+json", &manifest);
    named["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    named["annotations"] = json!({ "org.opencontainers.image.ref.name": NAME });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [named],
    }))?;
    let mut add = |name: &str, bytes: Vec<u8>| {
        tree.add(&format!("{LAYOUT}/{name}"), Entry::File(0o644, bytes))
    };
    for blob in [layer, config, manifest] {
        add(&format!("blobs/sha256/{}", Digest::of(&blob).hex()), blob)?;
    }
    add("index.json", index)?;
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())
}

/// Adds busybox to the guest itself, for `kiln shell`.
pub(super) fn add_shell(tree: &mut Tree, packages: &Packages) -> Result<()> {
    for (path, entry) in programs(packages)? {
        tree.add(&path, entry)?;
    }
    Ok(())
}

/// `bin/busybox` and its names.
fn programs(packages: &Packages) -> Result<Vec<(String, Entry)>> {
    let program = packages.directory("busybox")?.join("bin/busybox");
    let mut entries = vec![(
        "bin/busybox".to_owned(),
        Entry::File(0o755, std::fs::read(&program)?),
    )];
    for name in applets(&program)? {
        let target = "/bin/busybox".to_owned();
        entries.push((format!("bin/{name}"), Entry::Link(target)));
    }
    Ok(entries)
}

/// The programs that busybox is: it says so itself.
fn applets(program: &Path) -> Result<Vec<String>> {
    let output = Command::new(program)
        .arg("--list")
        .output()
        .with_context(|| program.display().to_string())?;
    ensure!(output.status.success(), "busybox --list failed");
    let mut names: Vec<String> = String::from_utf8(output.stdout)?
        .lines()
        .filter(|name| !name.is_empty() && *name != "busybox")
        .map(str::to_owned)
        .collect();
    names.sort();
    Ok(names)
}

fn layer(packages: &Packages) -> Result<Vec<u8>> {
    let mut tree = Tree::default();
    for (path, entry) in programs(packages)? {
        tree.add(&path, entry)?;
    }
    for name in LIBRARIES {
        tree.add(
            &format!("lib/x86_64-linux-gnu/{name}"),
            Entry::File(0o755, library(packages, "libc6", name)?),
        )?;
    }
    tree.add(
        "lib64/ld-linux-x86-64.so.2",
        Entry::File(0o755, loader(packages)?),
    )?;
    for (path, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        ),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ] {
        tree.add(path, Entry::File(0o644, text.as_bytes().to_vec()))?;
    }
    for name in [
        "dev", "home", "proc", "root", "sys", "usr/bin", "usr/sbin", "var",
    ] {
        tree.add(name, Entry::Directory)?;
    }
    let mut archive = tar::Builder::new(Vec::new());
    for (path, entry) in tree.entries() {
        let mut header = tar::Header::new_ustar();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        match entry {
            Entry::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                archive.append_data(&mut header, format!("{path}/"), &[][..])?;
            }
            Entry::File(mode, bytes) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(*mode);
                header.set_size(bytes.len() as u64);
                archive.append_data(&mut header, path, bytes.as_slice())?;
            }
            Entry::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                archive.append_link(&mut header, path, target)?;
            }
        }
    }
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    header.set_mtime(0);
    archive.append_data(&mut header, "tmp/", &[][..])?;
    Ok(archive.into_inner()?)
}
