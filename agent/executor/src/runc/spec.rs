//! A container as OCI runtime data.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxCpuBuilder,
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder,
    LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
    Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::isolation::{
    CAPABILITIES, DEVICES, Device, LOOP_DEVICES, MASKED_PATHS, PRIVILEGED_DEVICES, READONLY_PATHS,
    SHM_SIZE, STANDARD_MOUNTS, own_capabilities,
};
use crate::limits::Limits;
use crate::seccomp::{Architecture, Profile, to_oci};
use crate::{ContainerSpec, Network, ProcessSpec};

type Result<T> = std::result::Result<T, OciSpecError>;

/// What the container is made of, on the host.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) container: &'a ContainerSpec,
    /// Where the root is mounted.
    pub(super) root: &'a Path,
    /// Targets, and where their sources are mounted.
    pub(super) mounts: &'a [(PathBuf, PathBuf)],
    /// Relative paths are below the daemon's own; `None` where it may not make any.
    pub(super) cgroup: Option<&'a str>,
    pub(super) cgroup_namespace: bool,
}

pub(super) fn spec(parts: &Parts<'_>, process: Process) -> Result<Spec> {
    let container = parts.container;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(parts)?)
        .devices(if container.privileged {
            privileged_devices()?
        } else {
            Vec::new()
        })
        .masked_paths(paths(container, &MASKED_PATHS))
        .readonly_paths(paths(container, &READONLY_PATHS))
        .resources(resources(parts)?);
    if let Some(cgroup) = parts.cgroup {
        linux = linux.cgroups_path(cgroup);
    }
    if !container.privileged {
        linux = linux.seccomp(to_oci(&Profile::new(Architecture::NATIVE, &CAPABILITIES))?);
    }
    SpecBuilder::default()
        .version("1.0.2")
        .root(
            RootBuilder::default()
                .path(parts.root)
                .readonly(container.readonly_root)
                .build()?,
        )
        .hostname(container.hostname.as_str())
        .mounts(mounts(parts)?)
        .process(process)
        .linux(linux.build()?)
        .build()
}

fn paths(container: &ContainerSpec, paths: &[&str]) -> Vec<String> {
    if container.privileged {
        return Vec::new();
    }
    paths.iter().map(|&path| path.to_owned()).collect()
}

/// The first process, or a further one.
pub(super) fn process(container: &ContainerSpec, process: &ProcessSpec) -> Result<Process> {
    let mut groups = process.additional_gids.clone();
    if !groups.contains(&process.gid) {
        groups.insert(0, process.gid);
    }
    ProcessBuilder::default()
        .terminal(process.terminal)
        .args(process.args.clone())
        .env(process.env.clone())
        .cwd(if process.cwd.as_os_str().is_empty() {
            Path::new("/")
        } else {
            &process.cwd
        })
        .no_new_privileges(false)
        .user(
            UserBuilder::default()
                .uid(process.uid)
                .gid(process.gid)
                .additional_gids(groups)
                .build()?,
        )
        .capabilities(capabilities(container.privileged)?)
        .rlimits(rlimits(container)?)
        .build()
}

fn rlimits(container: &ContainerSpec) -> Result<Vec<PosixRlimit>> {
    container
        .ulimits
        .iter()
        .map(|(name, soft, hard)| {
            let name = format!("RLIMIT_{}", name.to_ascii_uppercase());
            PosixRlimitBuilder::default()
                .typ(
                    PosixRlimitType::from_str(&name)
                        .map_err(|_| OciSpecError::Other(format!("unknown limit {name}")))?,
                )
                .soft(*soft)
                .hard(*hard)
                .build()
        })
        .collect()
}

fn capabilities(privileged: bool) -> Result<LinuxCapabilities> {
    let names = if privileged {
        own_capabilities()
    } else {
        CAPABILITIES.to_vec()
    };
    let set: HashSet<Capability> = names
        .iter()
        .filter_map(|name| Capability::from_str(name.trim_start_matches("CAP_")).ok())
        .collect();
    let inherited = if privileged {
        set.clone()
    } else {
        HashSet::new()
    };
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .permitted(set.clone())
        .effective(set)
        .inheritable(inherited.clone())
        .ambient(inherited)
        .build()
}

fn namespaces(parts: &Parts<'_>) -> Result<Vec<LinuxNamespace>> {
    let new = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
    let mut out = vec![
        new(LinuxNamespaceType::Pid)?,
        new(LinuxNamespaceType::Ipc)?,
        new(LinuxNamespaceType::Uts)?,
        new(LinuxNamespaceType::Mount)?,
    ];
    match &parts.container.network {
        Network::Host => {}
        Network::None => out.push(new(LinuxNamespaceType::Network)?),
        Network::Namespace(path) => out.push(
            LinuxNamespaceBuilder::default()
                .typ(LinuxNamespaceType::Network)
                .path(path)
                .build()?,
        ),
    }
    if parts.cgroup_namespace {
        out.push(new(LinuxNamespaceType::Cgroup)?);
    }
    Ok(out)
}

