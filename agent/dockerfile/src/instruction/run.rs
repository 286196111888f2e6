//! `RUN` and what may be mounted into it.

use std::fmt;

use super::flags::{Flags, Kind};
use super::{CommandLine, InstructionError};
use crate::parse::Statement;
use crate::shell::WordError;
use crate::suggest::Suggestion;
use crate::text::{csv_fields, parse_bool, parse_ram};

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// The values of `--mount`, to be read when their variables are known.
    pub mounts: Vec<String>,
    /// `from=` of each mount, which must be known before: it joins stages.
    pub mount_froms: Vec<String>,
    /// `default`, `none` or `host`.
    pub network: String,
    /// `sandbox` or `insecure`.
    pub security: String,
    /// CDI devices.
    pub devices: Vec<Device>,
}

/// A device that the command may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// A CDI name.
    pub name: String,
    /// A missing device is an error.
    pub required: bool,
}

/// Kinds of mounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "they are the types of the Dockerfile reference"
)]
pub enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// What happens when two steps want one cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "they are the words of the Dockerfile reference"
)]
pub enum Sharing {
    Shared,
    Private,
    Locked,
}

/// A mount whose variables are expanded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the keys of the Dockerfile reference")]
pub struct Mount {
    pub kind: MountKind,
    pub from: String,
    pub source: String,
    pub target: String,
    pub readonly: bool,
    pub size: i64,
    pub id: String,
    pub sharing: Option<Sharing>,
    pub required: bool,
    pub env: Option<String>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

const KINDS: [(&str, MountKind); 5] = [
    ("bind", MountKind::Bind),
    ("cache", MountKind::Cache),
    ("tmpfs", MountKind::Tmpfs),
    ("secret", MountKind::Secret),
    ("ssh", MountKind::Ssh),
];

const SHARINGS: [(&str, Sharing); 3] = [
    ("shared", Sharing::Shared),
    ("private", Sharing::Private),
    ("locked", Sharing::Locked),
];

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

impl MountKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |k| k.0)
    }
}

impl fmt::Display for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Run {
    pub(super) fn parse(statement: &Statement) -> Result<Self, InstructionError> {
        let known = [
            ("mount", Kind::List),
            ("network", Kind::Text),
            ("security", Kind::Text),
            ("device", Kind::List),
        ];
        let flags = Flags::parse(&statement.flags, &known)?;
        let mounts = flags.list("mount");
        let network = single(&flags.text("network"), "default");
        if !matches!(network.as_str(), "default" | "none" | "host") {
            return Err(InstructionError::Network(network));
        }
        let security = single(&flags.text("security"), "sandbox");
        if !matches!(security.as_str(), "sandbox" | "insecure") {
            return Err(InstructionError::Security(security));
        }
        let devices = flags.list("device");
        Ok(Self {
            mount_froms: mounts
                .iter()
                .map(|m| from_of(m))
                .collect::<Result<_, _>>()?,
            mounts,
            network,
            security,
            devices: devices
                .iter()
                .map(|d| Device::parse(d))
                .collect::<Result<_, _>>()?,
            command: CommandLine::of(statement, &statement.args),
        })
    }
}

/// `text`, or what stands for no text.
pub(crate) fn single(text: &str, default: &str) -> String {
    if text.is_empty() { default } else { text }.to_owned()
}

impl Device {
    /// `vendor.com/class=name,required`
    pub(crate) fn parse(text: &str) -> Result<Self, InstructionError> {
        let fields = csv_fields(text).ok_or(InstructionError::Csv("devices"))?;
        let mut device = Self::default();
        for field in fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value)),
                None => (field.to_lowercase(), None),
            };
            match (key.as_str(), value) {
                ("required", None) => device.required = true,
                ("required", Some(value)) => {
                    device.required = parse_bool(value).ok_or_else(|| key_value(&key, value))?;
                }
                ("name", Some(_)) if !device.name.is_empty() => {
                    return Err(InstructionError::DeviceName(device.name));
                }
                ("name", Some(value)) => value.clone_into(&mut device.name),
                _ if device.name.is_empty() => device.name = field,
                (_, None) => return Err(InstructionError::NotPair(field)),
                (_, Some(_)) => {
                    return Err(InstructionError::UnknownKey {
                        suggestion: Suggestion::of(&key, ["name", "required"]),
                        key,
                        field,
                    });
                }
            }
        }
        Ok(device)
    }
}

