//! Where Kiln's own programs keep what on the host, and the environment that moves it.
//!
//! ```text
//! RUNTIME/  0700, gone after a reboot: $KILN_RUNTIME_DIR, else $XDG_RUNTIME_DIR/kiln,
//!           else /run/kiln for root and /tmp/kiln-UID for others
//!   host.sock        kiln.host.v1                     vmd.lock     who owns all this
//!   buildkitd.sock   BuildKit's API                   vmd.log      the owner's log, when a client started it
//!   agent.sock       kiln.agent.v1 (and BuildKit's)   machine/     between the owner and its machine
//! STATE/    $KILN_STATE_DIR, else $XDG_DATA_HOME/kiln, else ~/.local/share/kiln
//!   data.raw         the machine's disk               native/      the state of an engine without a machine
//!   console.log      what the machine printed         verdicts.json  what was learned about accelerators
//! CONFIG/   $KILN_CONFIG_DIR, else $XDG_CONFIG_HOME/kiln, else ~/.config/kiln
//!   settings.toml
//! ```
//! | variable | what it names |
//! |---|---|
//! | `KILN_RUNTIME_DIR`, `KILN_STATE_DIR`, `KILN_CONFIG_DIR` | the directories above |
//! | `KILN_VMD`, `KILN_KILND`, `KILN_QEMU` | programs, where they aren't beside the caller or in `PATH` |
//! | `KILN_GUEST` | the directory with the guest image |
//! | `KILN_DRIVER` | the driver, instead of the setting |
//!
//! Invariant: a socket's path fits into the 104 bytes that every system's `sockaddr_un` has, or it is refused here, with
//! what to do about it.

use std::path::{Path, PathBuf};

/// The longest path of a socket on every system that Kiln is made for, with its closing zero.
pub const LONGEST_SOCKET_PATH: usize = 104;

/// Names of variables.
pub mod variable {
    /// Sockets.
    pub const RUNTIME_DIR: &str = "KILN_RUNTIME_DIR";
    /// Disk and logs.
    pub const STATE_DIR: &str = "KILN_STATE_DIR";
    /// Settings.
    pub const CONFIG_DIR: &str = "KILN_CONFIG_DIR";
    /// The program `kiln-vmd`.
    pub const VMD: &str = "KILN_VMD";
    /// The program `kilnd`.
    pub const KILND: &str = "KILN_KILND";
    /// The program `qemu-system-…`.
    pub const QEMU: &str = "KILN_QEMU";
    /// The directory of the guest image.
    pub const GUEST: &str = "KILN_GUEST";
    /// The driver, instead of the setting.
    pub const DRIVER: &str = "KILN_DRIVER";
}

/// Why there are no paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathsError {
    /// Neither the variable nor a home directory is set.
    #[error("no home directory: set HOME, or {variable}")]
    NoHome {
        /// The variable that would do.
        variable: &'static str,
    },
    /// A variable holds a path that depends on where one stands.
    #[error("{variable}={value:?} isn't an absolute path")]
    Relative {
        /// Which one.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// The system couldn't bind it.
    #[error(
        "the path of the socket {path} has {length} bytes and the system takes {}: set KILN_RUNTIME_DIR to a shorter directory",
        LONGEST_SOCKET_PATH - 1
    )]
    SocketTooLong {
        /// The socket.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
}

/// The three directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPaths {
    /// Sockets and the lock.
    pub runtime: PathBuf,
    /// Disk and logs.
    pub state: PathBuf,
    /// Settings.
    pub config: PathBuf,
}

impl HostPaths {
    /// The directories of the user `uid`, with the environment of this process.
    pub fn of_user(uid: u32) -> Result<Self, PathsError> {
        Self::resolve(uid, |name| std::env::var_os(name).map(PathBuf::from))
    }

