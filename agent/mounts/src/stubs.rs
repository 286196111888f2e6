//! Removes what mounting needed in a root: the empty files and directories that mounts were put on.
//!
//! A layer must not tell which mounts a step had. Invariants: only what wasn't there before the step
//! is removed, only if it is empty after it, and the directory it was in keeps its times. Nothing is
//! found through a link that appeared meanwhile (CVE-2024-23652).

use std::path::{Path, PathBuf};

use kiln_sys::rootfs::RootDir;
use rustix::fs::{AtFlags, FileType, Timespec, Timestamps};

/// What a root doesn't have yet.
#[derive(Debug)]
pub struct Stubs {
    absent: Vec<PathBuf>,
}

impl Stubs {
    /// Notes which of `targets` (and of the files that every container has mounted) are absent.
    /// With `recursive`, so are directories that have to be made for them.
    pub fn record<'a>(
        root: &RootDir,
        targets: impl IntoIterator<Item = &'a Path>,
        recursive: bool,
    ) -> Self {
        let standard = ["/etc/resolv.conf", "/etc/hosts"].map(Path::new);
        let mut absent = Vec::new();
        for target in standard.into_iter().chain(targets) {
            let Ok(mut path) = root.resolve(target) else {
                continue;
            };
            while path != Path::new("/") && is_absent(root, &path) {
                absent.push(path.clone());
                match path.parent() {
                    Some(parent) if recursive => path = parent.to_owned(),
                    _ => break,
                }
            }
        }
        Self { absent }
    }

    /// Removes those that are there now and empty. The mounts over them must be gone.
    pub fn clean(self, root: &RootDir) {
        for path in self.absent {
            if let Err(error) = remove(root, &path) {
                tracing::debug!(?path, %error, "what a mount was put on stays in the layer");
            }
        }
    }
}

fn is_absent(root: &RootDir, path: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    root.stat(path, false)
        .is_err_and(|e| matches!(e.kind(), NotFound | NotADirectory))
}

fn remove(root: &RootDir, path: &Path) -> std::io::Result<()> {
    // Links that the step made must not lead elsewhere.
    if root.resolve(path)? != path {
        return Ok(());
    }
    let (parent, name) = root.parent_of(path)?;
    let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if !directory && stat.st_size != 0 {
        return Ok(());
    }
    let before = rustix::fs::fstat(&parent)?;
    let flags = if directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    match rustix::fs::unlinkat(&parent, name, flags) {
        Err(rustix::io::Errno::NOTEMPTY) => return Ok(()),
        other => other?,
    }
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    let times = Timestamps {
        last_access: time(before.st_atime, before.st_atime_nsec),
        last_modification: time(before.st_mtime, before.st_mtime_nsec),
    };
    // The descriptor refers without being open, so the directory is named as `.` in itself.
    Ok(rustix::fs::utimensat(
        &parent,
        ".",
        &times,
        AtFlags::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    fn exists(dir: &Path, path: &str) -> bool {
        dir.join(path).symlink_metadata().is_ok()
    }

    #[test]
    fn only_new_and_empty_things_go() {
        for recursive in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (root, at) = (RootDir::open(dir.path()).unwrap(), |p: &str| {
                dir.path().join(p)
            });
            for old in ["etc", "old"] {
                fs::create_dir(at(old)).unwrap();
            }
            fs::write(at("etc/hosts"), "").unwrap();
            let targets = ["/old", "/new/deep", "/full", "/written", "/old/x"].map(Path::new);
            let stubs = Stubs::record(&root, targets, recursive);
            for new in ["new/deep", "full/inside", "old/x"] {
                fs::create_dir_all(at(new)).unwrap();
            }
            fs::write(at("written"), "w").unwrap();
            fs::write(at("etc/resolv.conf"), "").unwrap();
            let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
            fs::File::open(at("etc"))
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
            stubs.clean(&root);
            let cases = [
                ("old", true),
                ("old/x", false),
                ("new/deep", false),
                ("new", !recursive),
                ("full/inside", true),
                ("written", true),
                ("etc/hosts", true),
                ("etc/resolv.conf", false),
            ];
            for (path, expected) in cases {
                assert_eq!(
                    exists(dir.path(), path),
                    expected,
                    "{path} recursive={recursive}"
                );
            }
            assert_eq!(
                fs::metadata(at("etc")).unwrap().modified().unwrap(),
                long_ago
            );
        }
    }

    #[test]
    fn a_link_made_meanwhile_removes_nothing_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let root_dir = dir.path().join("root");
        fs::create_dir_all(root_dir.join("kept")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/m"), "").unwrap();
        fs::write(root_dir.join("kept/m"), "").unwrap();
        let root = RootDir::open(&root_dir).unwrap();
        let targets = ["/a/m", "/b/m", "/c"].map(Path::new);
        let stubs = Stubs::record(&root, targets, true);
        symlink("../outside", root_dir.join("a")).unwrap();
        symlink("kept", root_dir.join("b")).unwrap();
        symlink(dir.path().join("outside/m"), root_dir.join("c")).unwrap();
        stubs.clean(&root);
        assert!(exists(dir.path(), "outside/m") && exists(&root_dir, "kept/m"));
    }
}
