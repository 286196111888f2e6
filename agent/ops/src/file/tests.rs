//! File actions on real directories: a laboratory for them, and the small actions on hostile trees.

mod archives;
mod copies;
mod golden;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use kiln_proto::pb;
use kiln_proto::pb::file_action::Action;
use kiln_sys::rootfs::RootDir;
use tokio_util::sync::CancellationToken;

use super::actions::{self, Roots};
use super::copy::{Linked, Target};
use super::error::FileError;

struct Lab {
    folder: tempfile::TempDir,
    linked: Linked,
}

impl Lab {
    fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    fn within(parent: &Path) -> Self {
        let folder = tempfile::tempdir_in(parent).unwrap();
        for name in ["src", "dest"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self {
            folder,
            linked: Linked::default(),
        }
    }

    fn src(&self) -> PathBuf {
        self.folder.path().join("src")
    }

    fn dest(&self) -> PathBuf {
        self.folder.path().join("dest")
    }

    /// Does an action from `src` on `dest`.
    fn run(&mut self, action: &Action) -> Result<(), FileError> {
        let (src, dest) = (RootDir::open(&self.src()), RootDir::open(&self.dest()));
        let (src, dest) = (src.unwrap(), dest.unwrap());
        let upper = RootDir::open(&self.dest()).unwrap();
        let roots = Roots {
            target: Target {
                root: &dest,
                upper: Some(&upper),
                linked: &mut self.linked,
            },
            source: Some(&src),
            user: Some(&dest),
            group: Some(&dest),
        };
        actions::run(action, 0, roots, &CancellationToken::new())
    }

    fn copy(&mut self, src: &str, dest: &str) -> Result<(), FileError> {
        self.run(&Action::Copy(plain_copy(src, dest)))
    }
}

/// A copy as `COPY` makes it.
fn plain_copy(src: &str, dest: &str) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: src.into(),
        dest: dest.into(),
        mode: -1,
        follow_symlink: true,
        dir_copy_contents: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        timestamp: -1,
        ..pb::FileActionCopy::default()
    }
}

/// Makes files: `name` for one with its name in it, `name/` for a directory, `name -> target`.
fn make(root: &Path, entries: &[&str]) {
    for entry in entries {
        if let Some((name, target)) = entry.split_once(" -> ") {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
        } else if let Some(name) = entry.strip_suffix('/') {
            std::fs::create_dir_all(root.join(name)).unwrap();
        } else {
            let path = root.join(entry);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, entry).unwrap();
        }
    }
}

/// The tree as `make` would take it, but for a file's content: `name` or `name=content`.
fn list(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for (name, metadata) in walk(root) {
        let path = root.join(&name);
        if metadata.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            found.push(format!("{name} -> {}", target.display()));
        } else if metadata.is_dir() {
            found.push(format!("{name}/"));
        } else {
            let content = std::fs::read_to_string(&path).unwrap();
            found.push(match content == name {
                true => name,
                false => format!("{name}={content}"),
            });
        }
    }
    found
}

fn walk(root: &Path) -> BTreeMap<String, std::fs::Metadata> {
    let mut found = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            let metadata = root.join(&path).symlink_metadata().unwrap();
            if metadata.is_dir() {
                pending.push(path.clone());
            }
            found.insert(path.to_str().unwrap().to_owned(), metadata);
        }
    }
    found
}

impl Lab {
    /// Copies the target's tree into the source's, which fails here.
    fn copy_back(&mut self) -> FileError {
        let folder = tempfile::tempdir_in(self.folder.path()).unwrap();
        let action = Action::Copy(plain_copy("/", "/"));
        let error = between(self, &self.dest(), folder.path(), &action).unwrap_err();
        super::remove::tree(
            RootDir::open(self.folder.path()).unwrap(),
            folder.path().file_name().unwrap(),
            Path::new("/"),
        )
        .unwrap();
        error
    }
}

