//! Debian packages of the guest, pinned by version and checksum.
//!
//! `guest/packages.lock` has a line `NAME VERSION SHA256` for each. `cargo xtask guest --update` writes it
//! anew from what Debian has today; without it anything else than what is pinned is refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use kiln_oci::Digester;
use kiln_test_tools::PrivateApt;

const SUITE: &str = "bookworm";
/// The meta package whose dependency names the kernel.
const KERNEL_META: &str = "linux-image-cloud-amd64";

/// Packages by the role that they have here; the kernel's own name changes with its ABI.
const NAMES: [&str; 10] = [
    "busybox",
    "ca-certificates",
    "e2fsck-static",
    "e2fsprogs",
    "libblkid1",
    "libc6",
    "libcom-err2",
    "libext2fs2",
    "libuuid1",
    KERNEL_META,
];

/// Packages of the add-on image: programs, then libraries, of which it takes all.
const PROGRAMS: [&str; 3] = ["git", "openssh-client", "qemu-user-static"];
pub(super) const LIBRARIES: [&str; 27] = [
    "libbrotli1",
    "libcurl3-gnutls",
    "libffi8",
    "libgmp10",
    "libgnutls30",
    "libgssapi-krb5-2",
    "libhogweed6",
    "libidn2-0",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libldap-2.5-0",
    "libnettle8",
    "libnghttp2-14",
    "libp11-kit0",
    "libpcre2-8-0",
    "libpsl5",
    "librtmp1",
    "libsasl2-2",
    "libselinux1",
    "libssh2-1",
    "libssl3",
    "libtasn1-6",
    "libunistring2",
    "libzstd1",
    "zlib1g",
];

/// Unpacked packages.
#[derive(Debug)]
pub(super) struct Packages {
    directories: BTreeMap<String, PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pin {
    version: String,
    sha256: String,
}

impl Packages {
    /// Downloads what isn't there, checks it against `lock` (or writes `lock`, to `update` it), and
    /// unpacks it below `work`.
    pub(super) fn fetch(work: &Path, lock: &Path, update: bool) -> Result<Self> {
        let pins = if update {
            BTreeMap::new()
        } else {
            read_lock(lock)?
        };
        let apt = PrivateApt::new(work.join("apt"), &[SUITE])?;
        let mut updated = BTreeMap::new();
        let mut directories = BTreeMap::new();
        let mut listed = false;
        let mut list = || -> Result<()> {
            if !std::mem::replace(&mut listed, true) {
                apt.update()?;
            }
            Ok(())
        };
        let mut names: Vec<String> = if update {
            let all = NAMES.iter().chain(&PROGRAMS).chain(&LIBRARIES);
            all.map(|name| (*name).to_owned()).collect()
        } else {
            pins.keys().cloned().collect()
        };
        while let Some(name) = names.pop() {
            let pin = pins.get(&name);
            let version = match pin {
                Some(pin) => pin.version.clone(),
                None => {
                    list()?;
                    apt.version(&name, SUITE)?
                }
            };
            let target = work
                .join("unpacked")
                .join(format!("{name}_{}", version.replace(':', "_")));
            let stamp = target.with_extension("sha256");
            let mut sha256 = fs::read_to_string(&stamp).unwrap_or_default();
            if !target.exists() || pin.is_some_and(|pin| pin.sha256 != sha256) || sha256.is_empty()
            {
                list()?;
                let archive = apt.download(&name, &version).with_context(|| {
                    format!(
                        "Debian's {SUITE} no longer has {name} {version}: run `cargo xtask guest --update`"
                    )
                })?;
                sha256 = digest_of(&archive)?;
                if let Some(pin) = pin {
                    ensure!(
                        pin.sha256 == sha256,
                        "{name} {version} has the checksum {sha256}, {} has {}",
                        lock.display(),
                        pin.sha256
                    );
                }
                unpack(&archive, &target)?;
                fs::write(&stamp, &sha256)?;
            }
            if name == KERNEL_META && update {
                names.push(kernel_of(&apt, &name)?);
            }
            updated.insert(name.clone(), Pin { version, sha256 });
            directories.insert(name, target);
        }
        if update {
            write_lock(lock, &updated)?;
        }
        Ok(Self { directories })
    }

    /// Where a package is unpacked.
    pub(super) fn directory(&self, name: &str) -> Result<&Path> {
        let directory = self.directories.get(name);
        Ok(directory.with_context(|| format!("guest/packages.lock has no {name}"))?)
    }

    /// The package of the kernel itself.
    pub(super) fn kernel(&self) -> Result<&Path> {
        let mut names = self.directories.keys();
        let name = names.find(|name| name.starts_with("linux-image-") && *name != KERNEL_META);
        self.directory(name.context("guest/packages.lock has no kernel")?)
    }

    /// A file of a package.
    pub(super) fn read(&self, package: &str, path: &str) -> Result<Vec<u8>> {
        let file = self.directory(package)?.join(path);
        fs::read(&file).with_context(|| format!("{package} has no {path}"))
    }
}

fn kernel_of(apt: &PrivateApt, meta: &str) -> Result<String> {
    apt.dependencies(meta)?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{meta} depends on no kernel"))
}

fn unpack(archive: &Path, target: &Path) -> Result<()> {
    let partial = target.with_extension("partial");
    for directory in [&partial, &target.to_owned()] {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let status = Command::new("dpkg-deb")
        .arg("-x")
        .arg(archive)
        .arg(&partial)
        .status()?;
    ensure!(
        status.success(),
        "dpkg-deb can't unpack {}",
        archive.display()
    );
    fs::rename(&partial, target)?;
    fs::remove_file(archive)?;
    Ok(())
}

fn digest_of(path: &Path) -> Result<String> {
    let mut digester = Digester::new();
    digester.update(fs::read(path)?);
    Ok(digester.finish().hex())
}

fn read_lock(path: &Path) -> Result<BTreeMap<String, Pin>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut pins = BTreeMap::new();
    for (number, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('#'))
    {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[name, version, sha256] = fields.as_slice() else {
            bail!(
                "{}:{}: want NAME VERSION SHA256",
                path.display(),
                number + 1
            );
        };
        let pin = Pin {
            version: version.to_owned(),
            sha256: sha256.to_owned(),
        };
        pins.insert(name.to_owned(), pin);
    }
    Ok(pins)
}

fn write_lock(path: &Path, pins: &BTreeMap<String, Pin>) -> Result<()> {
    let mut text =
        "# Debian packages of the guest image. Written by `cargo xtask guest --update`.\n"
            .to_owned();
    for (name, pin) in pins {
        writeln!(text, "{name} {} {}", pin.version, pin.sha256)?;
    }
    fs::write(path, text)?;
    Ok(())
}
