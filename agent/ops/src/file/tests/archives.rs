//! Archives that a copy unpacks.

use super::*;

#[test]
fn archives_are_unpacked_whatever_they_are_compressed_with() {
    use std::io::Write as _;
    let mut archive = tar::Builder::new(Vec::new());
    for (name, link) in [
        ("in/f", None),
        ("in/evil", Some("/etc")),
        ("in/evil/x", None),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(9);
        if let Some(target) = link {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, name, target).unwrap();
        } else {
            header.set_size(2);
            archive.append_data(&mut header, name, &b"hi"[..]).unwrap();
        }
    }
    let plain = archive.into_inner().unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).unwrap();
    let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bz.write_all(&plain).unwrap();
    for (name, bytes) in [
        ("plain", plain.clone()),
        ("xz", xz.finish().unwrap()),
        ("bzip2", bz.finish().unwrap()),
    ] {
        let mut lab = Lab::new();
        std::fs::write(lab.src().join("a"), bytes).unwrap();
        let action = pb::FileActionCopy {
            attempt_unpack_docker_compatibility: true,
            ..plain_copy("/a", "/to/")
        };
        lab.run(&Action::Copy(action)).unwrap();
        let file = lab.dest().join("to/in/f").metadata().unwrap();
        assert_eq!((file.uid(), file.gid(), file.mtime()), (7, 8, 9), "{name}");
        let evil = lab.dest().join("to/etc/x");
        assert!(evil.exists(), "{name}: the link leads to the root's /etc");
        assert!(!Path::new("/etc/x").exists());
    }
    // What isn't an archive is copied.
    let mut lab = Lab::new();
    make(&lab.src(), &["a"]);
    let action = pb::FileActionCopy {
        attempt_unpack_docker_compatibility: true,
        ..plain_copy("/a", "/")
    };
    lab.run(&Action::Copy(action)).unwrap();
    assert_eq!(list(&lab.dest()), ["a"]);
}
