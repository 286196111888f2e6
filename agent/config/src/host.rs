//! `settings.toml`: what the owner of the machine (`kiln-vmd`) is told.
//!
//! ```toml
//! driver = "qemu"            # or "native": no machine, a child kilnd (Linux)
//! accelerator = "auto"       # "kvm" or "tcg" to insist
//! cpus = 4
//! memory = "4GiB"
//! disk = "64GiB"             # the most that the disk's file may grow to
//! idle-stop = "5m"           # or "never"
//! ca-files = ["/etc/ssl/corporate.pem"]
//! buildkitd-toml = """…"""
//! [proxy]
//! http = "http://proxy:3128"
//! https = "http://proxy:3128"
//! no-proxy = "localhost,.corp"
//! [[allow]]                  # a port of the host's loopback, for builds: host.kiln.internal:5000
//! name = "registry"
//! port = 5000
//! ```
//! Invariant: settings that pass [`HostSettings::check`] are possible on some host; whether on this one is
//! for the driver to say.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::{ConfigError, DiskSpace, Seconds};

const DEFAULT_IDLE: Duration = Duration::from_secs(300);
/// Less than this and the engine has no room to work.
const LEAST_MEMORY: u64 = 512 << 20;
const MOST_MEMORY: u64 = 4 << 40;
const LEAST_DISK: u64 = 1 << 30;
const MOST_DISK: u64 = 16 << 40;
const MOST_CPUS: u32 = 255;
/// Of a machine that nobody gave sizes.
const DEFAULT_DISK: u64 = 64 << 30;
const LEAST_DEFAULT_MEMORY: u64 = 1 << 30;
const MOST_DEFAULT_MEMORY: u64 = 8 << 30;

/// What runs the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverChoice {
    /// A virtual machine.
    #[default]
    Qemu,
    /// A child process.
    Native,
}

/// What runs the machine's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcceleratorChoice {
    /// The best that is found to work.
    #[default]
    Auto,
    /// The kernel's virtualisation.
    Kvm,
    /// Translation; slow, works everywhere.
    Tcg,
}

/// An amount of memory or disk: bytes, or a text such as `4GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// How long an idle machine is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleStop {
    /// For ever.
    Never,
    /// So long.
    After(Duration),
}

/// Proxies for pulls, pushes and steps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProxySettings {
    /// `HTTP_PROXY`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub http: String,
    /// `HTTPS_PROXY`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub https: String,
    /// `NO_PROXY`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub no_proxy: String,
}

/// A port of the host's loopback that builds may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRule {
    /// For people.
    pub name: String,
    /// The port, on both sides.
    pub port: u16,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostSettings {
    /// What runs the engine.
    pub driver: DriverChoice,
    /// What runs the machine's code.
    pub accelerator: AcceleratorChoice,
    /// Processors; half of the host's if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory; a quarter of the host's if not given, between 1 and 8 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// The most that the disk may grow to; 64 GiB if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Size>,
    /// How long an idle machine is kept; five minutes if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_stop: Option<IdleStop>,
    /// Certificates that the engine trusts beside the usual ones (PEM).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_files: Vec<PathBuf>,
    /// The engine's own configuration.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub buildkitd_toml: String,
    /// Proxies.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy: ProxySettings,
    /// What of the host's loopback builds may reach.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<AllowRule>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A setting that can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct SettingsError {
    /// Its name in the file.
    pub setting: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl HostSettings {
    /// Parses and checks the text of the file; `path` is only named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let settings: Self = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        settings.check().map_err(|problem| ConfigError::Setting {
            path: path.to_owned(),
            problem,
        })?;
        Ok(settings)
    }

    /// Reads `path`; a file that doesn't exist says nothing, so that the defaults hold.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// The text of the file.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }

    /// Refuses what no host can do.
    pub fn check(&self) -> Result<(), SettingsError> {
        let refuse = |setting, problem: String| Err(SettingsError { setting, problem });
        if let Some(cpus) = self.cpus.filter(|cpus| !(1..=MOST_CPUS).contains(cpus)) {
            return refuse("cpus", format!("{cpus} isn't between 1 and {MOST_CPUS}"));
        }
        for (setting, size, least, most) in [
            ("memory", self.memory, LEAST_MEMORY, MOST_MEMORY),
            ("disk", self.disk, LEAST_DISK, MOST_DISK),
        ] {
            if let Some(size) = size.filter(|size| !(least..=most).contains(&size.0)) {
                let (least, most) = (Size(least), Size(most));
                return refuse(setting, format!("{size} isn't between {least} and {most}"));
            }
        }
        if let Some(path) = self.ca_files.iter().find(|path| !path.is_absolute()) {
            return refuse(
                "ca-files",
                format!("{} isn't an absolute path", path.display()),
            );
        }
        for (setting, value) in [
            ("proxy.http", &self.proxy.http),
            ("proxy.https", &self.proxy.https),
        ] {
            let known = ["http://", "https://", "socks5://", "socks5h://"];
            let fits = known.iter().any(|scheme| value.starts_with(scheme));
            if !value.is_empty() && (!fits || value.contains(char::is_whitespace)) {
                // The value may hold a password.
                return refuse(setting, "want a URL such as http://proxy:3128".into());
            }
        }
        if self.proxy.no_proxy.contains(char::is_control) {
            return refuse("proxy.no-proxy", "want one line of names".into());
        }
        for (index, rule) in self.allow.iter().enumerate() {
            if rule.port == 0 {
                return refuse("allow", format!("{:?}: port 0 isn't a port", rule.name));
            }
            let before = &self.allow[..index];
            if before.iter().any(|other| other.port == rule.port) {
                return refuse("allow", format!("port {} is named twice", rule.port));
            }
        }
        if let Err(error) = crate::parse(&self.buildkitd_toml, Path::new("buildkitd.toml")) {
            return refuse("buildkitd-toml", error.to_string());
        }
        Ok(())
    }

    /// The machine's processors on a host of so many.
    pub fn cpus_of(&self, host: u32) -> u32 {
        self.cpus.unwrap_or((host / 2).max(2).min(host))
    }

    /// The machine's memory on a host of so much.
    pub fn memory_of(&self, host: u64) -> u64 {
        self.memory.map_or_else(
            || (host / 4).clamp(LEAST_DEFAULT_MEMORY, MOST_DEFAULT_MEMORY) >> 20 << 20,
            |size| size.0,
        )
    }

    /// The most that the disk may grow to.
    pub fn disk_size(&self) -> u64 {
        self.disk.map_or(DEFAULT_DISK, |size| size.0)
    }

    /// How long an idle machine is kept.
    pub fn idle_stop(&self) -> IdleStop {
        self.idle_stop.unwrap_or(IdleStop::After(DEFAULT_IDLE))
    }

    /// Names of the settings that differ and that a running machine can't take over.
    pub fn needing_restart(&self, other: &Self) -> Vec<&'static str> {
        [
            ("driver", self.driver != other.driver),
            ("accelerator", self.accelerator != other.accelerator),
            ("cpus", self.cpus != other.cpus),
            ("memory", self.memory != other.memory),
            ("disk", self.disk != other.disk),
            ("proxy", self.proxy != other.proxy),
            ("allow", self.allow != other.allow),
            ("ca-files", self.ca_files != other.ca_files),
            (
                "buildkitd-toml",
                self.buildkitd_toml != other.buildkitd_toml,
            ),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match DiskSpace::deserialize(deserializer)? {
            DiskSpace::Bytes(bytes) => Ok(Self(bytes)),
            DiskSpace::Percent(_) => Err(de::Error::custom("want bytes, not a share")),
        }
    }
}

