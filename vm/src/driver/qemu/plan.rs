//! What a machine is made of: sizes worked out for this host, files checked, the disk made or grown, and
//! QEMU's command line.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use kiln_config::{HostPaths, HostSettings, Size};
use kiln_link::machine::{ADD_ON_DISK, COMMAND_LINE, DATA_DISK, PORT};
use serde::Deserialize;

use super::accelerator::Accelerator;
use super::qmp::DISK_NODE;
use crate::driver::StartError;
use crate::driver::native::memory_of_the_host;

const ADD_ON_NODE: &str = "add-on";
/// With less than this free where the disk is, builds will fail.
const LITTLE_SPACE: u64 = 2 << 30;

/// A machine to be.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) cpus: u32,
    pub(super) memory: u64,
    pub(super) disk: u64,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    /// Git, ssh and emulators, where the image has them.
    pub(super) add_on: Option<PathBuf>,
    pub(super) notices: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    bytes: u64,
}

impl Plan {
    pub(super) fn make(settings: &HostSettings, guest: &Path) -> Result<Self, StartError> {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let cpus = settings.cpus_of(processors);
        let host_memory = memory_of_the_host();
        let memory = settings.memory_of(host_memory);
        if memory > host_memory {
            return Err(StartError::Setting {
                setting: "memory",
                problem: format!(
                    "{} is more than the {} MiB that this host has",
                    Size(memory),
                    host_memory >> 20
                ),
            });
        }
        let mut notices = Vec::new();
        if cpus > processors {
            notices.push(format!(
                "{cpus} processors for the machine, {processors} in the host: builds won't get faster by that"
            ));
        }
        let Image {
            kernel,
            initrd,
            add_on,
        } = image(guest)?;
        Ok(Self {
            cpus,
            memory,
            disk: settings.disk_size(),
            kernel,
            initrd,
            add_on,
            notices,
        })
    }

    /// Makes the disk's file, or lets it grow; it takes no space by that.
    pub(super) fn prepare_disk(&mut self, paths: &HostPaths) -> Result<(), StartError> {
        let path = paths.data_disk();
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(StartError::io("open", &path))?;
        let length = file
            .metadata()
            .map_err(StartError::io("look at", &path))?
            .len();
        if length < self.disk {
            file.set_len(self.disk)
                .map_err(StartError::io("grow", &path))?;
        } else if length > self.disk {
            self.notices.push(format!(
                "the disk stays at {}: it can't shrink to {} (a reset makes it anew)",
                Size(length),
                Size(self.disk)
            ));
            self.disk = length;
        }
        if let Ok(free) = rustix::fs::fstatvfs(&file) {
            let free = free.f_bavail * free.f_frsize;
            if free < LITTLE_SPACE {
                self.notices.push(format!(
                    "only {} MiB are free on the host where the machine's disk is",
                    free >> 20
                ));
            }
        }
        Ok(())
    }

    /// QEMU's arguments. It connects to the two sockets itself.
    pub(super) fn arguments(
        &self,
        accelerator: &Accelerator,
        paths: &HostPaths,
        sockets: &Sockets,
    ) -> Vec<OsString> {
        let mut all: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| all.extend(words.iter().map(OsString::from));
        add(&accelerator.arguments());
        add(&["-machine", "q35,dump-guest-core=off"]);
        add(&["-smp", &self.cpus.to_string()]);
        add(&["-m", &format!("{}M", self.memory >> 20)]);
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        add(&[
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        ]);
        add(&[
            "-kernel",
            &shown(&self.kernel),
            "-initrd",
            &shown(&self.initrd),
        ]);
        add(&["-append", COMMAND_LINE]);
        // Its output is the console: a pipe that the owner reads.
        add(&[
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
        ]);
        add(&["-device", "virtio-serial-pci"]);
        add(&[
            "-chardev",
            &format!("socket,id=link,path={}", escaped(&sockets.link)),
        ]);
        add(&[
            "-device",
            &format!("virtserialport,chardev=link,name={PORT}"),
        ]);
        add(&["-netdev", "user,id=net,ipv6=off"]);
        add(&["-device", "virtio-net-pci,netdev=net,romfile="]);
        add(&[
            "-blockdev",
            &format!(
                "driver=raw,node-name={DISK_NODE},discard=unmap,detect-zeroes=unmap,\
                 file.driver=file,file.filename={}",
                escaped(&paths.data_disk())
            ),
        ]);
        add(&[
            "-device",
            &format!("virtio-blk-pci,drive={DISK_NODE},serial={DATA_DISK}"),
        ]);
        if let Some(add_on) = &self.add_on {
            add(&[
                "-blockdev",
                &format!(
                    "driver=raw,node-name={ADD_ON_NODE},read-only=on,file.driver=file,file.filename={}",
                    escaped(add_on)
                ),
            ]);
            add(&[
                "-device",
                &format!("virtio-blk-pci,drive={ADD_ON_NODE},serial={ADD_ON_DISK}"),
            ]);
        }
        add(&["-device", "virtio-rng-pci"]);
        add(&[
            "-device",
            "virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on",
        ]);
        add(&[
            "-chardev",
            &format!("socket,id=qmp,path={}", escaped(&sockets.qmp)),
        ]);
        add(&["-mon", "chardev=qmp,mode=control"]);
        all
    }
}

