//! A sender and a receiver connected by channels, and ways to look at the outcome.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use kiln_filesync::{
    Change, ChangeHook, DirTree, Error, FileHasher, HookError, Packet, ReceiveOptions, Stat,
    Summary, Tree,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

pub(crate) type Incoming = BoxStream<'static, Result<Packet, tonic::Status>>;

pub(crate) fn channel() -> (mpsc::Sender<Packet>, Incoming) {
    let (sender, receiver) = mpsc::channel(64);
    (sender, ReceiverStream::new(receiver).map(Ok).boxed())
}

/// Sends `tree` into `dest` and returns what each end says.
pub(crate) async fn transfer(
    tree: Arc<dyn Tree>,
    dest: &Path,
    options: ReceiveOptions,
) -> (Result<(), Error>, Result<Summary, Error>) {
    let (to_receiver, mut from_sender) = channel();
    let (to_sender, mut from_receiver) = channel();
    tokio::join!(
        kiln_filesync::send(tree, &mut from_receiver, to_receiver, None),
        kiln_filesync::receive(dest, &mut from_sender, to_sender, options),
    )
}

/// Sends one directory into another.
pub(crate) async fn sync(source: &Path, dest: &Path, options: ReceiveOptions) -> Summary {
    let tree = Arc::new(DirTree::new(source).unwrap());
    let (sent, received) = transfer(tree, dest, options).await;
    sent.unwrap();
    received.unwrap()
}

/// Feeds packets to a receiver, then hangs up. Requests are ignored; a FIN after the last stat waits
/// for the receiver's.
pub(crate) async fn feed(
    mut packets: Vec<Packet>,
    dest: &Path,
    options: ReceiveOptions,
) -> Result<Summary, Error> {
    let (finished, finish) = tokio::sync::oneshot::channel();
    let polite = packets.contains(&Packet::Stat(None)) && packets.last() == Some(&Packet::Finish);
    let last = async move { finish.await.ok().map(|()| (Ok(Packet::Finish), ())) };
    if polite {
        packets.pop();
    }
    let last = futures::stream::once(last).filter_map(|last| async { last.map(|(item, ())| item) });
    let mut incoming = futures::stream::iter(packets.into_iter().map(Ok))
        .chain(last.take(usize::from(polite)))
        .boxed();
    let (outgoing, mut replies) = channel();
    let drain = async move {
        let mut finished = Some(finished);
        while let Some(Ok(packet)) = replies.next().await {
            if packet == Packet::Finish
                && let Some(finished) = finished.take()
            {
                let _ = finished.send(());
            }
        }
    };
    let receive = kiln_filesync::receive(dest, &mut incoming, outgoing, options);
    let (result, ()) = tokio::join!(receive, drain);
    result
}

/// Every entry below `root`: kind and mode, size or target, content.
pub(crate) fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            let mut text = format!("{:o} {}", meta.mode(), meta.mtime());
            if meta.is_dir() {
                dirs.push(path.clone());
            } else if meta.is_symlink() {
                let target = std::fs::read_link(&path).unwrap();
                text = format!("{text} -> {}", target.display());
            } else if meta.is_file() {
                let data = std::fs::read(&path).unwrap();
                text = format!("{text} {} {data:?}", meta.nlink());
            }
            out.insert(name.to_owned(), text);
        }
    }
    out
}

/// Remembers all changes. The digest is the sum of the bytes.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<Change>>);

impl Recorder {
    /// The changes as short texts, in order.
    pub(crate) fn texts(&self) -> Vec<String> {
        let changes = self.0.lock().unwrap();
        changes
            .iter()
            .map(|change| match change {
                Change::Put { path, digest, .. } => match digest {
                    Some(digest) => format!("put {path} {}", digest[0]),
                    None => format!("put {path}"),
                },
                Change::Delete { path } => format!("delete {path}"),
            })
            .collect()
    }
}

struct Sum(u8);

impl FileHasher for Sum {
    fn update(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |sum, byte| sum.wrapping_add(*byte));
    }

    fn finish(self: Box<Self>) -> [u8; 32] {
        [self.0; 32]
    }
}

impl ChangeHook for Recorder {
    fn hasher(&self, _: &Stat) -> Box<dyn FileHasher> {
        Box::new(Sum(0))
    }

    fn change(&self, change: Change) -> Result<(), HookError> {
        self.0.lock().unwrap().push(change);
        Ok(())
    }
}

pub(crate) fn recorded() -> (Arc<Recorder>, ReceiveOptions) {
    let recorder = Arc::new(Recorder::default());
    let options = ReceiveOptions {
        hook: Some(Arc::clone(&recorder) as Arc<dyn ChangeHook>),
        ..ReceiveOptions::default()
    };
    (recorder, options)
}
