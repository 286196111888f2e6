//! Archives that want out, lie, or never end. None may write outside of its snapshot.

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use kiln_snapshot::apply::{Applied, ApplyError, ApplyOptions, Whiteouts, apply};
use kiln_snapshot::tar::{Header, Kind, Limits, TarReader, TarTime, TarWriter};
use proptest::prelude::*;

const OVERLAY: Whiteouts = Whiteouts::Overlay { userxattr: false };

/// One entry of an archive.
struct Item {
    header: Header,
    data: &'static [u8],
}

fn item(name: &str, kind: Kind) -> Item {
    let mut header = Header::new(name, kind);
    header.mode = 0o755;
    Item { header, data: b"" }
}

fn dir(name: &str) -> Item {
    item(&format!("{name}/"), Kind::Directory)
}

fn file(name: &str, data: &'static [u8]) -> Item {
    let mut item = item(name, Kind::Regular);
    item.header.size = data.len() as u64;
    item.data = data;
    item
}

fn link(kind: Kind, name: &str, target: &str) -> Item {
    let mut item = item(name, kind);
    item.header.linkname = target.into();
    item
}

fn archive(items: &[Item]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for item in items {
        tar.entry(&item.header, &mut &*item.data).unwrap();
    }
    tar.finish().unwrap()
}

struct Place {
    outer: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("root")).unwrap();
        fs::write(outer.path().join("secret"), "untouched").unwrap();
        Self { outer }
    }

    fn root(&self) -> PathBuf {
        self.outer.path().join("root")
    }

    fn extract(&self, items: &[Item]) -> Result<Applied, ApplyError> {
        self.extract_with(items, OVERLAY)
    }

    fn extract_with(&self, items: &[Item], whiteouts: Whiteouts) -> Result<Applied, ApplyError> {
        let options = ApplyOptions {
            whiteouts,
            limits: Limits::default(),
            skip_devices: false,
            owner: None,
        };
        apply(archive(items).as_slice(), &self.root(), &options)
    }

    /// Nothing beside the root changed.
    fn check(&self, name: &str) {
        let mut names: Vec<_> = fs::read_dir(self.outer.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["root", "secret"], "{name}");
        let secret = fs::read(self.outer.path().join("secret")).unwrap();
        assert_eq!(secret, b"untouched", "{name}");
    }
}

#[test]
fn nothing_gets_out() {
    let up = "../".repeat(20);
    let absolute = format!("{up}secret");
    let table: Vec<(&str, Vec<Item>, &[&str])> = vec![
        ("dots", vec![file("../secret", b"!")], &["secret"]),
        ("many dots", vec![file(&absolute, b"!")], &["secret"]),
        (
            "dots inside",
            vec![file("a/../../secret", b"!")],
            &["secret"],
        ),
        ("an absolute name", vec![file("/secret", b"!")], &["secret"]),
        (
            "through a link up",
            vec![link(Kind::Symlink, "up", ".."), file("up/secret", b"!")],
            &["up", "secret"],
        ),
        (
            "through an absolute link",
            vec![link(Kind::Symlink, "abs", "/"), file("abs/secret", b"!")],
            &["abs", "secret"],
        ),
        (
            "through a chain of links",
            vec![
                dir("d"),
                link(Kind::Symlink, "d/one", "../.."),
                link(Kind::Symlink, "two", "d/one/.."),
                file("two/secret", b"!"),
            ],
            &["two", "secret"],
        ),
        (
            "over a link",
            vec![link(Kind::Symlink, "x", "../secret"), file("x", b"!")],
            &["x"],
        ),
        (
            "a directory over a link",
            vec![
                link(Kind::Symlink, "x", ".."),
                dir("x"),
                file("x/secret", b"!"),
            ],
            &["x", "x/secret"],
        ),
        (
            "a link over a directory",
            vec![
                dir("x"),
                link(Kind::Symlink, "x", ".."),
                file("x/secret", b"!"),
            ],
            &["x", "secret"],
        ),
        (
            "a link to what comes later",
            vec![link(Kind::Symlink, "x", "later/deep"), file("x/f", b"!")],
            &["x", "later/deep/f"],
        ),
    ];
    for (name, items, want) in table {
        let place = Place::new();
        place
            .extract(&items)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        place.check(name);
        for path in want {
            let path = place.root().join(path);
            assert!(
                fs::symlink_metadata(&path).is_ok(),
                "{name}: {}",
                path.display()
            );
        }
    }
}

