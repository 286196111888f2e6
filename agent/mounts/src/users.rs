//! Users and groups by the names that an image knows.
//!
//! The rules are Docker's: numbers need no entry; a user given with a group has no supplementary
//! groups; the first entry of a name counts; broken lines are passed over.

use std::path::{Path, PathBuf};

use kiln_sys::rootfs::RootDir;

/// A larger file of users is refused.
const LIMIT: u64 = 10 << 20;
/// The largest number that may be given.
const MAX_ID: u32 = i32::MAX as u32;

/// A user, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The home directory; `/` where the image doesn't say.
    pub home: PathBuf,
}

/// Why a name can't be turned into numbers.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user in the image.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// No such group in the image.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// Too large a number.
    #[error("uids and gids must be in range 0-{MAX_ID}")]
    Range,
    /// The file is there and can't be read.
    #[error("unable to find user {user}: {path:?}: {source}")]
    Read {
        /// Who was looked for.
        user: String,
        /// The file in the image.
        path: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

#[derive(Debug, Default)]
struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let mut fields = line.split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = number(fields.nth(1)?)?;
        let gid = fields.next().and_then(number).unwrap_or_default();
        let home = fields.nth(1).unwrap_or_default();
        Some(Passwd {
            name,
            uid,
            gid,
            home,
        })
    })
}

/// Name, number and members.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let mut fields = line.split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = number(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn read(root: &RootDir, user: &str, path: &'static str) -> Result<String, UserError> {
    match root.read_file(Path::new(path), LIMIT) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        // Docker takes what is no file for an absent one.
        Err(error) if error.kind() != std::io::ErrorKind::FileTooLarge => {
            tracing::debug!(path, %error, "an image without a file of users");
            Ok(String::new())
        }
        Err(source) => Err(UserError::Read {
            user: user.to_owned(),
            path,
            source,
        }),
    }
}

/// `root`, or a number: then the file isn't asked.
fn plain(text: &str) -> Option<u32> {
    if text == "root" {
        Some(0)
    } else {
        number(text)
    }
}

/// Finds `spec` (`user`, `user:group`, numbers or names, or empty for root) in the image.
pub fn lookup(root: &RootDir, spec: &str) -> Result<User, UserError> {
    let spec = if spec.is_empty() { "0" } else { spec };
    let users = read(root, spec, "/etc/passwd")?;
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, group),
        None => (spec, ""),
    };
    let home = |uid: u32| {
        let entry = passwd(&users).find(|entry| entry.uid == uid);
        let home = entry.map_or("", |entry| entry.home);
        PathBuf::from(if home.is_empty() { "/" } else { home })
    };
    if let (true, Some(uid), Some(gid)) = (spec.contains(':'), plain(user), plain(group)) {
        return Ok(User {
            uid,
            gid,
            groups: Vec::new(),
            home: home(uid),
        });
    }
    let wanted = if user.is_empty() {
        Some(0)
    } else {
        number(user)
    };
    let entry = passwd(&users).find(|entry| match wanted {
        Some(uid) => entry.uid == uid,
        None => entry.name == user,
    });
    let mut found = match (&entry, wanted) {
        (Some(entry), _) => User {
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: home(entry.uid),
        },
        (None, Some(uid)) => User {
            uid: checked(uid)?,
            gid: 0,
            groups: Vec::new(),
            home: home(uid),
        },
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    if group.is_empty() && entry.is_none() {
        return Ok(found);
    }
    let file = read(root, spec, "/etc/group")?;
    if let (true, Some(entry)) = (group.is_empty(), &entry) {
        found.groups = groups(&file)
            .filter(|(_, _, members)| members.split(',').any(|member| member == entry.name))
            .map(|(_, gid, _)| gid)
            .collect();
        return Ok(found);
    }
    let wanted = number(group);
    let entry = groups(&file).find(|(name, gid, _)| match wanted {
        Some(wanted) => *gid == wanted,
        None => *name == group,
    });
    found.gid = match (entry, wanted) {
        (Some((_, gid, _)), _) => gid,
        (None, Some(gid)) => checked(gid)?,
        (None, None) => return Err(UserError::NoGroup(group.to_owned())),
    };
    Ok(found)
}

fn checked(id: u32) -> Result<u32, UserError> {
    if id > MAX_ID {
        Err(UserError::Range)
    } else {
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(passwd: Option<&str>, group: Option<&str>) -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        for (name, text) in [("passwd", passwd), ("group", group)] {
            if let Some(text) = text {
                std::fs::write(dir.path().join("etc").join(name), text).unwrap();
            }
        }
        let root = RootDir::open(dir.path()).unwrap();
        (dir, root)
    }

    const PASSWD: &str = "# comment\nroot:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:1001:Ann:/home/ann:/bin/sh\nann:x:5:5::/:\n";
    const GROUP: &str = "root:x:0:root\nbin:x:2:root,daemon\nstaff:x:50:ann,bob\nannex:x:51:annex\ndocker:x:999:ann\n";

    #[test]
    fn names_become_numbers() {
        let (_dir, root) = image(Some(PASSWD), Some(GROUP));
        let user = |uid, gid, groups: &[u32], home: &str| User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        };
        let cases = [
            ("", user(0, 0, &[0, 2], "/root")),
            ("root", user(0, 0, &[0, 2], "/root")),
            ("0", user(0, 0, &[0, 2], "/root")),
            ("0:0", user(0, 0, &[], "/root")),
            ("root:root", user(0, 0, &[], "/root")),
            ("ann", user(1000, 1001, &[50, 999], "/home/ann")),
            ("1000", user(1000, 1001, &[50, 999], "/home/ann")),
            ("ann:staff", user(1000, 50, &[], "/home/ann")),
            ("ann:7", user(1000, 7, &[], "/home/ann")),
            ("1234", user(1234, 0, &[], "/")),
            ("1234:staff", user(1234, 50, &[], "/")),
            ("4:5", user(4, 5, &[], "/")),
            (":staff", user(0, 50, &[], "/root")),
        ];
        for (spec, expected) in cases {
            assert_eq!(lookup(&root, spec).unwrap(), expected, "{spec:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let (_dir, root) = image(Some(PASSWD), Some(GROUP));
        let cases = [
            (
                "bob",
                "unable to find user bob: no matching entries in passwd file",
            ),
            (
                "ann:none",
                "unable to find group none: no matching entries in group file",
            ),
            (
                "-1",
                "unable to find user -1: no matching entries in passwd file",
            ),
            ("4294967295", "uids and gids must be in range 0-2147483647"),
        ];
        for (spec, expected) in cases {
            assert_eq!(lookup(&root, spec).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn an_image_without_files_has_root_and_numbers() {
        let (_dir, root) = image(None, None);
        assert_eq!(lookup(&root, "").unwrap().home, Path::new("/"));
        assert_eq!(lookup(&root, "12").unwrap().uid, 12);
        assert!(lookup(&root, "bob").is_err());
        let (dir, root) = image(None, None);
        std::os::unix::fs::symlink("/proc/self/status", dir.path().join("etc/passwd")).unwrap();
        assert!(lookup(&root, "").is_ok());
    }
}
