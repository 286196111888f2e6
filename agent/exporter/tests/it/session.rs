//! Calls into a real client over a real connection.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kiln_client::{Attachments, Credential, CredentialSource, Output, Secret};
use kiln_filesync::{
    Change, ChangeHook, DirTree, FileHasher, FilterOptions, HookError, ReceiveOptions, Stat,
};
use kiln_ids::SessionId;
use kiln_session::{Credentials, Error, FileRequest, Taken};
use tempfile::tempdir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::peer::Peer;

fn context(name: &str) -> FileRequest {
    FileRequest {
        name: name.into(),
        filter: FilterOptions::default(),
    }
}

struct Fixed;

#[async_trait]
impl CredentialSource for Fixed {
    async fn credentials(&self, host: &str) -> Result<Option<Credential>, kiln_client::Error> {
        Ok((host == "known.example").then(|| Credential {
            username: "user".into(),
            secret: "pass".into(),
        }))
    }
}

#[tokio::test]
async fn secrets_and_credentials_are_asked_for_and_may_be_missing() {
    let peer = Peer::start();
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("secret"), "from a file").unwrap();
    let attached = peer
        .attach(Attachments {
            shared_key: "key".into(),
            secrets: [
                ("file".into(), Secret::File(dir.path().join("secret"))),
                ("gone".into(), Secret::File(dir.path().join("gone"))),
                ("bytes".into(), Secret::Bytes("b".into())),
            ]
            .into(),
            credentials: Some(Arc::new(Fixed)),
            ..Attachments::default()
        })
        .await;
    let caller = peer.caller(&attached).await;
    assert_eq!(caller.shared_key(), "key");
    assert_eq!(caller.secret("file").await.unwrap(), "from a file");
    assert_eq!(caller.secret("bytes").await.unwrap(), "b");
    for missing in ["gone", "unknown"] {
        let error = caller.secret(missing).await.unwrap_err();
        assert!(matches!(error, Error::NoSecret { .. }), "{error}");
    }
    let known = caller.credentials("known.example").await.unwrap();
    let want = Credentials {
        username: "user".into(),
        secret: "pass".into(),
    };
    assert_eq!(known, Some(want));
    assert_eq!(caller.credentials("other.example").await.unwrap(), None);
    assert!(!caller.fetches_tokens("known.example").await.unwrap());
    assert!(matches!(
        caller.ssh_check("default").await,
        Err(Error::Unsupported { .. })
    ));
    assert!(
        caller
            .find_exporters(&[].into(), vec![])
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn an_ssh_agent_is_reached_through_the_session() {
    let peer = Peer::start();
    let dir = tempdir().unwrap();
    let path = dir.path().join("agent");
    let agent = UnixListener::bind(&path).unwrap();
    let echo = tokio::spawn(async move {
        let (mut stream, _) = agent.accept().await.unwrap();
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await.unwrap();
        question.reverse();
        stream.write_all(&question).await.unwrap();
    });
    let attached = peer
        .attach(Attachments {
            ssh: [("default".into(), path)].into(),
            ..Attachments::default()
        })
        .await;
    let caller = peer.caller(&attached).await;
    caller.ssh_check("default").await.unwrap();
    assert!(caller.ssh_check("other").await.is_err());
    let mut agent = caller.ssh_dial("default").unwrap();
    agent.write_all(b"abc").await.unwrap();
    agent.shutdown().await.unwrap();
    let mut answer = Vec::new();
    agent.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"cba");
    echo.await.unwrap();
}

#[tokio::test]
async fn contexts_come_in_and_only_changes_come_again() {
    let peer = Peer::start();
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    for number in 0..2000 {
        let dir = source.path().join(format!("d{}", number % 10));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{number}")), format!("{number}")).unwrap();
    }
    fs::write(source.path().join("big"), vec![1; 5 << 20]).unwrap();
    let attached = peer
        .attach(Attachments {
            dirs: [("context".into(), source.path().to_owned())].into(),
            ..Attachments::default()
        })
        .await;
    let caller = peer.caller(&attached).await;
    let request = context("context");
    let sync = || caller.sync_files(&request, dest.path(), ReceiveOptions::default());
    let first = sync().await.unwrap();
    assert_eq!((first.entries, first.files), (2011, 2001));
    fs::write(source.path().join("d3/f13"), "touched").unwrap();
    let second = sync().await.unwrap();
    assert_eq!((second.files, second.bytes), (1, 7));
    assert_eq!(fs::read(dest.path().join("d3/f13")).unwrap(), b"touched");
    assert_eq!(
        fs::metadata(dest.path().join("big")).unwrap().len(),
        5 << 20
    );

    let error = caller
        .sync_files(&context("other"), dest.path(), ReceiveOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NoDirectory { .. }), "{error}");
}

/// Tells when data arrives.
struct Arrival(mpsc::UnboundedSender<()>);
struct ArrivalHasher(mpsc::UnboundedSender<()>);

impl FileHasher for ArrivalHasher {
    fn update(&mut self, _: &[u8]) {
        let _ = self.0.send(());
    }