/// Where QEMU connects to.
#[derive(Debug, Clone)]
pub(super) struct Sockets {
    pub(super) link: PathBuf,
    pub(super) qmp: PathBuf,
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// QEMU splits options at commas; two of them are one.
fn escaped(path: &Path) -> String {
    shown(path).replace(',', ",,")
}

/// The files of the guest image.
struct Image {
    kernel: PathBuf,
    initrd: PathBuf,
    add_on: Option<PathBuf>,
}

/// They are as long as they were when they were made.
fn image(guest: &Path) -> Result<Image, StartError> {
    let missing = |fix: String| StartError::Missing {
        what: "the guest image",
        fix,
    };
    let manifest = guest.join("manifest.json");
    let text = fs::read(&manifest).map_err(|_| {
        missing(format!(
            "{} isn't there; make the image with `cargo xtask guest`, or name its directory by KILN_GUEST",
            manifest.display()
        ))
    })?;
    let entries: std::collections::BTreeMap<String, Entry> = serde_json::from_slice(&text)
        .map_err(|error| missing(format!("{} is damaged ({error})", manifest.display())))?;
    let file = |name: &str| {
        let path = guest.join(name);
        let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        match entries.get(name) {
            Some(entry) if entry.bytes == length => Ok(path),
            _ => Err(missing(format!(
                "{} is missing or damaged; install the image anew",
                path.display()
            ))),
        }
    };
    const ADD_ON: &str = "add-on.squashfs";
    Ok(Image {
        kernel: file("vmlinux")?,
        initrd: file("initrd.zst")?,
        add_on: match entries.contains_key(ADD_ON) {
            true => Some(file(ADD_ON)?),
            false => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(root: &Path) {
        fs::write(root.join("vmlinux"), "kernel").unwrap();
        fs::write(root.join("initrd.zst"), "initrd").unwrap();
        let manifest =
            r#"{"vmlinux":{"bytes":6,"sha256":""},"initrd.zst":{"bytes":6,"sha256":""}}"#;
        fs::write(root.join("manifest.json"), manifest).unwrap();
    }

    #[test]
    fn what_cannot_be_says_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let settings = HostSettings::default();
        let fails =
            |settings: &HostSettings| Plan::make(settings, root.path()).unwrap_err().to_string();
        assert!(fails(&settings).contains("cargo xtask guest"));
        guest(root.path());
        Plan::make(&settings, root.path()).unwrap();
        let greedy = HostSettings {
            memory: Some(Size(4 << 40)),
            ..HostSettings::default()
        };
        assert!(fails(&greedy).contains("memory: 4TiB is more than"));
        fs::write(root.path().join("initrd.zst"), "ini").unwrap();
        assert!(fails(&settings).contains("initrd.zst is missing or damaged"));
        fs::write(root.path().join("manifest.json"), "{").unwrap();
        assert!(fails(&settings).contains("manifest.json is damaged"));
    }

    #[test]
    fn the_disk_is_sparse_and_only_grows() {
        use std::os::unix::fs::MetadataExt as _;
        let root = tempfile::tempdir().unwrap();
        guest(root.path());
        let paths = HostPaths {
            runtime: root.path().join("r"),
            state: root.path().to_owned(),
            config: root.path().join("c"),
        };
        let make = |bytes| {
            let settings = HostSettings {
                disk: Some(Size(bytes)),
                ..HostSettings::default()
            };
            let mut plan = Plan::make(&settings, root.path()).unwrap();
            plan.prepare_disk(&paths).unwrap();
            plan
        };
        make(8 << 30);
        let metadata = fs::metadata(paths.data_disk()).unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (8 << 30, 0));
        make(9 << 30);
        let plan = make(2 << 30);
        assert_eq!(plan.disk, 9 << 30);
        assert!(plan.notices.concat().contains("can't shrink to 2GiB"));
    }

    #[test]
    fn a_comma_in_a_path_is_no_option() {
        assert_eq!(escaped(Path::new("/a,b")), "/a,,b");
    }
}
