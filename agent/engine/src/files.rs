//! Reads files of a result without leaving it: every path is resolved inside of the root, whatever its
//! symbolic links say.

use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bytes::Bytes;
use kiln_filesync::{PatternMatcher, Stat, mode};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A frontend gets a file in one message; larger ones would be cut off by gRPC with less clear words.
const MAX_FILE: u64 = 15 * 1024 * 1024;

fn open(root: &Path, path: &str, flags: OFlags) -> io::Result<std::fs::File> {
    let base = rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    loop {
        match rustix::fs::openat2(
            &base,
            relative,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            // A rename somewhere on the way; the kernel asks to try again.
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
            Ok(file) => return Ok(file.into()),
        }
    }
}

/// The bytes of a file, or of a range of it that may go beyond its end.
pub(crate) fn read(root: &Path, path: &str, range: Option<(u64, u64)>) -> io::Result<Bytes> {
    // Without NONBLOCK, opening a named pipe would wait for its other end.
    let mut file = open(
        root,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
    )?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(Errno::ISDIR.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let (offset, length) = range.unwrap_or((0, metadata.len()));
    let length = length.min(metadata.len().saturating_sub(offset));
    if length > MAX_FILE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{length} bytes are more than the {MAX_FILE} that fit into an answer"),
        ));
    }
    file.seek(io::SeekFrom::Start(offset))?;
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// The entries of a directory by name, those that match `include` if it is given.
pub(crate) fn list(root: &Path, path: &str, include: Option<&str>) -> io::Result<Vec<Stat>> {
    let matcher = include
        .map(|pattern| PatternMatcher::new(&[pattern]))
        .transpose()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
    let directory = open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names: Vec<String> = rustix::fs::Dir::read_from(&directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.retain(|name| {
        name != "." && name != ".." && matcher.as_ref().is_none_or(|all| all.matches(name))
    });
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let entry = rustix::fs::openat(
                &directory,
                &name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            describe(&std::fs::File::from(entry), name)
        })
        .collect()
}

/// One entry. The last name of the path isn't followed if it is a symbolic link.
pub(crate) fn stat(root: &Path, path: &str) -> io::Result<Stat> {
    let name = Path::new(path).file_name().map_or_else(
        || "/".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    let entry = open(root, path, OFlags::PATH | OFlags::NOFOLLOW)?;
    describe(&entry, name)
}

fn describe(entry: &std::fs::File, path: String) -> io::Result<Stat> {
    let metadata = entry.metadata()?;
    let linkname = if metadata.is_symlink() {
        rustix::fs::readlinkat(entry, "", Vec::new())?
            .to_string_lossy()
            .into_owned()
    } else {
        String::new()
    };
    let mode = mode::from_unix(metadata.mode());
    let is_device = mode & mode::DEVICE != 0;
    Ok(Stat {
        path,
        mode,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: if metadata.is_dir() {
            0
        } else {
            metadata.len() as i64
        },
        mod_time: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        linkname,
        devmajor: if is_device {
            i64::from(rustix::fs::major(metadata.rdev()))
        } else {
            0
        },
        devminor: if is_device {
            i64::from(rustix::fs::minor(metadata.rdev()))
        } else {
            0
        },
        ..Stat::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_stay_inside_and_kinds_are_told() {
        let outside = tempfile::tempdir().expect("a directory");
        let root = outside.path().join("root");
        std::fs::create_dir_all(root.join("dir")).expect("a directory");
        std::fs::write(outside.path().join("secret"), "no").expect("a file");
        std::fs::write(root.join("secret"), "inside").expect("a file");
        std::fs::write(root.join("dir/a.txt"), "0123456789").expect("a file");
        std::fs::write(root.join("dir/b"), "").expect("a file");
        symlink("../../secret", root.join("dir/up")).expect("a link");
        symlink("/secret", root.join("absolute")).expect("a link");

        for (path, range, bytes) in [
            ("/dir/a.txt", None, "0123456789"),
            ("dir/a.txt", Some((2, 3)), "234"),
            ("dir/a.txt", Some((8, 100)), "89"),
            ("dir/a.txt", Some((80, 1)), ""),
            ("dir/up", None, "inside"),
            ("absolute", None, "inside"),
            ("../../secret", None, "inside"),
        ] {
            let read = read(&root, path, range).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(read, bytes, "{path} {range:?}");
        }
        assert_eq!(
            read(&root, "none", None).expect_err("missing").kind(),
            io::ErrorKind::NotFound
        );
        let names = |include| -> Vec<String> {
            list(&root, "dir", include)
                .expect("a list")
                .into_iter()
                .map(|entry| entry.path)
                .collect()
        };
        assert_eq!(names(None), ["a.txt", "b", "up"]);
        assert_eq!(names(Some("*.txt")), ["a.txt"]);
        let link = stat(&root, "dir/up").expect("a link");
        assert!(mode::is_symlink(link.mode));
        assert_eq!(link.linkname, "../../secret");
        assert!(mode::is_dir(stat(&root, "/dir").expect("a directory").mode));
    }
}
