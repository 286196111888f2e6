//! Cache mounts between the wire and the crate that has them.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use kiln_errdefs::{Kind, WithDetail};
use kiln_ids::RefId;
use kiln_mounts::{CacheMountInfo, CacheTarget, Directory, Error};
use kiln_proto::agent as api;
use kiln_proto::agent::import_mount_request::Part;
use kiln_proto::agent::import_mount_start::Mount;
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::convert::number;
use crate::status;

/// Pieces of an import that wait for the disk.
const WAITING: usize = 4;

/// The status of what can't be done with a cache mount.
pub(super) fn refused(error: Error) -> Status {
    let kind = match &error {
        Error::NotCacheMount(_) => Kind::NotFound,
        Error::CacheInUse(_) => Kind::Conflict,
        Error::File { source, .. } => match source.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::User,
        },
        Error::Archive(cause) if !cause.is_disk_full() => Kind::User,
        _ => return status(error),
    };
    status(WithDetail::kind(Arc::new(error), kind))
}

pub(super) fn mount(info: CacheMountInfo) -> api::CacheMount {
    api::CacheMount {
        record_id: info.record.to_string(),
        mount_id: info.id,
        sharing: info.sharing,
        bytes: number(info.bytes),
        created: Some(Timestamp::from(info.created)),
        last_used: info.last_used.map(Timestamp::from),
        last_build_ref: info.last_build,
        in_use: info.in_use,
    }
}

pub(super) fn directory(directory: Directory) -> api::BrowseMountResponse {
    let entries = directory.entries.into_iter().map(|entry| api::FileEntry {
        name: entry.name,
        kind: entry.kind.as_str().to_owned(),
        bytes: number(entry.bytes),
        mode: entry.mode,
        modified: Some(Timestamp::from(entry.modified)),
        link_target: entry.link_target,
    });
    api::BrowseMountResponse {
        entries: entries.collect(),
        truncated: directory.is_cut,
    }
}

/// Pieces as messages.
pub(super) fn chunks(
    pieces: mpsc::Receiver<std::io::Result<Bytes>>,
) -> impl Stream<Item = Result<api::Chunk, Status>> + Send {
    ReceiverStream::new(pieces).map(|piece| match piece {
        Ok(data) => Ok(api::Chunk { data }),
        Err(error) => Err(status(error)),
    })
}

/// What an import says first: what it goes to, and whether files that are there stay.
pub(super) async fn start(
    messages: &mut Streaming<api::ImportMountRequest>,
) -> Result<(CacheTarget, bool), Status> {
    let first = messages.message().await?.and_then(|message| message.part);
    let Some(Part::Start(start)) = first else {
        return Err(Status::invalid_argument(
            "an import begins with its start message",
        ));
    };
    let target = match start.mount {
        Some(Mount::RecordId(id)) if !id.is_empty() => CacheTarget::Record(RefId::new(id)),
        Some(Mount::MountId(id)) if !id.is_empty() => CacheTarget::Id(id),
        _ => {
            return Err(Status::invalid_argument(
                "an import names a record or a mount",
            ));
        }
    };
    Ok((target, start.merge))
}

/// Where an import's bytes come from, and what feeds them: both must be polled.
pub(super) fn incoming(
    mut messages: Streaming<api::ImportMountRequest>,
) -> (
    mpsc::Receiver<std::io::Result<Bytes>>,
    impl Future<Output = ()> + Send,
) {
    let (sender, pieces) = mpsc::channel(WAITING);
    let feed = async move {
        loop {
            let piece = match messages.message().await {
                Ok(None) => return,
                Ok(Some(message)) => match message.part {
                    Some(Part::Chunk(chunk)) => Ok(chunk.data),
                    _ => Err(std::io::Error::other("only chunks follow the start")),
                },
                Err(error) => Err(std::io::Error::other(error)),
            };
            // Who takes no more has failed, and says so itself.
            let is_last = piece.is_err();
            if sender.send(piece).await.is_err() || is_last {
                return;
            }
        }
    };
    (pieces, feed)
}
