//! Paths of the image's operating system: on Windows backslashes and a drive letter are taken too.

use crate::text::{clean, join};

/// Why a path can't be one of the image's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `C:` alone.
    #[error("no relative path specified in {}", crate::text::quote(.0))]
    DriveOnly(String),
    /// `\\server\share`
    #[error("UNC paths are not supported")]
    Unc,
    /// A drive that isn't `C:`.
    #[error("the specified path is not on the system drive (C:)")]
    NotSystemDrive,
}

pub(crate) fn to_slash(path: &str, os: &str) -> String {
    if os == "windows" {
        path.replace('\\', "/")
    } else {
        path.to_owned()
    }
}

/// The path without its drive letter. Nothing changes where there are no drives.
pub(crate) fn without_drive(path: &str, os: &str, keep_slash: bool) -> Result<String, PathError> {
    if os != "windows" {
        return Ok(path.to_owned());
    }
    if path.len() == 2 && path.ends_with(':') {
        return Err(PathError::DriveOnly(path.to_owned()));
    }
    let slashed = to_slash(path, os);
    if slashed.starts_with("//") {
        return Err(PathError::Unc);
    }
    let rest = match slashed.split_once(':') {
        None => slashed.as_str(),
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => rest,
        Some(_) => return Err(PathError::NotSystemDrive),
    };
    let cleaned = clean(rest);
    if keep_slash && cleaned.len() > 1 && rest.ends_with('/') {
        return Ok(format!("{cleaned}/"));
    }
    Ok(cleaned)
}

/// Whether the path is absolute in the image.
pub(crate) fn is_absolute(path: &str, os: &str) -> bool {
    without_drive(path, os, false).is_ok_and(|path| path.starts_with('/'))
}

/// The path from `parent`. An absolute path is taken as it is, not cleaned.
pub(crate) fn normalize(
    parent: &str,
    path: &str,
    os: &str,
    keep_slash: bool,
) -> Result<String, PathError> {
    let path = to_slash(path, os);
    let parent = to_slash(if parent.is_empty() { "/" } else { parent }, os);
    let mut parent = without_drive(&parent, os, keep_slash)?;
    if !is_absolute(&parent, os) {
        parent = join(&["/", &parent]);
    }
    let mut new = if path.is_empty() {
        parent.clone()
    } else {
        path.clone()
    };
    new = without_drive(&new, os, keep_slash)?;
    if !is_absolute(&new, os) {
        new = join(&[&parent, &new]);
    }
    if keep_slash {
        new = with_end_of(new, &path);
    }
    Ok(new)
}

/// `path` with the `/` or `/.` that `original` ends in: it says that a directory is meant.
fn with_end_of(mut path: String, original: &str) -> String {
    if original.ends_with('/') {
        if !path.ends_with('/') {
            path.push('/');
        }
    } else if original.ends_with("/.") {
        if path != "/" {
            path.push('/');
        }
        path.push('.');
    }
    path
}

/// A destination from the working directory.
pub(crate) fn destination(dir: &str, path: &str, os: &str) -> Result<String, PathError> {
    let path = without_drive(path, os, true)?;
    let path = if is_absolute(&path, os) {
        normalize("/", &path, os, true)?
    } else {
        // Nothing, and a dot, mean the working directory itself.
        let path = if path.is_empty() || path == "." {
            "./"
        } else {
            &path
        };
        normalize(dir, path, os, true)?
    };
    let cleaned = clean(&path);
    let absolute = if cleaned.starts_with('/') {
        cleaned
    } else {
        join(&["/", dir, &cleaned])
    };
    Ok(with_end_of(absolute, &path))
}

/// The working directory after `WORKDIR path`, with the separators of the image's system.
pub(crate) fn workdir(current: &str, path: &str, os: &str) -> Result<String, PathError> {
    let path = normalize(current, path, os, false)?;
    Ok(if os == "windows" {
        path.replace('/', "\\")
    } else {
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        for (dir, path, want) in [
            ("/", "/w/", "/w/"),
            ("/w", "a", "/w/a"),
            ("/w", ".", "/w/"),
            ("/w", "", "/w/"),
            ("/w", "./", "/w/"),
            ("/", ".", "/"),
            ("/", "/a/.", "/a/."),
            ("/", "/a/../b", "/b"),
            ("/w", "../../x/", "/x/"),
        ] {
            assert_eq!(
                destination(dir, path, "linux").unwrap(),
                want,
                "{dir} {path}"
            );
        }
        assert_eq!(destination("/", r"C:\a\", "windows").unwrap(), "/a/");
        assert_eq!(
            destination("/", r"D:\a", "windows"),
            Err(PathError::NotSystemDrive)
        );
    }

    #[test]
    fn working_directories() {
        for (current, path, want) in [
            ("", "a", "/a"),
            ("/w", "sub", "/w/sub"),
            ("/w", "/a/../b", "/a/../b"),
            ("/w", "", "/w"),
        ] {
            assert_eq!(workdir(current, path, "linux").unwrap(), want);
        }
        assert_eq!(workdir("", r"C:\a\b", "windows").unwrap(), r"\a\b");
    }
}
