//! Makes the Debian package: the window and tray, the `kiln` command, `kiln-vmd`, the daemon, and the guest image where
//! one was made.
//!
//! ```text
//! /usr/bin/{kiln-desktop,kiln,kiln-vmd,kilnd}
//! /usr/lib/kiln/guest/…
//! /usr/share/applications/dev.kiln.desktop.desktop   opens kiln:// links as well
//! /usr/share/metainfo/dev.kiln.desktop.metainfo.xml  what a software centre shows
//! /usr/share/icons/hicolor/128x128/apps/kiln-desktop.png
//! /usr/share/kiln/desktop.schema.json
//! /usr/share/man/man1/{kiln-desktop,kiln,kiln-vmd,kilnd}.1.gz
//! /usr/share/doc/kiln/{copyright,changelog.gz,guest-packages.lock}
//! /usr/share/lintian/overrides/kiln
//! ```
//! It needs WebKitGTK's development packages, Node and `dpkg-deb`; `cargo xtask test window` installs them. `lintian` has
//! nothing to say about a release package.
//!
//! Invariant: the package holds what this tree builds and nothing that runs at its installation.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo::{KILND, cargo_in};
use crate::{guest, test};

mod documents;
mod manuals;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The programs of one build.
pub(crate) struct Programs {
    pub desktop: PathBuf,
    pub kiln: PathBuf,
    pub vmd: PathBuf,
    pub kilnd: PathBuf,
}

/// Builds the programs beside the daemon, with the UI that is built already; `debug` is faster, for tests.
pub(crate) fn programs(root: &Path, debug: bool, kilnd: PathBuf) -> Result<Programs> {
    let profile = if debug { "debug" } else { "release" };
    // Two workspaces, two target directories, also where the caller names one.
    let build = |directory: &Path, packages: &[&str]| {
        let mut arguments = vec!["build", "--locked", "--target-dir", "target"];
        arguments.extend(packages.iter().flat_map(|name| ["--package", name]));
        if !debug {
            arguments.push("--release");
        }
        run(cargo_in(directory).args(arguments))
    };
    let desktop = root.join("src-tauri");
    build(&desktop, &["kiln-desktop"])?;
    build(root, &["kiln", "kiln-vm"])?;
    let ours = root.join("target").join(profile);
    Ok(Programs {
        desktop: desktop.join("target").join(profile).join("kiln-desktop"),
        kiln: ours.join("kiln"),
        vmd: ours.join("kiln-vmd"),
        kilnd,
    })
}

/// Builds everything and packs it; the package's path. `debug` is for tests: the same package, built faster, with the
/// daemon that `KILN_KILND` names.
pub(crate) fn make(root: &Path, debug: bool) -> Result<PathBuf> {
    test::modules(root)?;
    test::npm(root, &["run", "build"])?;
    let kilnd = match std::env::var_os(KILND) {
        Some(path) if debug => path.into(),
        _ => guest::kilnd(root)?,
    };
    pack(root, &programs(root, debug, kilnd)?, debug)
}

