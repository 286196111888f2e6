//! From a container's description to a slot's job: mounts are made here, detached.

use std::os::fd::OwnedFd;
use std::path::Path;

use kiln_sys::launcher::{self, Attach, Job, Net, Standard, Streams};
use kiln_sys::mount::{self, MountSpec};

use crate::isolation::{
    CAPABILITIES, DEVICES, Device, LOOP_DEVICES, MASKED_PATHS, PRIVILEGED_DEVICES, READONLY_PATHS,
    SHM_SIZE, STANDARD_MOUNTS, capability_bits, own_capabilities,
};
use crate::sources::detached;
use crate::{ContainerSpec, ExecutorError, Network, ProcessSpec, prepare};

/// A job with the descriptors that go along.
#[derive(Debug)]
pub(super) struct Jobs {
    pub(super) job: Job,
    pub(super) fds: Vec<OwnedFd>,
}

/// The process's side of its streams.
#[derive(Debug)]
pub(super) enum ChildSide {
    Pipes([OwnedFd; 3]),
    Terminal(OwnedFd),
}

impl Jobs {
    fn process(&mut self) -> Option<&mut launcher::Process> {
        match &mut self.job {
            Job::Run(run) => Some(&mut run.process),
            Job::Exec(exec) => Some(&mut exec.process),
            Job::Prepare(_) => None,
        }
    }

    pub(super) fn set_token(&mut self, to: u64) {
        match &mut self.job {
            Job::Run(run) => run.token = to,
            Job::Exec(exec) => exec.token = to,
            Job::Prepare(_) => {}
        }
    }

    /// The next descriptor is the cgroup to start in.
    pub(super) fn set_cgroup(&mut self) {
        let number = self.fds.len();
        if let Job::Run(run) = &mut self.job {
            run.container.cgroup = Some(number);
        }
    }

    /// Adds the process's side of its streams and of the pipe for its report.
    pub(super) fn connect(&mut self, report: OwnedFd, streams: Option<ChildSide>) {
        let first = self.fds.len();
        self.fds.push(report);
        let streams = match streams {
            Some(ChildSide::Pipes(pipes)) => {
                self.fds.extend(pipes);
                Streams::Given([first + 1, first + 2, first + 3])
            }
            Some(ChildSide::Terminal(socket)) => {
                self.fds.push(socket);
                Streams::Terminal(first + 1)
            }
            None => return,
        };
        if let Some(process) = self.process() {
            process.report = first;
            process.streams = streams;
        }
    }
}

pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), ExecutorError> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(std::io::Error::from)
        .map_err(prepare(|| "make a pipe".into()))
}

/// A job that makes a container. Makes its mounts; blocks.
pub(super) fn container(
    container: &ContainerSpec,
    process: &ProcessSpec,
    nodev: bool,
    scratch: &Path,
) -> Result<Jobs, ExecutorError> {
    let mut fds = vec![mount::detached(&container.root.specs, scratch).map_err(failed("/"))?];
    let mut mounts = Vec::new();
    for (target, file) in [
        ("/etc/resolv.conf", &container.resolv_conf),
        ("/etc/hosts", &container.etc_hosts),
    ] {
        if let Some(file) = file {
            let mut spec = MountSpec::bind(file, true);
            spec.options
                .extend(["nosuid", "noexec", "nodev"].map(Into::into));
            let mount = mount::detached(&[spec], scratch).map_err(failed(target))?;
            mounts.push(attach(target, &mut fds, mount));
        }
    }
    for entry in &container.mounts {
        let mount = detached(entry, scratch)?;
        let target = kiln_sys::rootfs::clean(&entry.target);
        mounts.retain(|earlier| earlier.target != target);
        mounts.push(attach(target, &mut fds, mount));
    }
    let net = match &container.network {
        Network::Host => Net::Keep,
        Network::None => Net::New,
        Network::Namespace(path) => {
            let file = std::fs::File::open(path)
                .map_err(prepare(|| format!("open the network {}", path.display())))?;
            fds.push(file.into());
            Net::Join(fds.len() - 1)
        }
    };
    let access = |path: &&str| !container.privileged && !path.is_empty();
    let names = |paths: &[&'static str]| -> Vec<String> {
        paths
            .iter()
            .filter(|path| access(path))
            .map(|&path| path.to_owned())
            .collect()
    };
    let run = launcher::Run {
        token: 0,
        process: self::process(container, process)?,
        container: launcher::Container {
            hostname: container.hostname.clone(),
            net,
            root: 0,
            readonly_root: container.readonly_root,
            nodev,
            cgroup: None,
            writable_cgroups: container.privileged,
            standard: standard(container, &mounts),
            devices: devices(container.privileged),
            masked: names(&MASKED_PATHS),
            readonly: names(&READONLY_PATHS),
            mounts,
        },
    };
    Ok(Jobs {
        job: Job::Run(Box::new(run)),
        fds,
    })
}

