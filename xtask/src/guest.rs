//! `cargo xtask guest`: the guest image, from Debian packages and `kilnd`, without root.
//!
//! ```text
//! target/guest/
//!   work/              private lists of apt, unpacked packages
//!   image/vmlinux      the kernel as ELF (the PVH entry boots fastest)
//!   image/initrd.zst   cpio, zstd: /init (kilnd), modules, file-system tools, CA certificates, a base image
//!   image/add-on.squashfs  git, ssh, emulators: what few builds need, on a disk of its own ([`add_on`])
//!   image/manifest.json  sizes and digests
//! ```
//! Inside:
//! ```text
//! /init                        kilnd, static
//! /lib/modules/NAME.ko         modules, flat
//! /etc/kiln/modules.{early,late}  their names, in loading order: before the first word to the host, after it
//! /sbin/{mke2fs,e2fsck,resize2fs}, /lib…  with their libraries
//! /etc/ssl/certs/ca-certificates.crt
//! /bin/busybox                 for `kiln shell`, with a link for each of its programs
//! /usr/share/kiln/base         the image `busybox` as an OCI layout
//! /usr/{bin,lib}, /usr/share/git-core  links to where the add-on is mounted
//! ```
//! Invariants: two runs give the same bytes; without the add-on it stays below [`MOST_BYTES`], compressed; every package is pinned by checksum in `guest/packages.lock`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kiln_oci::Digest;

use self::cpio::{Entry, Tree};
use self::modules::Modules;
use self::packages::Packages;
use crate::cargo::cargo_in;

mod add_on;
mod base;
mod cpio;
mod kernel;
mod modules;
mod packages;
mod squashfs;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// zstd's level: the image is made once and read at every start.
const LEVEL: i32 = 19;
const QUICK: i32 = 6;

/// Of kernel and initial file system, compressed: what a download would be.
const MOST_BYTES: usize = 40 << 20;

/// The file of the add-on.
const ADD_ON: &str = "add-on.squashfs";

/// What a dynamic program names as its interpreter.
const LOADER: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";

/// What the guest needs before it can speak to the host.
const EARLY: [&str; 5] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "overlay",
];
/// The rest.
const LATE: [&str; 21] = [
    "virtio_net",
    "virtio_balloon",
    "button",
    "evdev",
    "tun",
    "veth",
    "bridge",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nft_compat",
    "nft_reject_inet",
    "binfmt_misc",
    "squashfs",
    "fuse",
    "virtiofs",
    "vsock",
    "vmw_vsock_virtio_transport",
    "nfnetlink",
];

/// Where the image is.
pub(crate) fn directory(root: &Path) -> PathBuf {
    root.join("target/guest/image")
}

/// What becomes of an image that was assembled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It is written.
    Make,
    /// It is written, of packages that are pinned anew.
    Update,
    /// It is compared with the one that was written before.
    Compare,
}

/// Makes the image, with a static `kilnd` that is built for it or given.
pub(crate) fn make(root: &Path, purpose: Purpose, kilnd: Option<&Path>) -> Result<()> {
    let work = root.join("target/guest/work");
    fs::create_dir_all(&work)?;
    let lock = root.join("guest/packages.lock");
    let packages = Packages::fetch(&work, &lock, purpose == Purpose::Update)?;
    let files = assemble(&packages, init(root, kilnd)?)?;
    let image = directory(root);
    if purpose == Purpose::Compare {
        return compare(&image, &files);
    }
    fs::create_dir_all(&image)?;
    for (name, bytes) in &files {
        fs::write(image.join(name), bytes)?;
        eprintln!("{}: {}", image.join(name).display(), mib(bytes.len()));
    }
    Ok(())
}

/// Makes the image unless one was made since `kilnd` was built.
pub(crate) fn make_if_older(root: &Path, kilnd: &Path) -> Result<()> {
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let made = changed(&directory(root).join("manifest.json"));
    if made.is_ok_and(|made| changed(kilnd).is_ok_and(|built| built < made)) {
        return Ok(());
    }
    make(root, Purpose::Make, Some(kilnd))
}

