//! Makes the Debian package: the window and tray, the `kiln` command, `kiln-vmd`, the daemon, and the guest image where
//! one was made.
//!
//! ```text
//! /usr/bin/{kiln-desktop,kiln,kiln-vmd,kilnd}
//! /usr/share/applications/dev.kiln.desktop.desktop   opens kiln:// links as well
//! /usr/share/icons/hicolor/128x128/apps/kiln-desktop.png
//! /usr/share/kiln/{desktop.schema.json,guest/…}
//! /usr/share/doc/kiln/copyright
//! ```
//! It needs WebKitGTK's development packages, Node and `dpkg-deb`; `docs/testing.md` names them.
//!
//! Invariant: the package holds what this tree builds and nothing that runs at its installation.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::guest;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const DEPENDS: &str =
    "libc6 (>= 2.36), libwebkit2gtk-4.1-0, libgtk-3-0, libayatana-appindicator3-1";
const ENTRY: &str = "[Desktop Entry]
Type=Application
Name=Kiln
GenericName=Container image builder
Comment=Builds container images, and shows every build
Exec=/usr/bin/kiln-desktop %u
Icon=kiln-desktop
Terminal=false
Categories=Development;
Keywords=docker;container;image;buildkit;dockerfile;
MimeType=x-scheme-handler/kiln;
";

/// Builds the programs and packs them; the package's path. `debug` is for tests: the same package, built faster.
pub(crate) fn make(root: &Path, debug: bool) -> Result<PathBuf> {
    let ui = root.join("ui");
    if !ui.join("node_modules").is_dir() {
        run(Command::new("npm")
            .args(["ci", "--no-progress"])
            .current_dir(&ui))?;
    }
    run(Command::new("npm").args(["run", "build"]).current_dir(&ui))?;
    let profile = if debug { "debug" } else { "release" };
    let build = |directory: &Path, more: &[&str]| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--locked"])
            .args(more)
            .current_dir(directory);
        if !debug {
            cargo.arg("--release");
        }
        run(&mut cargo)
    };
    let desktop = root.join("src-tauri");
    // Two workspaces, two target directories, also where the caller names one.
    build(&desktop, &["--target-dir", "target"])?;
    build(
        root,
        &[
            "--package",
            "kiln",
            "--package",
            "kiln-vm",
            "--target-dir",
            "target",
        ],
    )?;
    let kilnd = match std::env::var_os("KILN_KILND") {
        Some(path) if debug => path.into(),
        _ => guest::kilnd(root)?,
    };
    let ours = root.join("target").join(profile);
    let programs = [
        (
            "kiln-desktop",
            desktop.join("target").join(profile).join("kiln-desktop"),
        ),
        ("kiln", ours.join("kiln")),
        ("kiln-vmd", ours.join("kiln-vmd")),
        ("kilnd", kilnd),
    ];
    let tree = root.join("target/deb/tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).context("the last package's files")?;
    }
    for (name, from) in &programs {
        put(&tree, &format!("usr/bin/{name}"), from, 0o755)?;
    }
    write(
        &tree,
        "usr/share/applications/dev.kiln.desktop.desktop",
        ENTRY,
    )?;
    let icon = "usr/share/icons/hicolor/128x128/apps/kiln-desktop.png";
    put(&tree, icon, &desktop.join("icons/icon.png"), 0o644)?;
    let schema = desktop.join("controller/desktop.schema.json");
    put(&tree, "usr/share/kiln/desktop.schema.json", &schema, 0o644)?;
    put(
        &tree,
        "usr/share/doc/kiln/copyright",
        &root.join("LICENSE"),
        0o644,
    )?;
    let image = guest::directory(root);
    if image.is_dir() {
        for entry in fs::read_dir(&image).context("the guest image")? {
            let entry = entry.context("the guest image")?;
            let to = format!("usr/share/kiln/guest/{}", entry.file_name().display());
            put(&tree, &to, &entry.path(), 0o644)?;
        }
    } else {
        eprintln!("without the guest image: none was made by `cargo xtask guest`");
    }
    let architecture = architecture();
    write(
        &tree,
        "DEBIAN/control",
        &control(architecture, size(&tree)?),
    )?;
    let package = root.join(format!("target/deb/kiln_{VERSION}_{architecture}.deb"));
    let level = if debug { "-z1" } else { "-z9" };
    run(Command::new("dpkg-deb")
        .args(["--build", "--root-owner-group", "-Zxz", level])
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

fn control(architecture: &str, kibibytes: u64) -> String {
    format!(
        "Package: kiln
Version: {VERSION}
Architecture: {architecture}
Maintainer: The Kiln project <kiln@example.org>
Section: devel
Priority: optional
Installed-Size: {kibibytes}
Depends: {DEPENDS}
Recommends: qemu-system-x86, runc
Description: build engine and desktop app for container images
 Kiln builds container images on a laptop: an engine that speaks BuildKit's
 protocol, a machine to run it in, a command and a window with a tray.
"
    )
}

fn run(command: &mut Command) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_file_has_what_dpkg_wants() {
        let text = control("amd64", 12);
        for line in [
            "Package: kiln",
            "Architecture: amd64",
            "Installed-Size: 12",
            "Maintainer: ",
            "Description: ",
        ] {
            assert!(text.lines().any(|l| l.starts_with(line)), "{line}");
        }
        assert!(text.ends_with('\n'));
    }
}
