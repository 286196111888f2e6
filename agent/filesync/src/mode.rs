//! File modes as the wire has them: the bits of Go's `io/fs.FileMode`, not those of `stat(2)`.

/// A directory.
pub const DIR: u32 = 1 << 31;
/// A symbolic link.
pub const SYMLINK: u32 = 1 << 27;
/// A device; a character device also has [`CHAR_DEVICE`].
pub const DEVICE: u32 = 1 << 26;
/// A named pipe.
pub const NAMED_PIPE: u32 = 1 << 25;
/// A unix socket. Senders clear it, so that a socket looks like an empty file.
pub const SOCKET: u32 = 1 << 24;
/// setuid.
pub const SETUID: u32 = 1 << 23;
/// setgid.
pub const SETGID: u32 = 1 << 22;
/// A character device.
pub const CHAR_DEVICE: u32 = 1 << 21;
/// The sticky bit.
pub const STICKY: u32 = 1 << 20;
/// Neither of the known kinds.
pub const IRREGULAR: u32 = 1 << 19;
/// All bits that say what kind of entry it is.
pub const TYPE: u32 = DIR | SYMLINK | NAMED_PIPE | SOCKET | DEVICE | CHAR_DEVICE | IRREGULAR;

const S_IFMT: u32 = 0o170_000;

/// From `st_mode`.
pub const fn from_unix(mode: u32) -> u32 {
    let mut out = mode & 0o777;
    out |= match mode & S_IFMT {
        0o040_000 => DIR,
        0o120_000 => SYMLINK,
        0o060_000 => DEVICE,
        0o020_000 => DEVICE | CHAR_DEVICE,
        0o010_000 => NAMED_PIPE,
        0o140_000 => SOCKET,
        _ => 0,
    };
    if mode & 0o4000 != 0 {
        out |= SETUID;
    }
    if mode & 0o2000 != 0 {
        out |= SETGID;
    }
    if mode & 0o1000 != 0 {
        out |= STICKY;
    }
    out
}

/// The permission bits for `chmod(2)`: twelve of them.
pub const fn permissions(mode: u32) -> u32 {
    let mut out = mode & 0o777;
    if mode & SETUID != 0 {
        out |= 0o4000;
    }
    if mode & SETGID != 0 {
        out |= 0o2000;
    }
    if mode & STICKY != 0 {
        out |= 0o1000;
    }
    out
}

/// A directory.
pub const fn is_dir(mode: u32) -> bool {
    mode & DIR != 0
}

/// A symbolic link.
pub const fn is_symlink(mode: u32) -> bool {
    mode & SYMLINK != 0
}

/// An entry whose bytes can be asked for. Both ends must agree on this.
pub const fn has_data(mode: u32) -> bool {
    mode & TYPE == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_and_wire_modes() {
        let table = [
            (0o100_644, 0o644),
            (0o040_755, DIR | 0o755),
            (0o120_777, SYMLINK | 0o777),
            (0o020_600, DEVICE | CHAR_DEVICE | 0o600),
            (0o060_600, DEVICE | 0o600),
            (0o010_600, NAMED_PIPE | 0o600),
            (0o104_755, SETUID | 0o755),
            (0o042_775, DIR | SETGID | 0o775),
            (0o041_777, DIR | STICKY | 0o777),
        ];
        for (unix, wire) in table {
            assert_eq!(from_unix(unix), wire, "{unix:o}");
            assert_eq!(permissions(wire), unix & 0o7777, "{unix:o}");
        }
    }
}