    /// The directories of the user `uid` in an environment.
    pub fn resolve(
        uid: u32,
        environment: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<Self, PathsError> {
        let given = |name: &'static str| match environment(name) {
            Some(path) if path.as_os_str().is_empty() => Ok(None),
            Some(path) if path.is_absolute() => Ok(Some(path)),
            Some(path) => Err(PathsError::Relative {
                variable: name,
                value: path.display().to_string(),
            }),
            None => Ok(None),
        };
        // The base directories' own rule: what isn't absolute counts as not set.
        let base = |name: &str| environment(name).filter(|path| path.is_absolute());
        let directory = |own: &'static str, general: &str, below_home: &str| {
            if let Some(path) = given(own)? {
                return Ok(path);
            }
            base(general)
                .or_else(|| base("HOME").map(|home| home.join(below_home)))
                .map(|path| path.join("kiln"))
                .ok_or(PathsError::NoHome { variable: own })
        };
        let runtime = match given(variable::RUNTIME_DIR)? {
            Some(path) => path,
            None => match base("XDG_RUNTIME_DIR") {
                Some(path) => path.join("kiln"),
                None if uid == 0 => PathBuf::from("/run/kiln"),
                None => PathBuf::from(format!("/tmp/kiln-{uid}")),
            },
        };
        let paths = Self {
            runtime,
            state: directory(variable::STATE_DIR, "XDG_DATA_HOME", ".local/share")?,
            config: directory(variable::CONFIG_DIR, "XDG_CONFIG_HOME", ".config")?,
        };
        paths.check_sockets()?;
        Ok(paths)
    }

    fn check_sockets(&self) -> Result<(), PathsError> {
        [
            self.host_socket(),
            self.buildkit_socket(),
            self.agent_socket(),
            self.machine_dir().join("engine.sock"),
        ]
        .iter()
        .try_for_each(|path| check_socket(path))
    }

    /// `kiln.host.v1`.
    pub fn host_socket(&self) -> PathBuf {
        self.runtime.join("host.sock")
    }

    /// BuildKit's API.
    pub fn buildkit_socket(&self) -> PathBuf {
        self.runtime.join("buildkitd.sock")
    }

    /// `kiln.agent.v1`.
    pub fn agent_socket(&self) -> PathBuf {
        self.runtime.join("agent.sock")
    }

    /// Whoever holds it owns the runtime directory.
    pub fn lock_file(&self) -> PathBuf {
        self.runtime.join("vmd.lock")
    }

    /// The log of an owner that a client started.
    pub fn vmd_log(&self) -> PathBuf {
        self.runtime.join("vmd.log")
    }

    /// Between the owner and its machine; emptied at each start.
    pub fn machine_dir(&self) -> PathBuf {
        self.runtime.join("machine")
    }

    /// The machine's disk.
    pub fn data_disk(&self) -> PathBuf {
        self.state.join("data.raw")
    }

    /// The state of an engine without a machine.
    pub fn native_root(&self) -> PathBuf {
        self.state.join("native")
    }

    /// What the machine printed.
    pub fn console_log(&self) -> PathBuf {
        self.state.join("console.log")
    }

    /// What was learned about accelerators.
    pub fn verdicts(&self) -> PathBuf {
        self.state.join("verdicts.json")
    }

    /// The settings.
    pub fn settings_file(&self) -> PathBuf {
        self.config.join("settings.toml")
    }
}

/// Refuses a socket that couldn't be bound.
pub fn check_socket(path: &Path) -> Result<(), PathsError> {
    let length = path.as_os_str().len();
    if length >= LONGEST_SOCKET_PATH {
        return Err(PathsError::SocketTooLong {
            path: path.to_owned(),
            length,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(uid: u32, environment: &[(&str, &str)]) -> Result<HostPaths, PathsError> {
        HostPaths::resolve(uid, |name| {
            let (_, value) = environment.iter().find(|(key, _)| *key == name)?;
            Some(PathBuf::from(value))
        })
    }

    #[test]
    fn directories_follow_the_environment() {
        let home = ("HOME", "/home/u");
        type Environment<'a> = &'a [(&'a str, &'a str)];
        let cases: [(u32, Environment<'_>, [&str; 3]); 5] = [
            (
                1000,
                &[home, ("XDG_RUNTIME_DIR", "/run/user/1000")],
                [
                    "/run/user/1000/kiln",
                    "/home/u/.local/share/kiln",
                    "/home/u/.config/kiln",
                ],
            ),
            (
                0,
                &[home],
                [
                    "/run/kiln",
                    "/home/u/.local/share/kiln",
                    "/home/u/.config/kiln",
                ],
            ),
            (
                7,
                &[home, ("XDG_DATA_HOME", "/d"), ("XDG_CONFIG_HOME", "/c")],
                ["/tmp/kiln-7", "/d/kiln", "/c/kiln"],
            ),
            (
                7,
                &[
                    home,
                    ("XDG_DATA_HOME", "relative"),
                    ("KILN_RUNTIME_DIR", ""),
                ],
                [
                    "/tmp/kiln-7",
                    "/home/u/.local/share/kiln",
                    "/home/u/.config/kiln",
                ],
            ),
            (
                7,
                &[
                    ("KILN_RUNTIME_DIR", "/r"),
                    ("KILN_STATE_DIR", "/s"),
                    ("KILN_CONFIG_DIR", "/c"),
                ],
                ["/r", "/s", "/c"],
            ),
        ];
        for (uid, environment, [runtime, state, config]) in cases {
            let want = HostPaths {
                runtime: runtime.into(),
                state: state.into(),
                config: config.into(),
            };
            assert_eq!(resolve(uid, environment), Ok(want), "{environment:?}");
        }
    }

    #[test]
    fn what_cannot_work_says_what_to_do() {
        let long = format!("/{}", "x".repeat(90));
        let cases: [(&[(&str, &str)], &str); 3] = [
            (&[], "set HOME, or KILN_STATE_DIR"),
            (&[("KILN_RUNTIME_DIR", "run")], "isn't an absolute path"),
            (
                &[("HOME", "/h"), ("KILN_RUNTIME_DIR", &long)],
                "set KILN_RUNTIME_DIR to a shorter directory",
            ),
        ];
        for (environment, want) in cases {
            let error = resolve(7, environment).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