type Files = Vec<(&'static str, Vec<u8>)>;

/// The image's files, the manifest last.
fn assemble(packages: &Packages, init: Vec<u8>) -> Result<Files> {
    let kernel_package = packages.kernel()?;
    let vmlinux = kernel::vmlinux(&fs::read(only(&kernel_package.join("boot"), "vmlinuz-")?)?)?;
    let modules = Modules::read(&only(&kernel_package.join("lib/modules"), "")?)?;
    let mut tree = Tree::default();
    tree.add("init", Entry::File(0o755, init))?;
    add_modules(&mut tree, &modules)?;
    add_tools(&mut tree, packages)?;
    base::add_shell(&mut tree, packages)?;
    base::add_image(&mut tree, packages)?;
    add_on::add_links(&mut tree)?;
    tree.add(
        "etc/ssl/certs/ca-certificates.crt",
        Entry::File(0o644, certificates(packages)?),
    )?;
    for name in ["dev", "proc", "run", "sys", "tmp", "var/lib/kiln"] {
        tree.add(name, Entry::Directory)?;
    }
    let initrd = compress(&tree.to_cpio(), LEVEL)?;
    // Only counted: a bit too much, by a quick look.
    let compressed = compress(&vmlinux, QUICK)?.len() + initrd.len();
    eprintln!(
        "guest image, compressed: {} without the add-on",
        mib(compressed)
    );
    ensure!(
        compressed < MOST_BYTES,
        "the guest image has become too large: {} are the limit",
        mib(MOST_BYTES)
    );
    let mut files = vec![
        ("vmlinux", vmlinux),
        ("initrd.zst", initrd),
        (ADD_ON, squashfs::image(&add_on::tree(packages)?)?),
    ];
    let entries = files.iter().map(|(name, bytes)| {
        let entry = serde_json::json!({ "bytes": bytes.len(), "sha256": Digest::of(bytes).hex() });
        ((*name).to_owned(), entry)
    });
    let manifest: serde_json::Map<_, _> = entries.collect();
    let manifest = serde_json::to_string_pretty(&manifest)? + "\n";
    files.push(("manifest.json", manifest.into_bytes()));
    Ok(files)
}

/// Whether a second run made the same.
fn compare(image: &Path, files: &Files) -> Result<()> {
    for (name, bytes) in files {
        let path = image.join(name);
        let before = fs::read(&path)
            .with_context(|| format!("{}: make it first: cargo xtask guest", path.display()))?;
        ensure!(
            before == *bytes,
            "{} isn't what these packages and this kilnd make: {} and {} bytes",
            path.display(),
            before.len(),
            bytes.len()
        );
    }
    eprintln!("guest image: the same bytes again");
    Ok(())
}

fn add_modules(tree: &mut Tree, modules: &Modules) -> Result<()> {
    let early = modules.load_order(&EARLY)?;
    let all: Vec<&str> = EARLY.into_iter().chain(LATE).collect();
    let late = modules.load_order(&all)?;
    let late: Vec<_> = late
        .into_iter()
        .filter(|module| !early.contains(module))
        .collect();
    for (list, order) in [("early", &early), ("late", &late)] {
        let names: String = order.iter().map(|(name, _)| format!("{name}\n")).collect();
        tree.add(
            &format!("etc/kiln/modules.{list}"),
            Entry::File(0o644, names.into_bytes()),
        )?;
        for (name, path) in order {
            tree.add(
                &format!("lib/modules/{name}.ko"),
                Entry::File(0o644, fs::read(path)?),
            )?;
        }
    }
    Ok(())
}

fn add_tools(tree: &mut Tree, packages: &Packages) -> Result<()> {
    for (package, from, to) in [
        ("e2fsprogs", "sbin/mke2fs", "sbin/mke2fs"),
        ("e2fsprogs", "sbin/resize2fs", "sbin/resize2fs"),
        ("e2fsck-static", "sbin/e2fsck.static", "sbin/e2fsck"),
    ] {
        tree.add(to, Entry::File(0o755, packages.read(package, from)?))?;
    }
    tree.add(
        "etc/mke2fs.conf",
        Entry::File(0o644, packages.read("e2fsprogs", "etc/mke2fs.conf")?),
    )?;
    for (package, name) in [
        ("libblkid1", "libblkid.so.1"),
        ("libc6", "libc.so.6"),
        ("libc6", "libresolv.so.2"),
        ("libcom-err2", "libcom_err.so.2"),
        ("libext2fs2", "libe2p.so.2"),
        ("libext2fs2", "libext2fs.so.2"),
        ("libuuid1", "libuuid.so.1"),
    ] {
        tree.add(
            &format!("lib/x86_64-linux-gnu/{name}"),
            Entry::File(0o755, library(packages, package, name)?),
        )?;
    }
    tree.add(
        "lib64/ld-linux-x86-64.so.2",
        Entry::File(0o755, loader(packages)?),
    )
}

/// Packages before the merge of / and /usr have their libraries in /lib.
fn library(packages: &Packages, package: &str, name: &str) -> Result<Vec<u8>> {
    packages
        .read(package, &format!("{LIBRARIES}/{name}"))
        .or_else(|_| packages.read(package, &format!("lib/x86_64-linux-gnu/{name}")))
}

fn loader(packages: &Packages) -> Result<Vec<u8>> {
    packages.read("libc6", "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
}

/// All certificates of the package in one file, ordered by name.
fn certificates(packages: &Packages) -> Result<Vec<u8>> {
    let directory = packages
        .directory("ca-certificates")?
        .join("usr/share/ca-certificates/mozilla");
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    let mut bundle = Vec::new();
    for path in paths {
        bundle.extend(fs::read(path)?);
    }
    Ok(bundle)
}

/// What the kernel starts: a static file, or the kernel would look for libraries.
fn init(root: &Path, given: Option<&Path>) -> Result<Vec<u8>> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => kilnd(root)?,
    };
    let bytes = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    ensure!(
        !bytes.windows(LOADER.len()).any(|window| window == LOADER),
        "{} is linked dynamically: build it with -C target-feature=+crt-static",
        path.display()
    );
    Ok(bytes)
}

/// Builds `kilnd` as one static file.
pub(crate) fn kilnd(root: &Path) -> Result<PathBuf> {
    let status = cargo_in(root)
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "kilnd",
            "--target",
            TARGET,
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // A directory of its own: other flags would have everything else built anew.
        .env("CARGO_TARGET_DIR", root.join("target/guest/cargo"))
        .status()
        .context("can't run cargo")?;
    ensure!(status.success(), "kilnd can't be built for the guest");
    Ok(root
        .join("target/guest/cargo")
        .join(TARGET)
        .join("release/kilnd"))
}

fn compress(bytes: &[u8], level: i32) -> Result<Vec<u8>> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), level)?;
    encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
    std::io::Write::write_all(&mut encoder, bytes)?;
    Ok(encoder.finish()?)
}

/// The one entry of a directory that begins with `prefix`.
fn only(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    ensure!(
        found.len() == 1,
        "{} has {} entries {prefix}*",
        directory.display(),
        found.len()
    );
    found.pop().context("no entry")
}

fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
