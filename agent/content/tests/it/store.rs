//! Blobs: written, verified, found again, removed.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use kiln_content::{ContentStore, Document, Documents, Error, ImageTable};
use kiln_oci::{Descriptor, Digest, media_type};
use kiln_store::StateRoot;

fn open(path: &Path) -> (StateRoot, ContentStore) {
    let root = StateRoot::open(path).unwrap();
    let content = ContentStore::open(&root).unwrap();
    (root, content)
}

fn files(path: &Path, below: &str) -> usize {
    std::fs::read_dir(path.join("content").join(below))
        .unwrap()
        .count()
}

#[tokio::test]
async fn blobs_are_written_read_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (root, content) = open(dir.path());
    let info = content.put(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!((info.digest, info.size), (Digest::of("hello"), 5));
    assert_eq!(
        content.put(Bytes::from_static(b"hello")).await.unwrap(),
        info
    );
    assert_eq!(content.read(&info.digest).await.unwrap(), "hello");
    assert_eq!(content.walk(), [info]);
    assert_eq!(
        (
            files(dir.path(), "blobs/sha256"),
            files(dir.path(), "ingest")
        ),
        (1, 0)
    );

    content.set_label(&info.digest, "a", "1").await.unwrap();
    assert_eq!(content.labels(&info.digest).await.unwrap()["a"], "1");
    content.set_label(&info.digest, "a", "").await.unwrap();
    assert!(content.labels(&info.digest).await.unwrap().is_empty());

    root.close().await.unwrap();
    drop(content);
    let (_root, content) = open(dir.path());
    assert_eq!(content.info(&info.digest), Some(info));
    assert!(content.delete(&info.digest).await.unwrap());
    assert!(!content.delete(&info.digest).await.unwrap());
    assert!(matches!(
        content.read(&info.digest).await,
        Err(Error::NotFound { .. })
    ));
    assert_eq!(files(dir.path(), "blobs/sha256"), 0);
}

#[tokio::test]
async fn wrong_content_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_root, content) = open(dir.path());
    let digest = Digest::of("right");
    let key = digest.to_string();

    let mut writer = content.writer(&key).await.unwrap();
    writer.push("wrong".into()).await.unwrap();
    let refused = writer.commit(Some(digest), None).await;
    assert!(
        matches!(refused, Err(Error::WrongDigest { actual, .. }) if actual == Digest::of("wrong"))
    );

    let mut writer = content.writer(&key).await.unwrap();
    assert_eq!(writer.offset(), 0, "what was wrong isn't resumed");
    writer.push("righ".into()).await.unwrap();
    let refused = writer.commit(Some(digest), Some(5)).await;
    assert!(matches!(
        refused,
        Err(Error::WrongSize {
            expected: 5,
            actual: 4
        })
    ));

    let mut writer = content.writer(&key).await.unwrap();
    writer.expect_size(5).await.unwrap();
    writer.push("right and more".into()).await.unwrap();
    let refused = writer.commit(Some(digest), None).await;
    assert!(
        matches!(refused, Err(Error::TooLong { expected: 5 })),
        "{refused:?}"
    );
    assert_eq!(
        (
            files(dir.path(), "blobs/sha256"),
            files(dir.path(), "ingest")
        ),
        (0, 0)
    );
}

#[tokio::test]
async fn a_dropped_write_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let (_root, content) = open(dir.path());
    let mut writer = content.writer("key").await.unwrap();
    writer.push("first ".into()).await.unwrap();
    drop(writer);
    // The writer's turn ends when its thread has written all.
    let mut writer = content.writer("key").await.unwrap();
    assert_eq!(writer.offset(), 6);
    writer.push("second".into()).await.unwrap();
    let info = writer
        .commit(Some(Digest::of("first second")), Some(12))
        .await
        .unwrap();
    assert_eq!(content.read(&info.digest).await.unwrap(), "first second");

    let mut writer = content.writer("key").await.unwrap();
    writer.push("x".into()).await.unwrap();
    writer.discard().await;
    assert_eq!(content.writer("key").await.unwrap().offset(), 0);
}

