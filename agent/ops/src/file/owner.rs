//! Owners by number or by name.

use kiln_proto::pb;
use kiln_proto::pb::user_opt::User;
use kiln_sys::rootfs::RootDir;

use super::error::FileError;

/// A user file larger than this isn't one.
const MAX_USER_FILE: u64 = 10 << 20;
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// User and group by number.
pub(super) type Owner = (u32, u32);

/// The owner that `option` names, with names looked up in the states given. A name that isn't there is
/// root, as in BuildKit.
pub(super) fn find(
    option: Option<&pb::ChownOpt>,
    user_root: Option<&RootDir>,
    group_root: Option<&RootDir>,
) -> Result<Option<Owner>, FileError> {
    let Some(option) = option else {
        return Ok(None);
    };
    let (mut uid, mut gid) = (0, 0);
    match option.user.as_ref().and_then(|user| user.user.as_ref()) {
        Some(User::ByName(named)) => {
            if let Some([user, group]) = look_up(user_root, PASSWD, &named.name)? {
                (uid, gid) = (user, group);
            }
        }
        Some(User::ById(id)) => (uid, gid) = (*id, *id),
        None => {}
    }
    match option.group.as_ref().and_then(|group| group.user.as_ref()) {
        Some(User::ByName(named)) => {
            if let Some([group, _]) = look_up(group_root, GROUP, &named.name)? {
                gid = group;
            }
        }
        Some(User::ById(id)) => gid = *id,
        None => {}
    }
    Ok(Some((uid, gid)))
}

/// The third and fourth fields of the line whose first one is `name`.
fn look_up(
    root: Option<&RootDir>,
    path: &'static str,
    name: &str,
) -> Result<Option<[u32; 2]>, FileError> {
    let Some(root) = root else {
        return Ok(None);
    };
    let bytes = match root.read_file(path.as_ref(), MAX_USER_FILE) {
        Ok(bytes) => bytes,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(FileError::UserFile {
                path,
                reason: error.to_string(),
            });
        }
    };
    Ok(line_of(&String::from_utf8_lossy(&bytes), name))
}

fn line_of(text: &str, name: &str) -> Option<[u32; 2]> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        if fields.next()? != name || name.is_empty() {
            return None;
        }
        fields.next();
        let mut number = || {
            let field = fields.next().unwrap_or_default().trim();
            field.parse().unwrap_or(0)
        };
        Some([number(), number()])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_user_files() {
        let passwd = "# users\nroot:x:0:0:root:/root:/bin/sh\n\nwww:x:33:44\nodd:x:nine\n";
        for (name, want) in [
            ("root", Some([0, 0])),
            ("www", Some([33, 44])),
            ("odd", Some([0, 0])),
            ("ww", None),
            ("", None),
        ] {
            assert_eq!(line_of(passwd, name), want, "{name}");
        }
    }
}