/// Packs what was built.
pub(crate) fn pack(root: &Path, programs: &Programs, debug: bool) -> Result<PathBuf> {
    let tree = root.join("target/deb/tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).context("the last package's files")?;
    }
    for (name, from) in [
        ("kiln-desktop", &programs.desktop),
        ("kiln", &programs.kiln),
        ("kiln-vmd", &programs.vmd),
        ("kilnd", &programs.kilnd),
    ] {
        put(&tree, &format!("usr/bin/{name}"), from, 0o755)?;
    }
    let icon = "usr/share/icons/hicolor/128x128/apps/kiln-desktop.png";
    put(&tree, icon, &root.join("src-tauri/icons/icon.png"), 0o644)?;
    let schema = root.join("src-tauri/controller/desktop.schema.json");
    put(&tree, "usr/share/kiln/desktop.schema.json", &schema, 0o644)?;
    for (path, text) in [
        ("applications/dev.kiln.desktop.desktop", documents::ENTRY),
        (
            "metainfo/dev.kiln.desktop.metainfo.xml",
            documents::METAINFO,
        ),
        ("doc/kiln/copyright", documents::COPYRIGHT),
        ("lintian/overrides/kiln", documents::OVERRIDES),
    ] {
        write(&tree, &format!("usr/share/{path}"), text)?;
    }
    let changelog = documents::changelog(&last_change(root));
    write_compressed(&tree, "usr/share/doc/kiln/changelog", &changelog)?;
    for (name, page) in manuals::pages(programs)? {
        write_compressed(&tree, &format!("usr/share/man/man1/{name}.1"), &page)?;
    }
    let pinned = "usr/share/doc/kiln/guest-packages.lock";
    put(&tree, pinned, &root.join("guest/packages.lock"), 0o644)?;
    let image = guest::directory(root);
    if image.is_dir() {
        for entry in fs::read_dir(&image).context("the guest image")? {
            let entry = entry.context("the guest image")?;
            let to = format!("usr/lib/kiln/guest/{}", entry.file_name().display());
            put(&tree, &to, &entry.path(), 0o644)?;
        }
    } else {
        eprintln!("without the guest image: none was made by `cargo xtask guest`");
    }
    let architecture = architecture();
    write(&tree, "DEBIAN/md5sums", &sums(&tree)?)?;
    write(
        &tree,
        "DEBIAN/control",
        &documents::control(architecture, size(&tree)?),
    )?;
    let package = root.join(format!("target/deb/kiln_{VERSION}_{architecture}.deb"));
    let compression = if debug {
        ["-Zgzip", "-z1"]
    } else {
        ["-Zxz", "-z9"]
    };
    run(Command::new("dpkg-deb")
        .args(["--build", "--root-owner-group"])
        .args(compression)
        .arg(&tree)
        .arg(&package))?;
    Ok(package)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Runs it; an error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let status = command
        .status()
        .with_context(|| format!("can't run {name}"))?;
    ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}

fn put(tree: &Path, to: &str, from: &Path, mode: u32) -> Result<()> {
    let to = tree.join(to);
    fs::create_dir_all(to.parent().unwrap_or(tree))?;
    fs::copy(from, &to).with_context(|| format!("can't copy {}", from.display()))?;
    fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn write(tree: &Path, to: &str, text: &str) -> Result<()> {
    let to = tree.join(to);
    fs::create_dir_all(to.parent().unwrap_or(tree))?;
    fs::write(&to, text).with_context(|| format!("can't write {}", to.display()))
}

fn write_compressed(tree: &Path, to: &str, text: &str) -> Result<()> {
    write(tree, to, text)?;
    run(Command::new("gzip").arg("-9n").arg(tree.join(to)))
}

/// When the sources last changed, as a changelog writes it; without their history, the beginning of time.
fn last_change(root: &Path) -> String {
    let asked = Command::new("git")
        .args(["log", "-1", "--format=%cD"])
        .current_dir(root)
        .output();
    asked
        .ok()
        .filter(|answer| answer.status.success())
        .and_then(|answer| String::from_utf8(answer.stdout).ok())
        .map_or_else(
            || "Thu, 01 Jan 1970 00:00:00 +0000".into(),
            |date| date.trim().to_owned(),
        )
}

/// What `dpkg --verify` compares with.
fn sums(tree: &Path) -> Result<String> {
    let output = Command::new("find")
        .args(["usr", "-type", "f", "-exec", "md5sum", "{}", "+"])
        .current_dir(tree)
        .output()
        .context("can't run find")?;
    ensure!(output.status.success(), "md5sum failed");
    String::from_utf8(output.stdout).context("a file's name isn't UTF-8")
}

/// Kibibytes of all files.
fn size(directory: &Path) -> Result<u64> {
    let mut all = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        all += if metadata.is_dir() {
            size(&entry.path())?
        } else {
            metadata.len().div_ceil(1024)
        };
    }
    Ok(all)
}