    fn finish(self: Box<Self>) -> [u8; 32] {
        [0; 32]
    }
}

impl ChangeHook for Arrival {
    fn hasher(&self, _: &Stat) -> Box<dyn FileHasher> {
        Box::new(ArrivalHasher(self.0.clone()))
    }

    fn change(&self, _: Change) -> Result<(), HookError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_client_that_dies_in_the_middle_leaves_no_half_file() {
    let peer = Peer::start();
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    let big = fs::File::create(source.path().join("big")).unwrap();
    big.set_len(1 << 30).unwrap();
    let attached = peer
        .attach(Attachments {
            dirs: [("context".into(), source.path().to_owned())].into(),
            ..Attachments::default()
        })
        .await;
    let caller = peer.caller(&attached).await;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let ended = Arc::new(());
    let options = ReceiveOptions {
        hook: Some(Arc::new(Arrival(arrived))),
        keep: Some(ended.clone()),
        ..ReceiveOptions::default()
    };
    let (path, from) = (dest.path().to_owned(), caller.clone());
    let sync =
        tokio::spawn(async move { from.sync_files(&context("context"), &path, options).await });
    arrivals.recv().await.unwrap();
    attached.die();
    let error = tokio::time::timeout(Duration::from_secs(10), sync)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(error, Error::Closed { .. } | Error::Files(_)),
        "{error}"
    );
    caller.closed().await;
    assert!(peer.sessions.attached(&attached.id).is_none());
    // The writer drops what it keeps after it has cleaned up.
    let cleaned = tokio::task::spawn_blocking(move || {
        while Arc::strong_count(&ended) > 1 {
            std::thread::yield_now();
        }
    });
    tokio::time::timeout(Duration::from_secs(10), cleaned)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(fs::read_dir(dest.path()).unwrap().count(), 0);
    let error = caller.secret("x").await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_session_is_waited_for_and_its_prefix_dropped() {
    let peer = Peer::start();
    let attached = peer.attach(Attachments::default()).await;
    let prefixed = SessionId::new(format!("context:{}", attached.id));
    assert_eq!(
        peer.sessions.get(&prefixed).await.unwrap().id(),
        &attached.id
    );
    tokio::time::pause();
    let error = peer
        .sessions
        .get(&SessionId::new("nobody"))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "no active session for nobody");
    let nobody = [SessionId::new("nobody"), attached.id.clone()];
    let found = peer
        .sessions
        .any(&nobody, |caller| async move {
            Ok::<_, Error>(caller.id().clone())
        })
        .await;
    assert_eq!(found.unwrap(), attached.id);
}

#[tokio::test]
async fn files_and_directories_go_out() {
    let peer = Peer::start();
    let (source, dest) = (tempdir().unwrap(), tempdir().unwrap());
    fs::create_dir(source.path().join("sub")).unwrap();
    fs::write(source.path().join("sub/a"), "a").unwrap();
    let out = dest.path().join("out");
    let tar = dest.path().join("image.tar");
    let (stream, mut read) = tokio::io::duplex(64);
    fs::create_dir(&out).unwrap();
    fs::write(out.join("old"), "kept").unwrap();
    let attached = peer
        .attach(Attachments {
            outputs: vec![
                Output::Directory {
                    path: out.clone(),
                    delete: false,
                },
                Output::File(tar.clone()),
                Output::Stream(Box::pin(stream)),
                Output::None,
                Output::File(dest.path().join("torn")),
            ],
            ..Attachments::default()
        })
        .await;
    let caller = peer.caller(&attached).await;
    let tree = || Arc::new(DirTree::new(source.path()).unwrap());
    caller.copy_dir(0, false, tree(), None).await.unwrap();
    assert_eq!(fs::read(out.join("sub/a")).unwrap(), b"a");
    assert_eq!(fs::read(out.join("old")).unwrap(), b"kept");

    let meta = [("containerimage.digest".to_owned(), "sha256:x".to_owned())].into();
    let mut writer = caller.send_file(1, &meta).unwrap();
    writer.send(vec![7; 3 << 20].into()).await.unwrap();
    writer.write_all(b"end").await.unwrap();
    assert!(!tar.exists(), "a file takes its place when it is whole");
    assert_eq!(writer.finish().await.unwrap(), Taken::Whole);
    assert_eq!(fs::metadata(&tar).unwrap().len(), (3 << 20) + 3);

    let mut writer = caller.send_file(2, &[].into()).unwrap();
    let reader = tokio::spawn(async move {
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        got
    });
    writer.write_all(b"to a stream").await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(reader.await.unwrap(), b"to a stream");

    for missing in [3, 9] {
        let writer = caller.send_file(missing, &[].into()).unwrap();
        assert!(writer.finish().await.is_err());
    }
    // A writer that is dropped halfway leaves nothing.
    let mut writer = caller.send_file(4, &[].into()).unwrap();
    writer.write_all(b"half").await.unwrap();
    drop(writer);
    caller.secret("barrier").await.unwrap_err();
    assert!(!dest.path().join("torn").exists());
}
