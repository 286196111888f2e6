//! Files out (contexts) and in (outputs).

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use kiln_filesync::{Differ, DirTree, FileRequest, Packet, ReceiveOptions, receive, send};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tonic::{Request, Status, Streaming};

use super::serve::{Answers, answers};
use super::{Attached, Output, Sink};

const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
const MULTI_PLATFORM: &str = "buildkit-exporter-multi-platform";

/// Sends a directory, as root's: who owns the files here means nothing to a build.
pub(super) async fn sync(
    attached: Arc<Attached>,
    request: Request<Streaming<Packet>>,
) -> Answers<Packet> {
    let wanted = FileRequest::from_metadata(request.metadata());
    let Some(path) = attached.dirs.get(&wanted.name).cloned() else {
        let text = format!("no access allowed to dir {:?}", wanted.name);
        return Err(Status::not_found(text));
    };
    let tree = tokio::task::spawn_blocking(move || {
        DirTree::new(&path)?.filtered(&wanted.filter).map(|tree| {
            tree.mapped(Arc::new(|_, stat| {
                stat.uid = 0;
                stat.gid = 0;
                true
            }))
        })
    })
    .await
    .map_err(|error| Status::internal(error.to_string()))?
    .map_err(|error| Status::invalid_argument(chain(&error)))?;
    let mut incoming = request.into_inner();
    let (outgoing, receiver) = mpsc::channel(64);
    let work = tokio::spawn(async move {
        send(Arc::new(tree), &mut incoming, outgoing, None)
            .await
            .map_err(|error| Status::unknown(chain(&error)))
    });
    Ok(answers(receiver, work))
}

/// An error with all its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// An output whose files are on their way.
pub(super) enum Taken {
    Directory { path: PathBuf, delete: bool },
    File(Target),
}

/// Where one file goes.
pub(super) enum Target {
    File(PathBuf),
    Stream(Sink),
}

/// The output that the call is for. A directory may be filled by several calls, one per platform.
pub(super) fn take_output(attached: &Attached, headers: &HeaderMap) -> Result<Taken, Status> {
    let text = |key| headers.get(key).and_then(|value| value.to_str().ok());
    let number: usize = text(EXPORTER_ID)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let missing = || Status::not_found(format!("exporter {number} not found"));
    let mut outputs = attached.outputs.lock();
    let output = outputs.get_mut(number).ok_or_else(missing)?;
    match output {
        Output::None => Err(missing()),
        Output::Directory { path, delete } => {
            if *delete && text(MULTI_PLATFORM) != Some("1") {
                return Err(Status::failed_precondition(
                    "the daemon can't send all platforms in one transfer, \
                     which mode=delete needs",
                ));
            }
            Ok(Taken::Directory {
                path: path.clone(),
                delete: *delete,
            })
        }
        Output::File(path) => Ok(Taken::File(Target::File(path.clone()))),
        Output::Stream(_) => match std::mem::replace(output, Output::None) {
            Output::Stream(sink) => Ok(Taken::File(Target::Stream(sink))),
            _ => Err(missing()),
        },
    }
}

/// Receives a tree, owned by whoever runs this.
pub(super) async fn receive_dir(
    path: PathBuf,
    delete: bool,
    request: Request<Streaming<Packet>>,
) -> Answers<Packet> {
    tokio::fs::create_dir_all(&path)
        .await
        .map_err(|error| Status::unknown(format!("create {}: {error}", path.display())))?;
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let options = ReceiveOptions {
        merge: !delete,
        differ: Differ::None,
        map: Some(Arc::new(move |_, stat| {
            stat.uid = uid;
            stat.gid = gid;
            true
        })),
        ..ReceiveOptions::default()
    };
    let mut incoming = request.into_inner();
    let (outgoing, receiver) = mpsc::channel(64);
    let work = tokio::spawn(async move {
        receive(&path, &mut incoming, outgoing, options)
            .await
            .map(drop)
            .map_err(|error| Status::unknown(chain(&error)))
    });
    Ok(answers(receiver, work))
}

/// Receives one file. It takes its place when the daemon has ended it in order.
pub(super) async fn receive_file(
    target: Option<Target>,
    request: Request<Streaming<Bytes>>,
) -> Answers<Bytes> {
    let Some(target) = target else {
        return Err(Status::not_found("the output is taken"));
    };
    let mut incoming = request.into_inner();
    let failed = |error: std::io::Error| Status::unknown(format!("write the output: {error}"));
    match target {
        Target::Stream(mut sink) => {
            while let Some(piece) = incoming.message().await? {
                sink.write_all(&piece).await.map_err(failed)?;
            }
            sink.shutdown().await.map_err(failed)?;
        }
        Target::File(path) => {
            let temporary = temporary(&path);
            let guard = Unlink(Some(temporary.clone()));
            let mut file = tokio::fs::File::create(&temporary).await.map_err(failed)?;
            while let Some(piece) = incoming.message().await? {
                file.write_all(&piece).await.map_err(failed)?;
            }
            file.flush().await.map_err(failed)?;
            guard.rename(&path).map_err(failed)?;
        }
    }
    let (_, receiver) = mpsc::channel(1);
    Ok(answers(receiver, tokio::spawn(async { Ok(()) })))
}

/// A name beside `path` that nobody else uses.
fn temporary(path: &std::path::Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Removes a file that wasn't finished.
struct Unlink(Option<PathBuf>);

impl Unlink {
    fn rename(mut self, path: &std::path::Path) -> std::io::Result<()> {
        match self.0.take() {
            None => Ok(()),
            Some(temporary) => std::fs::rename(temporary, path),
        }
    }
}

impl Drop for Unlink {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "half an output is left behind");
        }
    }
}