#[tokio::test]
async fn one_key_has_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (_root, content) = open(dir.path());
    let mut writer = content.writer("key").await.unwrap();
    let second = {
        let content = content.clone();
        tokio::spawn(async move { content.writer("key").await.map(|writer| writer.offset()) })
    };
    content.writer("another").await.unwrap();
    writer.push("data".into()).await.unwrap();
    assert!(!second.is_finished());
    writer.commit(None, None).await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_reads_what_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let (_root, content) = open(dir.path());
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    let digest = Digest::of(&data);
    let (mut follow, stop) = content.follow(&digest);
    let reader = tokio::task::spawn_blocking(move || {
        let mut seen = Vec::new();
        follow.read_to_end(&mut seen).map(|_| seen)
    });
    let mut writer = content.writer(&digest.to_string()).await.unwrap();
    let (first, second) = data.split_at(1_000_000);
    for piece in first.chunks(70_000) {
        writer.push(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    // Broken off and resumed: the follower doesn't notice.
    drop(writer);
    let mut writer = content.writer(&digest.to_string()).await.unwrap();
    assert_eq!(writer.offset(), 1_000_000);
    for piece in second.chunks(70_000) {
        writer.push(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    writer.commit(Some(digest), None).await.unwrap();
    assert_eq!(reader.await.unwrap().unwrap(), data);
    drop(stop);
    // One that comes later reads the blob.
    let (mut late, _stop) = content.follow(&digest);
    let mut seen = Vec::new();
    late.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_fails_when_nothing_comes_or_the_bytes_were_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (_root, content) = open(dir.path());
    let digest = Digest::of("right");
    let (mut follow, stop) = content.follow(&digest);
    let reader = tokio::task::spawn_blocking(move || follow.read(&mut [0; 10]));
    drop(stop);
    assert!(reader.await.unwrap().is_err());

    let (mut follow, stop) = content.follow(&digest);
    let mut writer = content.writer(&digest.to_string()).await.unwrap();
    writer.push("wrong".into()).await.unwrap();
    let reader = tokio::task::spawn_blocking(move || {
        let mut seen = [0; 5];
        follow.read_exact(&mut seen).unwrap();
        (follow.read(&mut [0; 10]), seen)
    });
    // Once the reader has the wrong bytes the right ones come, under another generation.
    writer.commit(Some(digest), None).await.unwrap_err();
    content.put(Bytes::from_static(b"right")).await.unwrap();
    let (rest, seen) = reader.await.unwrap();
    if &seen == b"wrong" {
        assert!(rest.is_err(), "{rest:?}");
    } else {
        assert_eq!(&seen, b"right");
    }
    drop(stop);
}

#[tokio::test]
async fn rows_and_files_agree_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let (root, content) = open(dir.path());
    let good = content.put(Bytes::from_static(b"good")).await.unwrap();
    let lost = content.put(Bytes::from_static(b"lost")).await.unwrap();
    let short = content.put(Bytes::from_static(b"short")).await.unwrap();
    drop(content.writer("left").await.unwrap());
    std::fs::remove_file(content.path(&lost.digest)).unwrap();
    std::fs::write(content.path(&short.digest), "sho").unwrap();
    std::fs::write(content.path(&Digest::of("unknown")), "unknown").unwrap();
    std::fs::write(content.path(&good.digest).with_file_name("junk"), "junk").unwrap();
    root.close().await.unwrap();
    drop(content);

    let (root, content) = open(dir.path());
    assert_eq!(content.walk(), [good]);
    assert_eq!(
        (
            files(dir.path(), "blobs/sha256"),
            files(dir.path(), "ingest")
        ),
        (1, 0)
    );
    let db = root.db();
    let rows =
        db.read(|db| db.query_row("SELECT count(*) FROM blobs", (), |row| row.get::<_, i64>(0)));
    assert_eq!(rows.await.unwrap(), 1);
}

#[tokio::test]
async fn names_are_set_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (root, _content) = open(dir.path());
    let images = ImageTable::new(&root);
    let before = root.epochs().current();
    let name = "alpine:3".parse().unwrap();
    let one = Descriptor::of(media_type::OCI_MANIFEST, b"1");
    let two = Descriptor::of(media_type::OCI_MANIFEST, b"2").annotated("a", "b");
    images.set(&name, &one).await.unwrap();
    images.set(&name, &two).await.unwrap();
    assert!(root.epochs().current() > before, "a name forces a barrier");
    let found = images.get(&name).await.unwrap().unwrap();
    assert_eq!(
        (found.name.as_str(), &found.target),
        ("docker.io/library/alpine:3", &two)
    );
    assert_eq!(images.list().await.unwrap(), [found]);
    assert!(images.remove(&name).await.unwrap() && !images.remove(&name).await.unwrap());
    assert_eq!(images.get(&name).await.unwrap(), None);
}

/// A store on a disk of 1 MiB: needs to mount a tmpfs.
#[tokio::test]
async fn a_full_disk_is_an_error_that_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_root, content) = open(dir.path());
    let ingest = dir.path().join("content/ingest");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&ingest)
        .status();
    assert!(
        mounted.unwrap().success(),
        "this test mounts a tmpfs and so runs as root"
    );
    let announced = async {
        let mut writer = content.writer("a").await?;
        writer.expect_size(4 << 20).await?;
        writer.commit(None, None).await
    };
    let announced = announced.await;
    let written = async {
        let mut writer = content.writer("b").await?;
        for _ in 0..64 {
            writer.push(vec![1; 64 << 10].into()).await?;
        }
        writer.commit(None, None).await
    };
    let written = written.await;
    let left = files(dir.path(), "ingest");
    let unmounted = std::process::Command::new("umount")
        .arg("-l")
        .arg(&ingest)
        .status();
    assert!(unmounted.unwrap().success());
    assert!(matches!(announced, Err(Error::Full)), "{announced:?}");
    assert!(matches!(written, Err(Error::Full)), "{written:?}");
    assert_eq!(left, 0);
}

#[tokio::test]
async fn documents_belong_to_their_repository() {
    let dir = tempfile::tempdir().unwrap();
    let (root, _content) = open(dir.path());
    let documents = Documents::new(&root);
    let document = Document {
        media_type: media_type::OCI_MANIFEST.to_owned(),
        bytes: Bytes::from_static(b"{}"),
    };
    let digest = Digest::of("{}");
    assert_eq!(documents.get(&digest, "a.io/x").await.unwrap(), None);
    documents.put(&digest, "a.io/x", &document).await.unwrap();
    assert_eq!(
        documents.get(&digest, "a.io/x").await.unwrap(),
        Some(document.clone())
    );
    assert_eq!(documents.get(&digest, "a.io/y").await.unwrap(), None);
    // What isn't what its name says is as good as not there.
    documents
        .put(&Digest::of("[]"), "a.io/x", &document)
        .await
        .unwrap();
    assert_eq!(
        documents.get(&Digest::of("[]"), "a.io/x").await.unwrap(),
        None
    );
}
