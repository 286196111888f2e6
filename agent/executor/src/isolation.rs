//! What a step may do and see, for every executor: capabilities, masked paths, standard mounts and
//! devices. The values are those of BuildKit's containers.

/// Capabilities of a step, unless it is privileged.
pub const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All capabilities by number.
pub const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Capabilities as the kernel's bit set.
pub fn capability_bits<'a>(names: impl IntoIterator<Item = &'a str>) -> u64 {
    names
        .into_iter()
        .filter_map(|name| ALL_CAPABILITIES.iter().position(|known| *known == name))
        .fold(0, |bits, number| bits | 1 << number)
}

/// The capabilities that this process could hand on, by name.
pub fn own_capabilities() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    ALL_CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| bits & (1 << number) != 0)
        .map(|(_, name)| *name)
        .collect()
}

/// Hidden from a step.
pub const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

/// A step can't write there.
pub const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Size of `/dev/shm` where nobody says.
pub const SHM_SIZE: u64 = 64 << 20;

/// A file system that every container has.
#[derive(Debug, Clone, Copy)]
pub struct StandardMount {
    /// Where.
    pub target: &'static str,
    /// Its type.
    pub fstype: &'static str,
    /// Its options. `/dev/shm` gets its size from the container.
    pub options: &'static [&'static str],
}

const fn standard(
    target: &'static str,
    fstype: &'static str,
    options: &'static [&'static str],
) -> StandardMount {
    StandardMount {
        target,
        fstype,
        options,
    }
}

/// In the order in which they are mounted.
pub const STANDARD_MOUNTS: [StandardMount; 6] = [
    standard("/proc", "proc", &["nosuid", "noexec", "nodev"]),
    standard(
        "/dev",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    standard(
        "/dev/pts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    ),
    standard(
        "/dev/shm",
        "tmpfs",
        &["nosuid", "noexec", "nodev", "mode=1777"],
    ),
    standard("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    standard("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
];

/// A character or block device.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    /// Where.
    pub path: &'static str,
    /// A block device.
    pub block: bool,
    /// Driver.
    pub major: u32,
    /// Unit.
    pub minor: u32,
}

const fn character(path: &'static str, major: u32, minor: u32) -> Device {
    Device {
        path,
        block: false,
        major,
        minor,
    }
}

/// In every container.
pub const DEVICES: [Device; 6] = [
    character("/dev/null", 1, 3),
    character("/dev/zero", 1, 5),
    character("/dev/full", 1, 7),
    character("/dev/random", 1, 8),
    character("/dev/urandom", 1, 9),
    character("/dev/tty", 5, 0),
];

/// In privileged ones too, beside [`LOOP_DEVICES`] block devices `/dev/loopN`.
pub const PRIVILEGED_DEVICES: [Device; 6] = [
    character("/dev/kmsg", 1, 11),
    character("/dev/cuse", 10, 203),
    character("/dev/fuse", 10, 229),
    character("/dev/kvm", 10, 232),
    character("/dev/net/tun", 10, 200),
    character("/dev/loop-control", 10, 237),
];

/// How many loop devices a privileged container gets.
pub const LOOP_DEVICES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_their_kernel_numbers() {
        assert_eq!(capability_bits(["CAP_CHOWN"]), 1);
        assert_eq!(capability_bits(["CAP_SYS_ADMIN"]), 1 << 21);
        assert_eq!(capability_bits(["CAP_CHECKPOINT_RESTORE"]), 1 << 40);
        assert_eq!(capability_bits(CAPABILITIES), 0xa804_25fb);
    }
}
