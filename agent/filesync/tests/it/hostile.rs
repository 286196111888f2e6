//! Peers that lie, overrun limits, or die. The destination stays consistent, and nothing outside it
//! is touched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use kiln_filesync::{DirTree, Error, Limits, Packet, ReceiveOptions, Stat, mode};
use tempfile::tempdir;

use crate::pair::{channel, feed, listing, transfer};

fn stat(path: &str, mode: u32, linkname: &str) -> Packet {
    Packet::Stat(Some(Box::new(Stat {
        path: path.into(),
        mode,
        linkname: linkname.into(),
        size: 3,
        mod_time: 1_000_000_000,
        ..Stat::default()
    })))
}

fn file(path: &str) -> Packet {
    stat(path, 0o644, "")
}

fn dir(path: &str) -> Packet {
    stat(path, mode::DIR | 0o755, "")
}

fn data(id: u32, bytes: &'static [u8]) -> Packet {
    Packet::Data(id, Bytes::from_static(bytes))
}

const END: Packet = Packet::Stat(None);

#[tokio::test]
async fn lies_are_refused_and_nothing_outside_is_touched() {
    let limits = Limits {
        entries: 3,
        path: 100,
        depth: 2,
    };
    let deep = "a/".repeat(60);
    let table: Vec<(&str, Vec<Packet>, &str)> = vec![
        ("parent", vec![file("../out")], "leaves the root"),
        (
            "inner parent",
            vec![dir("a"), file("a/../../out")],
            "leaves the root",
        ),
        ("absolute", vec![file("/out")], "absolute"),
        ("dot", vec![file("./out")], "not in canonical form"),
        ("empty path", vec![file("")], "empty"),
        ("zero byte", vec![file("a\0b")], "zero byte"),
        (
            "long path",
            vec![file(&deep)],
            "limit of 100 bytes in one path",
        ),
        (
            "long name",
            vec![file(&"x".repeat(90)), file(&"y".repeat(101))],
            "limit of 100",
        ),
        ("below a file", vec![file("a"), file("a/b")], "out of order"),
        (
            "below a link",
            vec![stat("a", mode::SYMLINK | 0o777, "/"), file("a/out")],
            "out of order",
        ),
        ("twice", vec![dir("a"), dir("a")], "out of order"),
        ("backwards", vec![file("b"), file("a")], "out of order"),
        (
            "too many",
            vec![file("a"), file("b"), file("c"), file("d")],
            "limit of 3 entries",
        ),
        (
            "too deep",
            vec![dir("a"), dir("a/b"), dir("a/b/c")],
            "limit of 2 directories",
        ),
        (
            "link out",
            vec![stat("a", 0o644, "../../etc/passwd")],
            "not sent before",
        ),
        (
            "link to a dir",
            vec![dir("a"), stat("b", 0o644, "a")],
            "not sent before",
        ),
        (
            "whiteout",
            vec![stat("a", mode::DEVICE | mode::CHAR_DEVICE, "")],
            "0:0",
        ),
        (
            "unasked data",
            vec![file("a"), data(7, b"x")],
            "not asked for",
        ),
        (
            "data of a dir",
            vec![dir("a"), data(0, b"x")],
            "not asked for",
        ),
        (
            "data after the end",
            vec![file("a"), data(0, b"x"), data(0, b""), data(0, b"y")],
            "not asked for",
        ),
        ("request", vec![Packet::Request(0)], "only receivers"),
        (
            "early end",
            vec![file("a"), Packet::Finish],
            "before it was complete",
        ),
        (
            "no end",
            vec![file("a"), data(0, b"ab")],
            "before it was complete",
        ),
        ("no data", vec![file("a"), END], "before it was complete"),
        ("no finish", vec![dir("a"), END], "before it was complete"),
        (
            "its own error",
            vec![file("a"), Packet::Error("disk on fire".into())],
            "disk on fire",
        ),
    ];
    for (name, packets, want) in table {
        let top = tempdir().unwrap();
        let dest = top.path().join("dest");
        fs::create_dir(&dest).unwrap();
        fs::write(top.path().join("witness"), "w").unwrap();
        let options = ReceiveOptions {
            limits,
            ..ReceiveOptions::default()
        };
        let error = feed(packets, &dest, options).await.unwrap_err();
        assert!(error.to_string().contains(want), "{name}: {error}");
        let mut outside: Vec<_> = fs::read_dir(top.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        outside.sort();
        assert_eq!(outside, ["dest", "witness"], "{name}");
        for (path, text) in listing(&dest) {
            assert!(!path.contains(".kiln-"), "{name} left {path}: {text}");
        }
    }
}

#[tokio::test]
async fn a_symlink_in_the_destination_leads_nowhere() {
    let (dest, outside) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(outside.path().join("b"), "outside").unwrap();
    symlink(outside.path(), dest.path().join("a")).unwrap();
    symlink(outside.path().join("b"), dest.path().join("c")).unwrap();
    let packets = vec![
        dir("a"),
        file("a/b"),
        file("c"),
        END,
        data(1, b"new"),
        data(1, b""),
        data(2, b"new"),
        data(2, b""),
        Packet::Finish,
    ];
    for merge in [false, true] {
        let options = ReceiveOptions {
            merge,
            ..ReceiveOptions::default()
        };
        feed(packets.clone(), dest.path(), options).await.unwrap();
        assert_eq!(fs::read(outside.path().join("b")).unwrap(), b"outside");
        assert_eq!(fs::read(dest.path().join("a/b")).unwrap(), b"new");
        assert!(dest.path().join("c").symlink_metadata().unwrap().is_file());
    }
}

#[tokio::test]
async fn a_sender_that_dies_leaves_old_files_whole() {
    let dest = tempdir().unwrap();
    fs::write(dest.path().join("a"), "old").unwrap();
    let packets = vec![file("a"), file("b"), data(0, b"ne"), data(1, b"n")];
    let error = feed(packets, dest.path(), ReceiveOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Truncated), "{error}");
    let names: Vec<String> = listing(dest.path()).into_keys().collect();
    assert_eq!(names, ["a"]);
    assert_eq!(fs::read(dest.path().join("a")).unwrap(), b"old");
}

