//! Roots that are hostile.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use kiln_sys::rootfs::{Creation, RootDir};
use rustix::fs::{Mode, OFlags};

const OWNED: Creation = Creation {
    mode: 0o755,
    uid: 7,
    gid: 8,
};

fn root() -> (tempfile::TempDir, RootDir) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("real/sub")).unwrap();
    fs::write(root.join("real/file"), "inside").unwrap();
    fs::write(dir.path().join("secret"), "outside").unwrap();
    for (link, target) in [
        ("abs", "/real"),
        ("up", "../../../../real"),
        ("out", "../secret"),
        ("dangling", "/made/here"),
        ("loop", "loop"),
        ("real/back", "../abs/sub"),
        ("proc", "/proc/self/fd"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    let opened = RootDir::open(&root).unwrap();
    (dir, opened)
}

#[test]
fn links_resolve_inside() {
    let (_dir, root) = root();
    let cases = [
        ("/abs/file", "/real/file"),
        ("up/file", "/real/file"),
        ("/../../real/./sub", "/real/sub"),
        ("/real/back", "/real/sub"),
        ("/abs/back/../file", "/real/file"),
        ("/dangling/x", "/made/here/x"),
        ("/real/file/below", "/real/file/below"),
        ("", "/"),
        ("/none/../real", "/real"),
    ];
    for (path, expected) in cases {
        assert_eq!(
            root.resolve(Path::new(path)).unwrap(),
            Path::new(expected),
            "{path}"
        );
    }
    assert!(root.resolve(Path::new("/loop")).is_err());
}

#[test]
fn nothing_outside_can_be_opened() {
    let (_dir, root) = root();
    for path in ["out", "/out", "../secret", "/real/../../secret", "/proc/1"] {
        let opened = root.open_at(Path::new(path), OFlags::RDONLY, Mode::empty());
        assert!(opened.is_err(), "{path}");
    }
    assert_eq!(
        root.read_file(Path::new("/up/file"), 10).unwrap(),
        b"inside"
    );
    assert_eq!(
        root.read_file(Path::new("/up/file"), 3).unwrap_err().kind(),
        std::io::ErrorKind::FileTooLarge
    );
    assert!(root.read_file(Path::new("/real"), 3).is_err());
}

#[test]
fn directories_are_made_where_links_lead_with_their_owner() {
    let (dir, root) = root();
    let (path, first) = root
        .create_dir_all(Path::new("/dangling/a/b"), OWNED)
        .unwrap();
    assert_eq!(path, Path::new("/made/here/a/b"));
    assert_eq!(first.as_deref(), Some(Path::new("/made")));
    let meta = fs::metadata(dir.path().join("root/made/here")).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (7, 8, 0o755)
    );
    let (_, again) = root.create_dir_all(Path::new("/abs/sub"), OWNED).unwrap();
    assert_eq!(again, None);
    assert_eq!(
        fs::metadata(dir.path().join("root/real/sub"))
            .unwrap()
            .uid(),
        0
    );
    assert!(
        root.create_dir_all(Path::new("/real/file/x"), OWNED)
            .is_err()
    );
}
