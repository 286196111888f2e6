//! Layers that a current BuildKit made of the same files (its own engine, `SOURCE_DATE_EPOCH=1`).

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use kiln_oci::Digest;
use kiln_snapshot::diff::{DiffOptions, write_trees, write_upper};
use rustix::fs::{CWD, FileType, Gid, Mode, Uid, XattrFlags};

/// One thing in an overlay's upper directory.
enum Op {
    Dir(&'static str),
    Opaque(&'static str),
    File(&'static str, u32, &'static [u8]),
    Owned(&'static str, u32, u32, &'static [u8]),
    Link(&'static str, &'static str),
    Whiteout(&'static str),
}
use Op::{Dir, File, Link, Opaque, Owned, Whiteout};

fn make(root: &Path, ops: &[Op]) {
    for op in ops {
        let at = |path: &str| root.join(path);
        match op {
            Dir(path) | Opaque(path) => {
                std::fs::create_dir(at(path)).unwrap();
                std::fs::set_permissions(at(path), PermissionsExt::from_mode(0o755)).unwrap();
                if matches!(op, Opaque(_)) {
                    let flags = XattrFlags::empty();
                    rustix::fs::lsetxattr(at(path), "trusted.overlay.opaque", b"y", flags).unwrap();
                }
            }
            File(path, mode, data) => {
                std::fs::write(at(path), data).unwrap();
                std::fs::set_permissions(at(path), PermissionsExt::from_mode(*mode)).unwrap();
            }
            Owned(path, uid, gid, data) => {
                std::fs::write(at(path), data).unwrap();
                std::fs::set_permissions(at(path), PermissionsExt::from_mode(0o644)).unwrap();
                let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
                rustix::fs::chown(at(path), Some(uid), Some(gid)).unwrap();
            }
            Link(path, target) => std::fs::hard_link(at(target), at(path)).unwrap(),
            Whiteout(path) => {
                let kind = FileType::CharacterDevice;
                rustix::fs::mknodat(CWD, at(path), kind, Mode::empty(), 0).unwrap();
            }
        }
    }
}

fn upper_digest(lower: &[PathBuf], upper: &Path) -> String {
    let options = DiffOptions {
        latest_time: Some(1),
    };
    let (layer, _) = write_upper(lower, upper, Vec::new(), options).unwrap();
    Digest::of(layer).to_string()
}

const STUBS: [Op; 3] = [Dir("dev"), Dir("proc"), Dir("sys")];

/// The base image's tree, as far as the steps below touch it.
const BASE: [Op; 3] = [
    Dir("etc"),
    File("etc/group", 0o644, b"root:x:0:\n"),
    File("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n"),
];

#[test]
fn layers_have_the_bytes_of_the_real_engine() {
    let table: &[(&str, &str, bool, &[Op])] = &[
        (
            "COPY a.txt /",
            "3d827342",
            false,
            &[File("a.txt", 0o644, b"alpha\n")],
        ),
        (
            "COPY --chmod=0640",
            "52fc0aa4",
            false,
            &[File("a.txt", 0o640, b"alpha\n")],
        ),
        (
            "COPY --chown=1:2",
            "17eaa9d8",
            false,
            &[Owned("a.txt", 1, 2, b"alpha\n")],
        ),
        (
            "COPY . /",
            "f82eda0a",
            false,
            &[
                File("a.txt", 0o644, b"alpha\n"),
                File("b.txt", 0o644, b"beta\n"),
                Dir("dir"),
                File("dir/c.txt", 0o644, b"gamma\n"),
                Dir("dir/sub"),
                File("dir/sub/d.md", 0o644, b"delta\n"),
                File("dir/sub/e.txt", 0o644, b"eps\n"),
                File("run.sh", 0o755, b"#!/bin/sh\necho hi\n"),
            ],
        ),
        ("mount stubs", "9b477ab5", true, &STUBS),
        (
            "hard link and set-id",
            "23fab178",
            true,
            &[
                Dir("dev"),
                Dir("proc"),
                Dir("sys"),
                File("h", 0o4755, b"1\n"),
                Link("h2", "h"),
            ],
        ),
        (
            "whiteout below an unchanged directory",
            "6e40cf3e",
            true,
            &[
                Dir("dev"),
                Dir("proc"),
                Dir("sys"),
                Dir("etc"),
                Whiteout("etc/group"),
                Dir("n"),
                File("n/f", 0o644, b""),
            ],
        ),
        (
            "whiteout of what isn't below",
            "9b477ab5",
            true,
            &[Dir("dev"), Dir("proc"), Dir("sys"), Whiteout("gone")],
        ),
    ];
    for (name, want, on_base, ops) in table {
        let dir = tempfile::tempdir().unwrap();
        let (base, upper) = (dir.path().join("base"), dir.path().join("upper"));
        std::fs::create_dir(&base).unwrap();
        std::fs::create_dir(&upper).unwrap();
        make(&base, &BASE);
        make(&upper, ops);
        let lower = if *on_base { vec![base] } else { Vec::new() };
        let digest = upper_digest(&lower, &upper);
        assert!(
            digest.starts_with(&format!("sha256:{want}")),
            "{name}: {digest}"
        );
    }
}

#[test]
fn removed_and_remade_directories_compare_with_what_is_below() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (base, first, second, third) = (at("base"), at("first"), at("second"), at("third"));
    make(&base, &BASE);
    make(&first, &STUBS);
    make(&first, &[Dir("n"), File("n/a", 0o644, b"")]);
    let digest = upper_digest(std::slice::from_ref(&base), &first);
    assert!(digest.starts_with("sha256:e6970629"), "{digest}");
    make(&second, &[Opaque("n"), File("n/b", 0o644, b"")]);
    let digest = upper_digest(&[base.clone(), first.clone()], &second);
    assert!(digest.starts_with("sha256:782b8c49"), "{digest}");
    make(&third, &[Whiteout("n")]);
    let digest = upper_digest(&[base.clone(), first.clone()], &third);
    assert!(digest.starts_with("sha256:a4ac2d4e"), "{digest}");

    // Two whole states give the same layer as the upper directory between them.
    let options = DiffOptions {
        latest_time: Some(1),
    };
    let (layer, _) = write_trees(
        &[base.clone(), first.clone()],
        &[base, first, third],
        Vec::new(),
        options,
    )
    .unwrap();
    assert!(Digest::of(layer).to_string().starts_with("sha256:a4ac2d4e"));
}

#[test]
fn symbolic_links_and_long_names_survive_a_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    std::fs::create_dir(&to).unwrap();
    let long = format!("{}/{}", "d".repeat(200), "é".repeat(100));
    std::fs::create_dir(from.join("d".repeat(200))).unwrap();
    std::fs::write(from.join(&long), "x").unwrap();
    symlink("/".to_owned() + &"t".repeat(300), from.join("link")).unwrap();
    let (layer, _) = write_upper(&[], &from, Vec::new(), DiffOptions::default()).unwrap();
    let options = kiln_snapshot::apply::ApplyOptions {
        whiteouts: kiln_snapshot::apply::Whiteouts::Overlay { userxattr: false },
        limits: kiln_snapshot::tar::Limits::default(),
        skip_devices: false,
        owner: None,
    };
    kiln_snapshot::apply::apply(layer.as_slice(), &to, &options).unwrap();
    let (again, _) = write_upper(&[], &to, Vec::new(), DiffOptions::default()).unwrap();
    assert_eq!(layer, again);
}