#[test]
fn what_cant_be_is_refused() {
    let mut zero = item("dev/null", Kind::CharDevice);
    zero.header.devmajor = 0;
    let mut huge_owner = file("x", b"");
    huge_owner.header.uid = u64::from(u32::MAX);
    let table: Vec<(&str, Vec<Item>)> = vec![
        (
            "a hard link up",
            vec![link(Kind::HardLink, "x", "../secret")],
        ),
        (
            "a hard link through a link",
            vec![
                link(Kind::Symlink, "up", ".."),
                link(Kind::HardLink, "x", "up/secret"),
            ],
        ),
        (
            "a hard link to nothing",
            vec![link(Kind::HardLink, "x", "y")],
        ),
        (
            "a hard link to itself",
            vec![file("x", b""), link(Kind::HardLink, "x", "x")],
        ),
        (
            "a hard link to a directory",
            vec![dir("d"), link(Kind::HardLink, "x", "d")],
        ),
        ("a device that would be a whiteout", vec![zero]),
        (
            "a file as a directory",
            vec![file("x", b""), file("x/y", b"")],
        ),
        (
            "a loop of links",
            vec![
                link(Kind::Symlink, "a", "b"),
                link(Kind::Symlink, "b", "a"),
                file("a/x", b""),
            ],
        ),
        ("an owner that no system has", vec![huge_owner]),
        ("a whiteout of the parent", vec![file(".wh...", b"")]),
    ];
    for (name, items) in table {
        let place = Place::new();
        let refused = place.extract(&items);
        assert!(refused.is_err(), "{name}: {refused:?}");
        place.check(name);
    }
}

#[test]
fn attributes_of_overlayfs_dont_come_from_archives() {
    let mut item = dir("d");
    for name in [
        "trusted.overlay.opaque",
        "user.overlay.opaque",
        "trusted.overlay.redirect",
    ] {
        let key = format!("SCHILY.xattr.{name}").into_bytes();
        item.header.pax.insert(key, b"y".to_vec());
    }
    item.header
        .pax
        .insert(b"SCHILY.xattr.trusted.mine".to_vec(), b"kept".to_vec());
    let place = Place::new();
    place.extract(&[item]).unwrap();
    let mut names = vec![0_u8; 4096];
    let length = rustix::fs::llistxattr(place.root().join("d"), names.as_mut_slice()).unwrap();
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    assert!(!names.contains("overlay"), "{names:?}");
    assert!(names.contains("trusted.mine"), "{names:?}");
}

#[test]
fn set_id_bits_survive_the_change_of_owner_and_times_those_of_content() {
    let mut program = file("d/su", b"#!");
    program.header.mode = 0o6755;
    (program.header.uid, program.header.gid) = (12, 34);
    let mut parent = dir("d");
    parent.header.mode = 0o1777;
    parent.header.mtime = TarTime {
        seconds: 1234,
        nanoseconds: 0,
    };
    let place = Place::new();
    place.extract(&[parent, program]).unwrap();
    let su = fs::metadata(place.root().join("d/su")).unwrap();
    assert_eq!(
        (su.permissions().mode() & 0o7777, su.uid(), su.gid()),
        (0o6755, 12, 34)
    );
    let d = fs::metadata(place.root().join("d")).unwrap();
    assert_eq!((d.permissions().mode() & 0o7777, d.mtime()), (0o1777, 1234));
}