#[tokio::test]
async fn the_cause_of_a_broken_stream_is_kept() {
    let dest = tempdir().unwrap();
    let status = tonic::Status::not_found("no access allowed to dir \"x\"");
    let mut incoming = futures::stream::iter([Ok(file("a")), Err(status)]).boxed();
    let (outgoing, _replies) = channel();
    let error = kiln_filesync::receive(
        dest.path(),
        &mut incoming,
        outgoing,
        ReceiveOptions::default(),
    )
    .await
    .unwrap_err();
    let Error::Transport(status) = error else {
        panic!("{error}");
    };
    assert_eq!(status.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_receivers_failure_reaches_the_sender_with_its_cause() {
    let source = tempdir().unwrap();
    fs::write(source.path().join("a"), "a").unwrap();
    let tree = Arc::new(DirTree::new(source.path()).unwrap());
    let dest = Path::new("/proc/self/nothing");
    let (sent, received) = transfer(tree, dest, ReceiveOptions::default()).await;
    assert!(received.is_err());
    let text = sent.unwrap_err().to_string();
    assert!(
        text.contains("open destination") && text.contains("No such file"),
        "{text}"
    );
}

#[tokio::test]
async fn requests_for_what_has_no_data_are_refused() {
    let source = tempdir().unwrap();
    fs::create_dir(source.path().join("a")).unwrap();
    for id in [0, 1] {
        let tree = Arc::new(DirTree::new(source.path()).unwrap());
        let (to_sender, mut incoming) = channel();
        let (outgoing, packets) = channel();
        to_sender.send(Packet::Request(id)).await.unwrap();
        let drain = packets.collect::<Vec<_>>();
        let send = kiln_filesync::send(tree, &mut incoming, outgoing, None);
        let (result, packets) = tokio::join!(send, drain);
        assert!(matches!(result, Err(Error::UnknownFile(got)) if got == id));
        // What the walk had on its way may still follow.
        let refused = |packet: &Result<Packet, _>| matches!(packet, Ok(Packet::Error(_)));
        assert!(packets.iter().any(refused));
    }
}

#[tokio::test]
async fn a_file_that_vanishes_is_sent_empty() {
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    fs::write(source.path().join("a"), "a").unwrap();
    let gone = source.path().join("a");
    let tree = DirTree::new(source.path())
        .unwrap()
        .mapped(Arc::new(move |_, _| fs::remove_file(&gone).is_ok()));
    let (sent, received) = transfer(Arc::new(tree), dest.path(), ReceiveOptions::default()).await;
    sent.unwrap();
    assert_eq!(received.unwrap().files, 1);
    assert_eq!(fs::read(dest.path().join("a")).unwrap(), b"");
}