/// The stage or image that a mount is from.
fn from_of(text: &str) -> Result<String, InstructionError> {
    let mut from = String::new();
    for field in csv_fields(text).ok_or(InstructionError::Csv("mounts"))? {
        if let Some((key, value)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
        {
            if value.find('$').is_some_and(|at| at + 1 < value.len()) {
                return Err(InstructionError::MountVariable("from"));
            }
            value.clone_into(&mut from);
        }
    }
    Ok(from)
}

fn key_value(key: &str, value: &str) -> InstructionError {
    InstructionError::KeyValue {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

fn number(key: &'static str, value: &str, radix: u32) -> Result<Option<u32>, InstructionError> {
    match u32::from_str_radix(value, radix) {
        Ok(number) if !value.starts_with('+') => Ok(Some(number)),
        _ => Err(InstructionError::Number {
            key,
            value: value.to_owned(),
        }),
    }
}

/// Reads a mount. `expand` gives values of variables in it.
pub(crate) fn parse_mount(
    text: &str,
    expand: &mut dyn FnMut(&str) -> Result<String, WordError>,
) -> Result<Mount, InstructionError> {
    let fields = csv_fields(text).ok_or(InstructionError::Csv("mounts"))?;
    let mut mount = Mount::default();
    let mut readonly = None;
    for field in fields {
        let Some((key, value)) = field.split_once('=') else {
            match field.to_lowercase().as_str() {
                "readonly" | "ro" => readonly = Some(true),
                "readwrite" | "rw" => readonly = Some(false),
                "required" => mount.require(true)?,
                _ => return Err(InstructionError::NotPair(field)),
            }
            continue;
        };
        let key = key.to_lowercase();
        let value = expand(value)?;
        match key.as_str() {
            "readonly" | "ro" => {
                readonly = Some(parse_bool(&value).ok_or_else(|| key_value(&key, &value))?);
            }
            "readwrite" | "rw" => {
                readonly = Some(!parse_bool(&value).ok_or_else(|| key_value(&key, &value))?);
            }
            _ => mount.set(&key, value, &field)?,
        }
    }
    mount.readonly = readonly.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
    mount.check()?;
    Ok(mount)
}

impl Mount {
    fn require(&mut self, required: bool) -> Result<(), InstructionError> {
        if !matches!(self.kind, MountKind::Secret | MountKind::Ssh) {
            return Err(self.key_for_type("required"));
        }
        self.required = required;
        Ok(())
    }

    fn key_for_type(&self, key: &str) -> InstructionError {
        InstructionError::KeyForType {
            key: key.to_owned(),
            kind: self.kind.name(),
        }
    }

    fn set(&mut self, key: &str, value: String, field: &str) -> Result<(), InstructionError> {
        match key {
            "type" => {
                let lower = value.to_lowercase();
                let found = KINDS.iter().find(|(name, _)| *name == lower);
                let (_, kind) = found.ok_or_else(|| InstructionError::MountType {
                    suggestion: Suggestion::of(&value, KINDS.map(|(name, _)| name)),
                    kind: value,
                })?;
                self.kind = *kind;
            }
            "from" => self.from = value,
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "required" => {
                let required = parse_bool(&value);
                self.require(required.unwrap_or(false))?;
                required.ok_or_else(|| key_value(key, &value))?;
            }
            "size" if self.kind == MountKind::Tmpfs => {
                self.size = parse_ram(&value).ok_or_else(|| key_value(key, &value))?;
            }
            "size" => return Err(self.key_for_type(key)),
            "id" => self.id = value,
            "sharing" => {
                let lower = value.to_lowercase();
                let found = SHARINGS.iter().find(|(name, _)| *name == lower);
                let (_, sharing) = found.ok_or_else(|| InstructionError::Sharing {
                    suggestion: Suggestion::of(&value, SHARINGS.map(|(name, _)| name)),
                    sharing: value,
                })?;
                self.sharing = Some(*sharing);
            }
            "mode" => self.mode = number("mode", &value, 8)?,
            "uid" => self.uid = number("uid", &value, 10)?,
            "gid" => self.gid = number("gid", &value, 10)?,
            "env" => self.env = Some(value),
            _ => {
                return Err(InstructionError::UnknownKey {
                    suggestion: Suggestion::of(key, KEYS),
                    key: key.to_owned(),
                    field: field.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), InstructionError> {
        if matches!(self.kind, MountKind::Bind | MountKind::Tmpfs) {
            let given = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
            if let Some((key, _)) = given.into_iter().find(|(_, value)| value.is_some()) {
                return Err(InstructionError::NotAllowedForType {
                    key,
                    kind: self.kind.name(),
                });
            }
        }
        if self.kind == MountKind::Secret {
            if !self.from.is_empty() {
                return Err(InstructionError::SecretFrom);
            }
            if self.sharing.is_some() {
                return Err(InstructionError::SecretSharing);
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return Err(InstructionError::SecretName);
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return Err(InstructionError::SecretSource);
            }
        }
        if self.sharing.is_some() && self.kind != MountKind::Cache {
            return Err(InstructionError::SharingForType(self.kind.name()));
        }
        Ok(())
    }
}