#[test]
fn whiteouts_hide_only_what_is_below() {
    let place = Place::new();
    let applied = place
        .extract(&[
            dir("etc"),
            file("etc/.wh.gone", b""),
            file("etc/.wh.back", b""),
            file("etc/back", b"again"),
            dir("new"),
            file(".wh.new", b""),
            file("opq/.wh..wh..opq", b""),
            file("opq/x", b""),
            file(".wh..wh.aufs", b""),
        ])
        .unwrap();
    assert_eq!(applied.implied_dirs, [Path::new("opq")]);
    let at = |path: &str| place.root().join(path);
    let gone = fs::symlink_metadata(at("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(fs::read(at("etc/back")).unwrap(), b"again");
    for path in ["new", "opq"] {
        let mut value = [0_u8; 8];
        let name = CString::new("trusted.overlay.opaque").unwrap();
        let length = rustix::fs::lgetxattr(at(path), name, &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"y", "{path}");
    }
    assert!(!at(".wh..wh.aufs").exists());

    // As names like others, where an archive isn't a layer.
    let place = Place::new();
    place
        .extract_with(&[file(".wh.x", b"")], Whiteouts::Literal)
        .unwrap();
    assert!(place.root().join(".wh.x").exists());

    // On a whole state they remove, but not what the same archive made.
    let place = Place::new();
    for path in ["old", "d/old", "d/kept"] {
        let path = place.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "below").unwrap();
    }
    symlink("/etc", place.root().join("d/link")).unwrap();
    let layer = [
        file("d/kept", b"above"),
        file("d/.wh..wh..opq", b""),
        file(".wh.old", b""),
    ];
    place.extract_with(&layer, Whiteouts::Remove).unwrap();
    let left: Vec<_> = fs::read_dir(place.root().join("d")).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert!(!place.root().join("old").exists());
    assert!(Path::new("/etc").exists());
}

#[test]
fn many_extended_headers_hold_no_more_than_one() {
    let with_headers = |count: u8| {
        let mut bytes = Vec::new();
        for number in 0..count {
            let mut item = file("a", b"");
            let key = format!("SCHILY.xattr.user.{number}").into_bytes();
            item.header.pax.insert(key, vec![b'x'; 100]);
            let whole = archive(&[item]);
            // The extended header and its body; of the last one the entry and the end, too.
            let end = if number + 1 == count {
                whole.len()
            } else {
                1024
            };
            bytes.extend_from_slice(&whole[..end]);
        }
        let limits = Limits {
            pax: 200,
            ..Limits::default()
        };
        let mut reader = TarReader::new(bytes.as_slice(), limits);
        reader.next_entry()
    };
    assert!(with_headers(1).is_ok());
    let refused = with_headers(2).unwrap_err().to_string();
    assert!(refused.contains("PAX records"), "{refused}");
}

#[test]
fn limits_come_before_harm() {
    let small = |limits: Limits, items: &[Item]| {
        let place = Place::new();
        let options = ApplyOptions {
            whiteouts: OVERLAY,
            limits,
            skip_devices: false,
            owner: None,
        };
        apply(archive(items).as_slice(), &place.root(), &options)
    };
    let limits = Limits {
        entries: 2,
        path: 300,
        pax: 200,
        data: 10,
    };
    assert!(small(limits, &[file("a", b"123"), file("b", b"456")]).is_ok());
    assert!(small(limits, &[file("a", b""), file("b", b""), file("c", b"")]).is_err());
    assert!(small(limits, &[file("a", b"12345678901")]).is_err());
    assert!(small(limits, &[file(&"x/".repeat(160), b"").into_dir()]).is_err());
    // A size that no stream has costs nothing.
    let mut liar = file("a", b"");
    liar.header.size = 1 << 40;
    let mut bytes = Vec::new();
    let mut tar = TarWriter::new(&mut bytes);
    tar.header(&liar.header).unwrap();
    let place = Place::new();
    let options = ApplyOptions {
        whiteouts: OVERLAY,
        limits: Limits::default(),
        skip_devices: false,
        owner: None,
    };
    assert!(apply(bytes.as_slice(), &place.root(), &options).is_err());
}

impl Item {
    fn into_dir(mut self) -> Self {
        self.header.kind = Kind::Directory;
        self
    }
}

/// A stream that breaks off with an error.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            return Err(std::io::Error::other("the line went dead"));
        }
        self.0.read(buffer)
    }
}

#[test]
fn a_broken_stream_is_an_error() {
    let bytes = archive(&[file("a", b"12345"), dir("d")]);
    let options = ApplyOptions {
        whiteouts: OVERLAY,
        limits: Limits::default(),
        skip_devices: false,
        owner: None,
    };
    for cut in [0, 100, 512, 515, 1024, 1500] {
        let place = Place::new();
        assert!(
            apply(Broken(&bytes[..cut]), &place.root(), &options).is_err(),
            "{cut}"
        );
    }
}

fn names() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["a", "b", "..", ".", "", ".wh.a", "up"]),
        1..4,
    )
    .prop_map(|parts| parts.join("/"))
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        Kind::Regular,
        Kind::Directory,
        Kind::Symlink,
        Kind::HardLink,
        Kind::Fifo,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever entries come in whatever order, nothing beside the root changes.
    #[test]
    fn any_mix_of_entries_stays_inside(
        entries in prop::collection::vec((names(), kinds(), names()), 1..12),
        whole in any::<bool>(),
    ) {
        let items: Vec<Item> = entries
            .into_iter()
            .filter_map(|(name, kind, target)| match kind {
                Kind::Directory => Some(dir(&name)),
                _ if name.is_empty() || name.ends_with('/') => None,
                Kind::Regular => Some(file(&name, b"data")),
                Kind::Fifo => Some(item(&name, Kind::Fifo)),
                kind => Some(link(kind, &name, &target)),
            })
            .collect();
        let place = Place::new();
        let whiteouts = if whole { Whiteouts::Remove } else { OVERLAY };
        let _ = place.extract_with(&items, whiteouts);
        place.check("a mix");
    }

    /// Bytes that aren't an archive never panic.
    #[test]
    fn any_bytes_are_read_or_refused(
        mut bytes in prop::collection::vec(any::<u8>(), 0..2048),
        at in 0_usize..1500,
        flip in any::<u8>(),
        from_archive in any::<bool>(),
    ) {
        if from_archive {
            bytes = archive(&[file(&"n".repeat(120), b"12345"), link(Kind::Symlink, "l", &"t".repeat(200))]);
            bytes[at] ^= flip;
        }
        let place = Place::new();
        let options = ApplyOptions {
            whiteouts: OVERLAY,
            limits: Limits { data: 1 << 20, ..Limits::default() },
            skip_devices: true,
            owner: None,
        };
        let _ = apply(bytes.as_slice(), &place.root(), &options);
        place.check("bytes");
    }
}
