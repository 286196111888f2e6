//! Streams that the daemon gets once, such as a context on standard input.

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tonic::{Request, Status, Streaming};

use super::Attached;
use super::serve::{Answers, answers};

const PATH: &str = "urlpath";
const PIECE: usize = 1 << 20;

pub(super) fn pull(attached: &Attached, request: &Request<Streaming<Bytes>>) -> Answers<Bytes> {
    let id = request
        .metadata()
        .get(PATH)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .trim_matches('/')
        .to_owned();
    let taken = attached.uploads.lock().remove(&id);
    let Some(mut stream) = taken else {
        return Err(Status::not_found(format!("no upload {id:?} is left")));
    };
    let (outgoing, receiver) = mpsc::channel(4);
    let work = tokio::spawn(async move {
        let failed = |error| Status::unknown(format!("read the upload: {error}"));
        loop {
            let mut piece = BytesMut::with_capacity(PIECE);
            while piece.len() < PIECE && stream.read_buf(&mut piece).await.map_err(failed)? > 0 {
                // Full pieces, and what is there at the end.
                if piece.len() >= PIECE / 2 {
                    break;
                }
            }
            // A daemon that hung up needs no more.
            if piece.is_empty() || outgoing.send(piece.freeze()).await.is_err() {
                return Ok(());
            }
        }
    });
    Ok(answers(receiver, work))
}
