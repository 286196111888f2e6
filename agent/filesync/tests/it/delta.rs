//! Only what changed crosses the wire, and changed files are new inodes.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use kiln_filesync::{Differ, ReceiveOptions};
use tempfile::tempdir;

use crate::pair::{listing, recorded, sync};

#[tokio::test]
async fn one_touched_file_of_two_thousand_crosses_alone() {
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    for dir in 0..20 {
        let dir = source.path().join(format!("dir{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..100 {
            fs::write(dir.join(format!("file{file}")), format!("{file}")).unwrap();
        }
    }
    let first = sync(source.path(), dest.path(), ReceiveOptions::default()).await;
    assert_eq!((first.entries, first.files), (2020, 2000));
    // A layer that was made by linking keeps the old inode.
    let layer = tempdir().unwrap();
    let linked = layer.path().join("linked");
    fs::hard_link(dest.path().join("dir7/file42"), &linked).unwrap();
    let untouched = fs::metadata(dest.path().join("dir7/file43")).unwrap().ino();

    fs::write(source.path().join("dir7/file42"), "changed").unwrap();
    let (recorder, options) = recorded();
    let second = sync(source.path(), dest.path(), options).await;
    assert_eq!((second.files, second.bytes, second.deleted), (1, 7, 0));
    assert_eq!(recorder.texts(), ["put dir7/file42 202"]);
    assert_eq!(listing(source.path()), listing(dest.path()));
    assert_eq!(fs::read(&linked).unwrap(), b"42");
    let still = fs::metadata(dest.path().join("dir7/file43")).unwrap().ino();
    assert_eq!(still, untouched);
}

#[tokio::test]
async fn names_change_their_kind() {
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    let s = source.path();
    fs::create_dir_all(s.join("dir-to-file/deep/er")).unwrap();
    fs::write(s.join("dir-to-file/deep/er/x"), "x").unwrap();
    fs::write(s.join("file-to-dir"), "f").unwrap();
    symlink("file-to-dir", s.join("link-to-file")).unwrap();
    fs::write(s.join("gone"), "g").unwrap();
    fs::create_dir(s.join("gone-dir")).unwrap();
    fs::write(s.join("gone-dir/x"), "g").unwrap();
    sync(s, dest.path(), ReceiveOptions::default()).await;

    fs::remove_dir_all(s.join("dir-to-file")).unwrap();
    fs::write(s.join("dir-to-file"), "now a file").unwrap();
    fs::remove_file(s.join("file-to-dir")).unwrap();
    fs::create_dir(s.join("file-to-dir")).unwrap();
    fs::write(s.join("file-to-dir/y"), "y").unwrap();
    fs::remove_file(s.join("link-to-file")).unwrap();
    fs::write(s.join("link-to-file"), "plain").unwrap();
    fs::remove_file(s.join("gone")).unwrap();
    fs::remove_dir_all(s.join("gone-dir")).unwrap();
    let (recorder, options) = recorded();
    let summary = sync(s, dest.path(), options).await;
    assert_eq!((summary.files, summary.deleted), (3, 4));
    assert_eq!(listing(s), listing(dest.path()));
    let mut texts = recorder.texts();
    texts.retain(|text| !text.starts_with("put") || text.ends_with("file-to-dir"));
    assert_eq!(
        texts,
        [
            "delete dir-to-file",
            "delete file-to-dir",
            "put file-to-dir",
            "delete gone",
            "delete gone-dir",
        ]
    );
}

#[tokio::test]
async fn hard_links_follow_their_changed_target() {
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(source.path().join("a"), "one").unwrap();
    fs::hard_link(source.path().join("a"), source.path().join("b")).unwrap();
    sync(source.path(), dest.path(), ReceiveOptions::default()).await;
    fs::write(source.path().join("a"), "second").unwrap();
    let summary = sync(source.path(), dest.path(), ReceiveOptions::default()).await;
    assert_eq!(summary.files, 1);
    assert_eq!(fs::read(dest.path().join("b")).unwrap(), b"second");
    assert_eq!(listing(source.path()), listing(dest.path()));

    // One of the names becomes a file of its own.
    fs::remove_file(source.path().join("b")).unwrap();
    fs::write(source.path().join("b"), "own").unwrap();
    sync(source.path(), dest.path(), ReceiveOptions::default()).await;
    assert_eq!(listing(source.path()), listing(dest.path()));
}

#[tokio::test]
async fn nothing_is_compared_when_asked_so() {
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(source.path().join("a"), "a").unwrap();
    let options = ReceiveOptions {
        differ: Differ::None,
        ..ReceiveOptions::default()
    };
    for _ in 0..2 {
        let summary = sync(source.path(), dest.path(), options.clone()).await;
        assert_eq!(summary.files, 1);
    }
}
