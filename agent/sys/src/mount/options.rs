//! Mount options as `fstab(5)` writes them, sorted into what the kernel takes them as.

use rustix::mount::{MountAttrFlags, MountFlags};

/// How mounts below a mount point travel between namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They don't.
    Private,
    /// They come in, but don't go out.
    Slave,
    /// Both ways.
    Shared,
    /// They don't, and the mount can't be bound elsewhere.
    Unbindable,
}

impl Propagation {
    pub(super) fn flag(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// What the kernel keeps per mount, not per file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// No writes.
    pub readonly: bool,
    /// Set-id bits and file capabilities are ignored.
    pub nosuid: bool,
    /// Device nodes can't be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
    /// Access times are not kept.
    pub noatime: bool,
    /// Access times of directories are not kept.
    pub nodiratime: bool,
    /// Symbolic links are not followed.
    pub nosymfollow: bool,
    /// Access times are kept strictly.
    pub strictatime: bool,
}

impl Attributes {
    /// Read-only and nothing else.
    pub const READONLY: Self = Self {
        readonly: true,
        nosuid: false,
        nodev: false,
        noexec: false,
        noatime: false,
        nodiratime: false,
        nosymfollow: false,
        strictatime: false,
    };

    pub(super) fn fsmount_flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        for (set, flag) in [
            (self.readonly, MountAttrFlags::MOUNT_ATTR_RDONLY),
            (self.nosuid, MountAttrFlags::MOUNT_ATTR_NOSUID),
            (self.nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
            (self.noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
            (self.noatime, MountAttrFlags::MOUNT_ATTR_NOATIME),
            (self.strictatime, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
            (self.nodiratime, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
            (self.nosymfollow, MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
        ] {
            flags.set(flag, set);
        }
        flags
    }

    pub(super) fn classic_flags(self) -> MountFlags {
        let mut flags = MountFlags::empty();
        for (set, flag) in [
            (self.readonly, MountFlags::RDONLY),
            (self.nosuid, MountFlags::NOSUID),
            (self.nodev, MountFlags::NODEV),
            (self.noexec, MountFlags::NOEXEC),
            (self.noatime, MountFlags::NOATIME),
            (self.strictatime, MountFlags::STRICTATIME),
            (self.nodiratime, MountFlags::NODIRATIME),
            (self.nosymfollow, MountFlags::NOSYMFOLLOW),
        ] {
            flags.set(flag, set);
        }
        flags
    }

    /// Whether nothing is set.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// Options, sorted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// What holds for the mount.
    pub attributes: Attributes,
    /// `bind` (false) or `rbind` (true).
    pub bind: Option<bool>,
    /// `rprivate` and its like, with whether it holds for mounts below.
    pub propagation: Option<(Propagation, bool)>,
    /// What the file system itself takes: `size=1m`, `volatile`.
    pub data: Vec<(String, Option<String>)>,
}

impl MountOptions {
    /// Sorts options; a later one overrides an earlier one, as in `mount(8)`.
    pub fn parse<I: IntoIterator<Item = S>, S: AsRef<str>>(options: I) -> Self {
        let mut out = Self::default();
        for option in options {
            out.take(option.as_ref());
        }
        out
    }

    fn take(&mut self, option: &str) {
        let attributes = &mut self.attributes;
        let propagation = |kind| Some((kind, option.starts_with('r')));
        match option {
            "" | "defaults" | "relatime" | "norelatime" => {}
            "ro" => attributes.readonly = true,
            "rw" => attributes.readonly = false,
            "nosuid" => attributes.nosuid = true,
            "suid" => attributes.nosuid = false,
            "nodev" => attributes.nodev = true,
            "dev" => attributes.nodev = false,
            "noexec" => attributes.noexec = true,
            "exec" => attributes.noexec = false,
            "noatime" => attributes.noatime = true,
            "atime" => attributes.noatime = false,
            "strictatime" => attributes.strictatime = true,
            "nodiratime" => attributes.nodiratime = true,
            "diratime" => attributes.nodiratime = false,
            "nosymfollow" => attributes.nosymfollow = true,
            "bind" => self.bind = Some(false),
            "rbind" => self.bind = Some(true),
            "private" | "rprivate" => self.propagation = propagation(Propagation::Private),
            "slave" | "rslave" => self.propagation = propagation(Propagation::Slave),
            "shared" | "rshared" => self.propagation = propagation(Propagation::Shared),
            "unbindable" | "runbindable" => {
                self.propagation = propagation(Propagation::Unbindable);
            }
            other => self.data.push(match other.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
    }

    /// The last value of a data option.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.data
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .and_then(|(_, value)| value.as_deref())
    }

    /// Whether a data option is there, with or without a value.
    pub fn has(&self, key: &str) -> bool {
        self.data.iter().any(|(name, _)| name == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_and_later_ones_win() {
        let parsed = MountOptions::parse([
            "rbind", "ro", "nosuid", "rw", "rslave", "size=1m", "volatile",
        ]);
        assert_eq!(parsed.bind, Some(true));
        assert!(!parsed.attributes.readonly && parsed.attributes.nosuid);
        assert_eq!(parsed.propagation, Some((Propagation::Slave, true)));
        assert_eq!(parsed.value("size"), Some("1m"));
        assert!(parsed.has("volatile") && parsed.value("volatile").is_none());
    }

    #[test]
    fn slave_without_r_is_not_recursive() {
        assert_eq!(
            MountOptions::parse(["slave"]).propagation,
            Some((Propagation::Slave, false))
        );
    }
}
