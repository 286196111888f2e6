//! What the daemon and its slots say to each other. Descriptors are numbers into the list that came
//! with a message.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// From the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    /// The first one.
    Prepare(Prepare),
    /// Make a container and run its first process.
    Run(Box<Run>),
    /// Run a further process in it.
    Exec(Box<Exec>),
}

/// What stays the same for all containers of a slot.
#[derive(Debug, Serialize, Deserialize)]
pub struct Prepare {
    /// The seccomp program, as code, jumps and constant; empty for none.
    pub filter: Vec<(u16, u8, u8, u32)>,
    /// Names below `/sys/fs/cgroup`; as many descriptors of mounts came along.
    pub cgroups: Vec<String>,
    /// A directory that may be mounted over for a moment.
    pub scratch: PathBuf,
}

/// A container and its first process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// Comes back with what happens.
    pub token: u64,
    /// The container.
    pub container: Container,
    /// The process.
    pub process: Process,
}

/// A further process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// Comes back with what happens.
    pub token: u64,
    /// The process.
    pub process: Process,
}

/// A container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Container {
    /// Its own name.
    pub hostname: String,
    /// The network.
    pub net: Net,
    /// A descriptor of the root, a detached mount.
    pub root: usize,
    /// Refuse writes to the root.
    pub readonly_root: bool,
    /// Without device nodes in the root and its mounts (where no cgroup guards them).
    pub nodev: bool,
    /// A descriptor of a version 2 cgroup to start in.
    pub cgroup: Option<usize>,
    /// Let it write to its cgroups.
    pub writable_cgroups: bool,
    /// `/proc`, `/dev` and so on, in order.
    pub standard: Vec<Standard>,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// Further mounts, in order.
    pub mounts: Vec<Attach>,
    /// Hidden.
    pub masked: Vec<String>,
    /// Made read-only.
    pub readonly: Vec<String>,
}

/// A network.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Net {
    /// The slot's, which is the daemon's.
    Keep,
    /// A new one with a loopback device.
    New,
    /// The one of this descriptor.
    Join(usize),
}

/// A standard file system.
#[derive(Debug, Serialize, Deserialize)]
pub struct Standard {
    /// Where.
    pub target: String,
    /// Its type.
    pub fstype: String,
    /// As in `mount(8)`.
    pub options: Vec<String>,
}

/// A device node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Device {
    /// Where.
    pub path: String,
    /// A block device.
    pub block: bool,
    /// Driver.
    pub major: u32,
    /// Unit.
    pub minor: u32,
}

/// A detached mount and its place.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attach {
    /// Where, inside the root.
    pub target: PathBuf,
    /// The descriptor.
    pub mount: usize,
}

/// A process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Made if it isn't there.
    pub cwd: PathBuf,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Resource numbers with soft and hard limits.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// The capabilities it may have, as bits.
    pub capabilities: u64,
    /// It has them whoever it is.
    pub ambient: bool,
    /// Load the slot's filter.
    pub filtered: bool,
    /// A descriptor of the pipe for a [`Report`].
    pub report: usize,
    /// Its streams.
    pub streams: Streams,
}

/// Streams of a process.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Streams {
    /// Three descriptors.
    Given([usize; 3]),
    /// A new terminal, whose controlling side is sent over the socket of this descriptor.
    Terminal(usize),
}

/// From a slot.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The process is there; its pidfd comes along.
    Started {
        /// Of which job.
        token: u64,
    },
    /// It could not even be made.
    Failed {
        /// Of which job.
        token: u64,
        /// Why.
        report: Report,
    },
    /// It ended.
    Exited {
        /// Of which job.
        token: u64,
        /// 0 to 255; 128 + signal where a signal ended it.
        code: u32,
    },
}

/// Why a process could not be started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// What was tried.
    pub action: String,
    /// The kernel's answer.
    pub errno: i32,
    /// It is about the program to be executed.
    pub program: bool,
}

impl Report {
    /// Names what was tried.
    pub(super) fn new(action: impl Into<String>, error: &std::io::Error) -> Self {
        Self {
            action: action.into(),
            errno: error.raw_os_error().unwrap_or(libc::EINVAL),
            program: false,
        }
    }
}