/// Does an action between two directories.
fn between(lab: &mut Lab, from: &Path, to: &Path, action: &Action) -> Result<(), FileError> {
    let (src, dest) = (RootDir::open(from).unwrap(), RootDir::open(to).unwrap());
    let roots = Roots {
        target: Target {
            root: &dest,
            upper: None,
            linked: &mut lab.linked,
        },
        source: Some(&src),
        user: Some(&dest),
        group: Some(&dest),
    };
    actions::run(action, 0, roots, &CancellationToken::new())
}

#[test]
fn small_actions_work_inside_of_the_root() {
    let mut lab = Lab::new();
    make(&lab.dest(), &["out -> ../../src", "d/x", "d/y", "keep"]);
    make(&lab.src(), &["victim"]);
    let mkdir = |path: &str, parents| {
        Action::Mkdir(pb::FileActionMkDir {
            path: path.into(),
            mode: 0o750,
            make_parents: parents,
            owner: None,
            timestamp: -1,
        })
    };
    lab.run(&mkdir("/out/new/er", true)).unwrap();
    lab.run(&mkdir("/d", false)).unwrap();
    assert!(lab.run(&mkdir("/no/parents", false)).is_err());
    lab.run(&Action::Mkfile(pb::FileActionMkFile {
        path: "/out/new/f".into(),
        mode: 0o600,
        data: b"hi".to_vec(),
        owner: None,
        timestamp: 5_000_000_001,
    }))
    .unwrap();
    lab.run(&Action::Symlink(pb::FileActionSymlink {
        oldpath: "/anywhere".into(),
        newpath: "/l".into(),
        owner: None,
        timestamp: -1,
    }))
    .unwrap();
    let rm = |path: &str, wildcard, missing| {
        Action::Rm(pb::FileActionRm {
            path: path.into(),
            allow_not_found: missing,
            allow_wildcard: wildcard,
        })
    };
    lab.run(&rm("/d/*", true, false)).unwrap();
    lab.run(&rm("/gone", false, true)).unwrap();
    let error = lab.run(&rm("/gone", false, false)).unwrap_err();
    assert_eq!(error.to_string(), "stat /gone: no such file or directory");
    assert!(lab.run(&rm("/", false, true)).is_err());
    lab.run(&rm("/out/victim", false, true)).unwrap();
    assert_eq!(
        list(&lab.dest()),
        [
            "d/",
            "keep",
            "l -> /anywhere",
            "out -> ../../src",
            "src/",
            "src/new/",
            "src/new/er/",
            "src/new/f=hi"
        ]
    );
    assert_eq!(list(&lab.src()), ["victim"], "nothing outside was touched");
    let file = lab.dest().join("src/new/f").metadata().unwrap();
    assert_eq!((file.mtime(), file.mtime_nsec()), (5, 1));
}

#[test]
fn removing_takes_no_stack_and_follows_no_link() {
    // Thousands of nested directories take a disk half a minute.
    let memory = Path::new("/dev/shm");
    let mut lab = match memory.is_dir() {
        true => Lab::within(memory),
        false => Lab::new(),
    };
    make(&lab.src(), &["victim"]);
    // Deeper than any path can say: made by descriptors.
    let mut folder: std::os::fd::OwnedFd = std::fs::File::open(lab.dest()).unwrap().into();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&folder, "deep", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        folder = rustix::fs::openat(&folder, "deep", flags, rustix::fs::Mode::empty()).unwrap();
    }
    drop(folder);
    symlink(lab.src(), lab.dest().join("deep/out")).unwrap();
    let deep = lab.copy_back();
    assert!(matches!(deep, FileError::TooDeep(_)), "{deep}");
    lab.run(&Action::Rm(pb::FileActionRm {
        path: "/deep".into(),
        ..pb::FileActionRm::default()
    }))
    .unwrap();
    assert_eq!(list(&lab.dest()), Vec::<String>::new());
    assert_eq!(list(&lab.src()), ["victim"]);
}
