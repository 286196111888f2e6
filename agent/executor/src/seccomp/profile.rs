//! The rules as data, and which of them hold for a process.

/// The architecture whose calls are filtered, with the older ABI that its kernels also run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64, and i386.
    X86_64,
    /// 64-bit Arm, and 32-bit Arm.
    Aarch64,
}

impl Architecture {
    /// The one that this program was built for.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };
}

/// What an argument must be. Arguments are compared as the 32 bits that the kernel uses of them:
/// the flags and numbers in question are all `int`s, and garbage in the upper half must not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The argument's value.
    Equal(u32),
    /// Below.
    Less(u32),
    /// Above.
    Greater(u32),
    /// None of these bits is set.
    Without(u32),
}

/// What happens on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is made.
    Allow,
    /// It fails with this number.
    Fail(u16),
}

/// When a rule holds.
#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    /// The process may gain this capability.
    Capable(&'static str),
    /// It may not.
    Incapable(&'static str),
    /// On this architecture.
    On(Architecture),
}

/// Calls and what happens on them.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Space-separated names.
    names: &'static str,
    /// What happens if `check` holds, or always where there is none.
    pub outcome: Outcome,
    /// The number of an argument, and what it must be.
    pub check: Option<(u8, Check)>,
    when: When,
}

impl Rule {
    /// The calls, by name.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.names.split_ascii_whitespace()
    }
}

const fn allow(when: When, names: &'static str) -> Rule {
    Rule {
        names,
        outcome: Outcome::Allow,
        check: None,
        when,
    }
}

const fn allow_if(when: When, names: &'static str, argument: u8, check: Check) -> Rule {
    Rule {
        names,
        outcome: Outcome::Allow,
        check: Some((argument, check)),
        when,
    }
}

use When::{Always, Capable, Incapable, On};

const AF_ALG: u32 = 38;
const AF_VSOCK: u32 = 40;
/// `CLONE_NEW{NS,UTS,IPC,USER,PID,NET,CGROUP}`.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
const ENOSYS: u16 = 38;

/// All rules.
static RULES: &[Rule] = &[
    allow(Always, include_str!("allowed.txt")),
    allow(Always, "process_vm_readv process_vm_writev ptrace"),
    // The kernel's own crypto and the host's sockets are not for builds; every other family is.
    allow_if(Always, "socket", 0, Check::Less(AF_ALG)),
    allow_if(Always, "socket", 0, Check::Equal(AF_ALG + 1)),
    allow_if(Always, "socket", 0, Check::Greater(AF_VSOCK)),
    // Linux, Linux32, each also with UNAME26, and the query.
    allow_if(Always, "personality", 0, Check::Equal(0)),
    allow_if(Always, "personality", 0, Check::Equal(0x8)),
    allow_if(Always, "personality", 0, Check::Equal(0x2_0000)),
    allow_if(Always, "personality", 0, Check::Equal(0x2_0008)),
    allow_if(Always, "personality", 0, Check::Equal(u32::MAX)),
    allow(
        On(Architecture::Aarch64),
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
    allow(On(Architecture::X86_64), "arch_prctl modify_ldt"),
    allow(Capable("CAP_DAC_READ_SEARCH"), "open_by_handle_at"),
    allow(
        Capable("CAP_SYS_ADMIN"),
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount umount2 unshare",
    ),
    allow_if(
        Incapable("CAP_SYS_ADMIN"),
        "clone",
        0,
        Check::Without(NEW_NAMESPACES),
    ),
    // Its flags are behind a pointer, which a filter can't follow.
    Rule {
        names: "clone3",
        outcome: Outcome::Fail(ENOSYS),
        check: None,
        when: Incapable("CAP_SYS_ADMIN"),
    },
    allow(Capable("CAP_SYS_BOOT"), "reboot"),
    allow(Capable("CAP_SYS_CHROOT"), "chroot"),
    allow(
        Capable("CAP_SYS_MODULE"),
        "delete_module init_module finit_module",
    ),
    allow(Capable("CAP_SYS_PACCT"), "acct"),
    allow(
        Capable("CAP_SYS_PTRACE"),
        "kcmp pidfd_getfd process_madvise",
    ),
    allow(Capable("CAP_SYS_RAWIO"), "iopl ioperm"),
    allow(
        Capable("CAP_SYS_TIME"),
        "settimeofday stime clock_settime clock_settime64",
    ),
    allow(Capable("CAP_SYS_TTY_CONFIG"), "vhangup"),
    allow(
        Capable("CAP_SYS_NICE"),
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    allow(Capable("CAP_SYSLOG"), "syslog"),
    allow(Capable("CAP_BPF"), "bpf"),
    allow(Capable("CAP_PERFMON"), "perf_event_open"),
];

/// The rules that hold for a process. Earlier rules for a call come first.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Where it runs.
    pub architecture: Architecture,
    rules: Vec<Rule>,
}

impl Profile {
    /// The default profile for a process whose bounding set is `capabilities` (`CAP_…`).
    pub fn new(architecture: Architecture, capabilities: &[&str]) -> Self {
        let holds = |when: When| match when {
            When::Always => true,
            When::Capable(capability) => capabilities.contains(&capability),
            When::Incapable(capability) => !capabilities.contains(&capability),
            When::On(on) => on == architecture,
        };
        Self {
            architecture,
            rules: RULES
                .iter()
                .copied()
                .filter(|rule| holds(rule.when))
                .collect(),
        }
    }

    /// Its rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(profile: &Profile, name: &str) -> usize {
        profile
            .rules()
            .iter()
            .filter(|rule| rule.names().any(|n| n == name))
            .count()
    }

    #[test]
    fn rules_follow_capabilities_and_architecture() {
        let plain = Profile::new(Architecture::X86_64, &["CAP_SYS_CHROOT"]);
        let admin = Profile::new(Architecture::Aarch64, &["CAP_SYS_ADMIN"]);
        let cases = [
            ("mount", 0, 1),
            ("chroot", 1, 0),
            ("clone", 1, 1),
            ("clone3", 1, 1),
            ("arch_prctl", 1, 0),
            ("set_tls", 0, 1),
            ("socket", 3, 3),
            ("keyctl", 0, 0),
            ("io_uring_setup", 0, 0),
            ("openat2", 1, 1),
        ];
        for (name, in_plain, in_admin) in cases {
            assert_eq!(outcomes(&plain, name), in_plain, "{name}");
            assert_eq!(outcomes(&admin, name), in_admin, "{name} as admin");
        }
    }
}
