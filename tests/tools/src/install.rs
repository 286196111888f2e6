//! What set-up puts in place, and how it knows that it is there.
//!
//! Invariant: a second run does nothing and needs no network.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

use crate::apt::{self, PrivateApt};
use crate::{Tools, directory};

/// A package that is unpacked, not installed.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The link in the tools' directory.
    pub(crate) link: &'static str,
    package: &'static str,
    suite: &'static str,
    /// What the version starts with. A later one in the same suite is taken as well, with a notice.
    tested: &'static str,
    /// A file that proves that the package holds what is needed.
    pub(crate) program: &'static str,
}

const PLUGIN: &str = "usr/libexec/docker/cli-plugins/docker-buildx";

pub(crate) const UNPACKED: [Unpacked; 5] = [
    Unpacked {
        link: "buildx-old",
        package: "docker-buildx",
        suite: "trixie",
        tested: "0.13.",
        program: PLUGIN,
    },
    Unpacked {
        link: "buildx-new",
        package: "docker-buildx",
        suite: "sid",
        tested: "0.29.",
        program: PLUGIN,
    },
    Unpacked {
        link: "docker-cli",
        package: "docker-cli",
        suite: "sid",
        tested: "28.5.",
        program: "usr/bin/docker",
    },
    Unpacked {
        link: "dockerd",
        package: "docker.io",
        suite: "sid",
        tested: "28.5.",
        program: "usr/sbin/dockerd",
    },
    Unpacked {
        link: "containerd",
        package: "containerd",
        suite: "sid",
        tested: "2.1.",
        program: "usr/bin/containerd",
    },
];

/// Packages of the machine's own release. `debootstrap` and busybox make test images; QEMU runs the guest.
const SYSTEM: [&str; 16] = [
    "busybox-static",
    "ca-certificates",
    "dbus-bin",
    "dbus-daemon",
    "debian-archive-keyring",
    "debootstrap",
    "docker-registry",
    "git",
    "gnome-keyring",
    "iproute2",
    "libsecret-tools",
    "openssh-client",
    "qemu-system-x86",
    "qemu-utils",
    "runc",
    "skopeo",
];

/// Programs that those packages bring.
pub(crate) const PROGRAMS: [&str; 11] = [
    "busybox",
    "dbus-daemon",
    "dbus-send",
    "docker-registry",
    "git",
    "gnome-keyring-daemon",
    "qemu-system-x86_64",
    "runc",
    "secret-tool",
    "skopeo",
    "debootstrap",
];

/// Puts everything in place.
pub fn install() -> Result<Tools> {
    apt::install_system(&SYSTEM)?;
    let root = directory()?;
    fs::create_dir_all(root.join("unpacked")).with_context(|| root.display().to_string())?;
    let missing: Vec<&Unpacked> = UNPACKED
        .iter()
        .filter(|package| !root.join(package.link).join(package.program).is_file())
        .collect();
    if !missing.is_empty() {
        let mut suites: Vec<&str> = missing.iter().map(|package| package.suite).collect();
        suites.sort_unstable();
        suites.dedup();
        let private = PrivateApt::new(root.join("apt"), &suites)?;
        private.update()?;
        for package in missing {
            unpack(&root, &private, package)?;
        }
        // The lists and archives are only needed on the way.
        fs::remove_dir_all(root.join("apt"))?;
    }
    Tools::locate()
}

fn unpack(root: &Path, private: &PrivateApt, wanted: &Unpacked) -> Result<()> {
    let version = private.version(wanted.package, wanted.suite)?;
    if !version.starts_with(wanted.tested) {
        eprintln!(
            "note: {} in {} is {version}; the expectations were proven with {}x",
            wanted.package, wanted.suite, wanted.tested
        );
    }
    let name = format!("{}_{version}", wanted.package);
    let target = root.join("unpacked").join(&name);
    private.unpack(wanted.package, &version, &target)?;
    if !target.join(wanted.program).is_file() {
        anyhow::bail!("{name} doesn't hold {}", wanted.program);
    }
    let link = root.join(wanted.link);
    let fresh = root.join(format!(".{}.new", wanted.link));
    let _ = fs::remove_file(&fresh);
    symlink(Path::new("unpacked").join(&name), &fresh)?;
    fs::rename(&fresh, &link)?;
    eprintln!("unpacked {name}");
    Ok(())
}
