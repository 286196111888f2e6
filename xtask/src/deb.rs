//! Makes the Debian package: the window and tray, the `kiln` command, `kiln-vmd`, the daemon, and the guest image where
//! one was made.
//!
//! ```text
//! /usr/bin/{kiln-desktop,kiln,kiln-vmd,kilnd}
//! /usr/share/applications/dev.kiln.desktop.desktop   opens kiln:// links as well
//! /usr/share/icons/hicolor/128x128/apps/kiln-desktop.png
//! /usr/share/kiln/{desktop.schema.json,guest/…}
//! /usr/share/doc/kiln/{copyright,changelog.gz,guest-packages.lock}
//! ```
//! It needs WebKitGTK's development packages, Node and `dpkg-deb`; `cargo xtask test window` installs them.
//!
//! Invariant: the package holds what this tree builds and nothing that runs at its installation.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo::{KILND, cargo_in};
use crate::{guest, test};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const DEPENDS: &str =
    "libc6 (>= 2.36), libwebkit2gtk-4.1-0, libgtk-3-0, libayatana-appindicator3-1";
const MAINTAINER: &str = "The Kiln project <kiln@example.org>";
const COPYRIGHT: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Kiln
Comment: The programs contain Rust crates under permissive licenses; the guest image is made of unchanged Debian packages,
 which guest-packages.lock beside this file names, and whose sources Debian has.

Files: *
Copyright: The Kiln project
License: Apache-2.0
 On Debian systems the text of this license is in /usr/share/common-licenses/Apache-2.0.
";
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
    write(
        &tree,
        "usr/share/applications/dev.kiln.desktop.desktop",
        ENTRY,
    )?;
    let icon = "usr/share/icons/hicolor/128x128/apps/kiln-desktop.png";
    put(&tree, icon, &root.join("src-tauri/icons/icon.png"), 0o644)?;
    let schema = root.join("src-tauri/controller/desktop.schema.json");
    put(&tree, "usr/share/kiln/desktop.schema.json", &schema, 0o644)?;
    write(&tree, "usr/share/doc/kiln/copyright", COPYRIGHT)?;
    let changes = format!(
        "kiln ({VERSION}) unstable; urgency=medium\n\n  * See the history of the sources.\n\n -- {MAINTAINER}  Thu, 01 Jan 1970 00:00:00 +0000\n"
    );
    write(&tree, "usr/share/doc/kiln/changelog", &changes)?;
    run(Command::new("gzip")
        .args(["-9n"])
        .arg(tree.join("usr/share/doc/kiln/changelog")))?;
    let pinned = "usr/share/doc/kiln/guest-packages.lock";
    put(&tree, pinned, &root.join("guest/packages.lock"), 0o644)?;
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
    write(&tree, "DEBIAN/md5sums", &sums(&tree)?)?;
    write(
        &tree,
        "DEBIAN/control",
        &control(architecture, size(&tree)?),
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

fn control(architecture: &str, kibibytes: u64) -> String {
    format!(
        "Package: kiln
Version: {VERSION}
Architecture: {architecture}
Maintainer: {MAINTAINER}
Section: devel
Priority: optional
Installed-Size: {kibibytes}
Depends: {DEPENDS}
Recommends: qemu-system-x86, runc
Suggests: golang-docker-credential-helpers
Description: build engine and desktop app for container images
 Kiln builds container images on a laptop: an engine that speaks BuildKit's
 protocol, a machine to run it in, a command and a window with a tray.
"
    )
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