/// A job that runs a further process.
pub(super) fn further(
    container: &ContainerSpec,
    process: &ProcessSpec,
) -> Result<Jobs, ExecutorError> {
    let exec = launcher::Exec {
        token: 0,
        process: self::process(container, process)?,
    };
    Ok(Jobs {
        job: Job::Exec(Box::new(exec)),
        fds: Vec::new(),
    })
}

fn attach(target: impl Into<std::path::PathBuf>, fds: &mut Vec<OwnedFd>, mount: OwnedFd) -> Attach {
    fds.push(mount);
    Attach {
        target: target.into(),
        mount: fds.len() - 1,
    }
}

fn failed(target: &str) -> impl FnOnce(mount::MountError) -> ExecutorError {
    let action = format!("mount {target}");
    move |error| ExecutorError::Prepare {
        action,
        source: std::io::Error::other(error),
    }
}

/// Standard file systems, but for those that a mount of the container's own replaces.
fn standard(container: &ContainerSpec, mounts: &[Attach]) -> Vec<Standard> {
    STANDARD_MOUNTS
        .iter()
        .filter(|standard| {
            !mounts
                .iter()
                .any(|own| own.target == Path::new(standard.target))
        })
        .map(|standard| {
            let mut options: Vec<String> = standard
                .options
                .iter()
                .filter(|&&option| !(container.privileged && option == "ro"))
                .map(|&option| option.to_owned())
                .collect();
            if standard.target == "/dev/shm" {
                options.push(format!("size={}", container.shm_size.unwrap_or(SHM_SIZE)));
            }
            Standard {
                target: standard.target.to_owned(),
                fstype: standard.fstype.to_owned(),
                options,
            }
        })
        .collect()
}

fn devices(privileged: bool) -> Vec<launcher::Device> {
    let of = |device: &Device| launcher::Device {
        path: device.path.to_owned(),
        block: device.block,
        major: device.major,
        minor: device.minor,
    };
    let mut out: Vec<_> = DEVICES.iter().map(of).collect();
    if privileged {
        out.extend(PRIVILEGED_DEVICES.iter().map(of));
        out.extend((0..LOOP_DEVICES).map(|minor| launcher::Device {
            path: format!("/dev/loop{minor}"),
            block: true,
            major: 7,
            minor,
        }));
    }
    out
}

/// Rules of the device controller, in its words: what a container may open, whatever nodes it makes.
pub(super) fn device_rules(privileged: bool) -> Vec<(bool, String)> {
    if privileged {
        return vec![(true, "a *:* rwm".to_owned())];
    }
    let mut rules = vec![(false, "a *:* rwm".to_owned())];
    // Making nodes is allowed; using them is not.
    rules.extend(["c *:* m", "b *:* m"].map(|rule| (true, rule.to_owned())));
    rules.extend(
        DEVICES
            .iter()
            .map(|d| (true, format!("c {}:{} rwm", d.major, d.minor))),
    );
    // Terminals: the multiplexer, the container's own, and the console.
    rules.extend(["c 5:2 rwm", "c 136:* rwm", "c 5:1 rwm"].map(|rule| (true, rule.to_owned())));
    rules
}

fn process(
    container: &ContainerSpec,
    process: &ProcessSpec,
) -> Result<launcher::Process, ExecutorError> {
    let capabilities = if container.privileged {
        capability_bits(own_capabilities())
    } else {
        capability_bits(CAPABILITIES)
    };
    let rlimits = container
        .ulimits
        .iter()
        .map(|(name, soft, hard)| {
            let number = resource(name).ok_or_else(|| ExecutorError::Prepare {
                action: format!("set limit {name:?}"),
                source: std::io::ErrorKind::InvalidInput.into(),
            })?;
            Ok((number, *soft, *hard))
        })
        .collect::<Result<Vec<_>, ExecutorError>>()?;
    Ok(launcher::Process {
        args: process.args.clone(),
        env: process.env.clone(),
        cwd: process.cwd.clone(),
        uid: process.uid,
        gid: process.gid,
        groups: process.additional_gids.clone(),
        rlimits,
        capabilities,
        ambient: container.privileged,
        filtered: !container.privileged,
        report: 0,
        streams: Streams::Given([0; 3]),
    })
}

/// The number of a resource limit.
fn resource(name: &str) -> Option<u32> {
    let names = [
        "cpu",
        "fsize",
        "data",
        "stack",
        "core",
        "rss",
        "nproc",
        "nofile",
        "memlock",
        "as",
        "locks",
        "sigpending",
        "msgqueue",
        "nice",
        "rtprio",
        "rttime",
    ];
    names
        .iter()
        .position(|known| *known == name)
        .map(|number| number as u32)
}
