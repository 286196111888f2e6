//! The files of a small Debian, for a base image that nobody has to download as an image.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{apt, directory, on_path};

/// What a mirror that is a snapshot needs: its lists are older than they want to be.
const APT_SETTINGS: &str =
    "Acquire::Check-Valid-Until \"false\";\nAcquire::Check-Date \"false\";\n";

/// A tar of the machine's own release of Debian, made once with `debootstrap` from the machine's own mirror.
pub fn debian_rootfs() -> Result<PathBuf> {
    let suite = release()?;
    let root = directory()?;
    let archive = root.join(format!("rootfs-{suite}.tar"));
    if archive.is_file() {
        return Ok(archive);
    }
    fs::create_dir_all(&root)?;
    let files = root.join(format!("rootfs-{suite}.partial"));
    if files.exists() {
        fs::remove_dir_all(&files)?;
    }
    let log = root.join("debootstrap.log");
    let output = File::create(&log)?;
    let status = Command::new(on_path("debootstrap")?)
        .args(["--variant=minbase", &suite])
        .arg(&files)
        .arg(apt::machines_mirror()?)
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()?;
    if !status.success() {
        bail!(
            "debootstrap failed ({status}); {} tells more",
            log.display()
        );
    }
    fs::write(files.join("etc/apt/apt.conf.d/99snapshot"), APT_SETTINGS)?;
    for name in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        clear(&files.join(name))?;
    }
    let partial = archive.with_extension("tar.partial");
    let status = Command::new("tar")
        .args(["--numeric-owner", "-C"])
        .arg(&files)
        .arg("-cf")
        .arg(&partial)
        .arg(".")
        .status()?;
    if !status.success() {
        bail!("tar failed ({status})");
    }
    fs::rename(&partial, &archive)?;
    fs::remove_dir_all(&files)?;
    Ok(archive)
}

fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release")?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name
        .context("/etc/os-release names no release of Debian")?
        .trim_matches('"')
        .to_owned())
}

fn clear(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