fn mount(
    target: impl Into<PathBuf>,
    typ: &str,
    source: impl Into<PathBuf>,
    options: &[&str],
) -> Result<Mount> {
    MountBuilder::default()
        .destination(target)
        .typ(typ)
        .source(source)
        .options(options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>())
        .build()
}

fn mounts(parts: &Parts<'_>) -> Result<Vec<Mount>> {
    let container = parts.container;
    let access = if container.privileged { "rw" } else { "ro" };
    let mut out = Vec::new();
    for standard in STANDARD_MOUNTS {
        let shm = format!("size={}", container.shm_size.unwrap_or(SHM_SIZE));
        let mut options: Vec<&str> = standard
            .options
            .iter()
            .map(|&option| if option == "ro" { access } else { option })
            .collect();
        if standard.target == "/dev/shm" {
            options.push(&shm);
        }
        out.push(mount(
            standard.target,
            standard.fstype,
            standard.fstype,
            &options,
        )?);
    }
    let fixed = ["nosuid", "noexec", "nodev", "rbind", "ro"];
    for (target, file) in [
        ("/etc/resolv.conf", &container.resolv_conf),
        ("/etc/hosts", &container.etc_hosts),
    ] {
        if let Some(file) = file {
            out.push(mount(target, "bind", file, &fixed)?);
        }
    }
    if parts.cgroup.is_some() {
        let options = [access, "nosuid", "noexec", "nodev"];
        out.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &options)?);
    }
    for (target, source) in parts.mounts {
        let own = mount(target, "bind", source, &["rbind"])?;
        // A mount of the step's own takes the place of a standard one.
        match out.iter_mut().find(|m| m.destination() == target) {
            Some(standard) => *standard = own,
            None => out.push(own),
        }
    }
    Ok(out)
}

fn device(path: PathBuf, device: &Device) -> Result<LinuxDevice> {
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(if device.block {
            LinuxDeviceType::B
        } else {
            LinuxDeviceType::C
        })
        .major(i64::from(device.major))
        .minor(i64::from(device.minor))
        .file_mode(0o666_u32)
        .build()
}

fn privileged_devices() -> Result<Vec<LinuxDevice>> {
    let loops = (0..LOOP_DEVICES).map(|minor| {
        let path = PathBuf::from(format!("/dev/loop{minor}"));
        device(
            path,
            &Device {
                path: "",
                block: true,
                major: 7,
                minor,
            },
        )
    });
    PRIVILEGED_DEVICES
        .iter()
        .map(|d| device(d.path.into(), d))
        .chain(loops)
        .collect()
}

fn resources(parts: &Parts<'_>) -> Result<LinuxResources> {
    let mut rules = Vec::new();
    if parts.container.privileged {
        for typ in [LinuxDeviceType::C, LinuxDeviceType::B] {
            rules.push(
                LinuxDeviceCgroupBuilder::default()
                    .allow(true)
                    .typ(typ)
                    .access("rwm")
                    .build()?,
            );
        }
    } else {
        rules.push(
            LinuxDeviceCgroupBuilder::default()
                .allow(false)
                .access("rwm")
                .build()?,
        );
        // runc adds what a container's standard devices need.
        debug_assert!(!DEVICES.is_empty());
    }
    let mut builder = LinuxResourcesBuilder::default().devices(rules);
    let limits = Limits::parse(&parts.container.limits);
    if limits.memory.is_some() || limits.memory_swap.is_some() {
        let mut memory = LinuxMemoryBuilder::default();
        if let Some(limit) = limits.memory {
            memory = memory.limit(limit);
        }
        if let Some(swap) = limits.memory_swap {
            memory = memory.swap(swap + limits.memory.unwrap_or(0));
        }
        builder = builder.memory(memory.build()?);
    }
    if limits.cpu_quota.is_some()
        || limits.cpu_weight.is_some()
        || limits.cpus.is_some()
        || limits.mems.is_some()
    {
        let mut cpu = LinuxCpuBuilder::default();
        if let Some((quota, period)) = limits.cpu_quota {
            cpu = cpu.period(period);
            if let Some(quota) = quota {
                cpu = cpu.quota(quota);
            }
        }
        if let Some(weight) = limits.cpu_weight {
            cpu = cpu.shares(Limits::shares(weight));
        }
        if let Some(cpus) = limits.cpus {
            cpu = cpu.cpus(cpus);
        }
        if let Some(mems) = limits.mems {
            cpu = cpu.mems(mems);
        }
        builder = builder.cpu(cpu.build()?);
    }
    if let Some(pids) = limits.pids {
        builder = builder.pids(LinuxPidsBuilder::default().limit(pids).build()?);
    }
    builder.build()
}