impl Serialize for IdleStop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Never => serializer.serialize_str("never"),
            Self::After(time) if time.subsec_nanos() == 0 => {
                serializer.collect_str(&format_args!("{}s", time.as_secs()))
            }
            Self::After(time) => serializer.collect_str(&format_args!("{}ms", time.as_millis())),
        }
    }
}

impl<'de> Deserialize<'de> for IdleStop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(seconds) => Ok(Self::After(Duration::from_secs(seconds))),
            Form::Text(text) if text == "never" => Ok(Self::Never),
            Form::Text(text) => match text.parse::<Seconds>() {
                Ok(Seconds(time)) => Ok(Self::After(time)),
                Err(error) => Err(de::Error::custom(format_args!("{error}, or \"never\""))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<HostSettings, String> {
        HostSettings::parse(text, Path::new("settings.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_file_comes_back_as_it_went() {
        let settings = parse(
            r#"
            driver = "native"
            accelerator = "tcg"
            cpus = 3
            memory = "1.5GiB"
            disk = 68719476736
            idle-stop = "1h30m"
            ca-files = ["/a.pem"]
            buildkitd-toml = "debug = true"
            [proxy]
            https = "http://proxy:3128"
            no-proxy = "localhost"
            [[allow]]
            name = "registry"
            port = 5000
            "#,
        )
        .unwrap();
        assert_eq!(settings.memory, Some(Size(3 << 29)));
        assert_eq!(
            settings.idle_stop(),
            IdleStop::After(Duration::from_secs(5400))
        );
        let text = settings.to_toml().unwrap();
        assert_eq!(parse(&text), Ok(settings), "{text}");
        assert!(text.contains("disk = \"64GiB\""), "{text}");
        let empty = HostSettings::default();
        assert_eq!(parse(&empty.to_toml().unwrap()), Ok(empty.clone()));
        assert_eq!(parse(""), Ok(empty));
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        for (text, want) in [
            ("cpu = 3", "cpu"),
            ("[proxy]\nftp = \"x\"", "line 2"),
            ("cpus = 0", "cpus: 0 isn't between 1 and 255"),
            (
                "memory = \"1MB\"",
                "memory: 1MiB isn't between 512MiB and 4TiB",
            ),
            ("memory = \"50%\"", "not a share"),
            (
                "disk = \"100TB\"",
                "disk: 100TiB isn't between 1GiB and 16TiB",
            ),
            ("disk = -1", "negative"),
            ("idle-stop = \"soon\"", "or \"never\""),
            ("driver = \"vmware\"", "vmware"),
            ("ca-files = [\"a.pem\"]", "ca-files"),
            ("[proxy]\nhttp = \"proxy:1\"", "proxy.http"),
            ("[[allow]]\nname = \"x\"\nport = 0", "port 0"),
            ("[[allow]]\nname = \"x\"\nport = 70000", "port"),
            (
                "[[allow]]\nname = \"x\"\nport = 1\n[[allow]]\nname = \"y\"\nport = 1",
                "named twice",
            ),
            ("buildkitd-toml = \"wroker = 1\"", "wroker"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
            assert!(error.contains("settings.toml"), "{error}");
        }
    }

    #[test]
    fn a_proxy_password_is_not_repeated() {
        let error = parse("[proxy]\nhttp = \"me:hunter2@proxy\"").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn changes_are_told_apart() {
        let before = HostSettings::default();
        let mut after = before.clone();
        after.idle_stop = Some(IdleStop::Never);
        assert!(before.needing_restart(&after).is_empty());
        after.cpus = Some(2);
        after.proxy.http = "http://p:1".into();
        assert_eq!(before.needing_restart(&after), ["cpus", "proxy"]);
    }
}
