//! Whole trees arrive as they were.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kiln_filesync::{
    DirTree, MemoryTree, MergedTree, MetadataOnly, PatternMatcher, ReceiveOptions, Stat,
    SubdirTree, Tree, mode,
};
use prost::Message as _;
use tempfile::tempdir;

use crate::pair::{listing, recorded, sync, transfer};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn stat(path: &str, mode: u32) -> Stat {
    Stat {
        path: path.into(),
        mode,
        ..Stat::default()
    }
}

#[tokio::test]
async fn every_kind_of_entry_arrives() {
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    let root = source.path();
    fs::create_dir_all(root.join("dir/empty")).unwrap();
    fs::write(root.join("dir/file"), "hello").unwrap();
    fs::write(root.join("dir-file"), "").unwrap();
    fs::hard_link(root.join("dir/file"), root.join("link")).unwrap();
    symlink("/etc/passwd", root.join("out")).unwrap();
    symlink("missing", root.join("dir/dangling")).unwrap();
    fs::write(root.join("big"), vec![3; 1_500_000]).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o620),
        0,
    )
    .unwrap();
    chmod(&root.join("dir"), 0o2750);
    chmod(&root.join("dir/file"), 0o4711);
    chmod(&root.join("dir/empty"), 0o1777);
    let value = b"value";
    let flags = rustix::fs::XattrFlags::empty();
    let attribute = rustix::fs::setxattr(root.join("big"), "user.kiln", value, flags).is_ok();
    let (recorder, options) = recorded();
    let summary = sync(root, dest.path(), options).await;
    assert_eq!((summary.entries, summary.files), (9, 3));
    assert_eq!(listing(root), listing(dest.path()));
    if attribute {
        let mut read = [0; 16];
        let len = rustix::fs::getxattr(dest.path().join("big"), "user.kiln", &mut read[..]);
        assert_eq!(&read[..len.unwrap()], value);
    }
    let texts = recorder.texts();
    assert!(texts.contains(&"put dir/file 20".to_owned()), "{texts:?}");
    assert_eq!(texts.len(), 9);
    assert_eq!(texts.last().unwrap(), "put link");

    let (recorder, options) = recorded();
    let again = sync(root, dest.path(), options).await;
    assert_eq!((again.files, again.deleted), (0, 0));
    assert_eq!(recorder.texts(), Vec::<String>::new());
    assert_eq!(listing(root), listing(dest.path()));
}

#[tokio::test]
async fn composed_trees_are_sent_like_any_other() {
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    fs::create_dir(source.path().join("etc")).unwrap();
    fs::write(source.path().join("etc/a"), "a").unwrap();
    fs::write(source.path().join("etc-b"), "b").unwrap();
    symlink("/etc/a", source.path().join("link")).unwrap();
    let mut memory = MemoryTree::default();
    memory.add(stat("provenance.json", 0o600), Bytes::from_static(b"{}"));
    let dir: Arc<dyn Tree> = Arc::new(DirTree::new(source.path()).unwrap());
    let merged: Arc<dyn Tree> = Arc::new(MergedTree::new(vec![dir.clone(), Arc::new(memory)]));
    let tree = SubdirTree::new([
        (stat("linux_amd64", mode::DIR | 0o755), merged),
        (stat("linux_arm64", mode::DIR | 0o755), dir),
    ])
    .unwrap();
    let options = ReceiveOptions {
        merge: true,
        ..ReceiveOptions::default()
    };
    fs::write(dest.path().join("kept"), "kept").unwrap();
    let (sent, received) = transfer(Arc::new(tree), dest.path(), options).await;
    sent.unwrap();
    assert_eq!(received.unwrap().entries, 11);
    let names: Vec<String> = listing(dest.path()).into_keys().collect();
    assert_eq!(
        names,
        [
            "kept",
            "linux_amd64",
            "linux_amd64/etc",
            "linux_amd64/etc-b",
            "linux_amd64/etc/a",
            "linux_amd64/link",
            "linux_amd64/provenance.json",
            "linux_arm64",
            "linux_arm64/etc",
            "linux_arm64/etc-b",
            "linux_arm64/etc/a",
            "linux_arm64/link",
        ]
    );
    let link = fs::read_link(dest.path().join("linux_arm64/link")).unwrap();
    assert_eq!(link, Path::new("/linux_arm64/etc/a"));
}

#[tokio::test]
async fn owners_and_times_can_be_mapped_by_either_end() {
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(source.path().join("a"), "a").unwrap();
    let tree = DirTree::new(source.path())
        .unwrap()
        .mapped(Arc::new(|_, stat| {
            stat.mod_time = 5_000_000_000;
            true
        }));
    let options = ReceiveOptions {
        map: Some(Arc::new(|_, stat| {
            stat.uid = rustix::process::geteuid().as_raw();
            stat.mode = 0o600;
            true
        })),
        ..ReceiveOptions::default()
    };
    let (sent, received) = transfer(Arc::new(tree), dest.path(), options).await;
    sent.unwrap();
    received.unwrap();
    let meta = fs::metadata(dest.path().join("a")).unwrap();
    assert_eq!((meta.mtime(), meta.mode() & 0o777), (5, 0o600));
}

#[tokio::test]
async fn metadata_only_leaves_stats_and_the_exceptions() {
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    fs::create_dir_all(source.path().join("a/b")).unwrap();
    fs::create_dir_all(source.path().join("c")).unwrap();
    for file in ["a/b/x.go", "a/b/y.txt", "c/z"] {
        fs::write(source.path().join(file), file).unwrap();
    }
    let except = PatternMatcher::new(&["**/*.go"]).unwrap();
    let options = ReceiveOptions {
        metadata_only: Some(MetadataOnly {
            except: Some(Arc::new(except)),
        }),
        ..ReceiveOptions::default()
    };
    let summary = sync(source.path(), dest.path(), options.clone()).await;
    assert_eq!((summary.entries, summary.files), (6, 1));
    let names: Vec<String> = listing(dest.path()).into_keys().collect();
    assert_eq!(names, [".fsutil-metadata", "a", "a/b", "a/b/x.go"]);
    let stats = fs::read(dest.path().join(".fsutil-metadata")).unwrap();
    let mut rest = stats.as_slice();
    let mut paths = Vec::new();
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let (stat, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
        paths.push(Stat::decode(stat).unwrap().path);
        rest = tail;
    }
    assert_eq!(paths, ["a", "a/b", "a/b/x.go", "a/b/y.txt", "c", "c/z"]);
    assert_eq!(sync(source.path(), dest.path(), options).await.files, 0);
}
