//! The log of a build that runs, on disk as it comes.
//!
//! ```text
//! ROOT/history/<ref>/record   the record as it was when the build began
//!                   /log      messages in the form of a log blob
//! ```
//! A build's end takes the log in as a blob; its directory goes once the record is durable. What a daemon
//! finds at its start is of builds that died with the one before: each becomes a record with an error.
//!
//! The log has what clients were shown and what was cut for them, up to a limit of the latter.
//!
//! Invariants: a message is in the file [`BATCH`] after it was reported; a spool that can't be written (the
//! disk is full) stops being one, and the build goes on.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use kiln_oci::Digest;
use kiln_progress::{Audience, Output, Reader, Update, wire};
use kiln_proto::moby::buildkit::v1 as control;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use crate::{encode_log, read_log};

/// Changes are gathered this long before they are written.
const BATCH: Duration = Duration::from_millis(200);

/// After a batch of this size the next is written at once.
const LARGE: usize = 256 * 1024;

/// A build's record keeps so many bytes that its clients weren't shown.
const MOST_UNSEEN: usize = 64 * 1024 * 1024;

/// A directory of its own for each build.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: PathBuf,
    log: File,
    unseen: usize,
    most_unseen: usize,
}

/// A build that died with its daemon.
#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) directory: PathBuf,
    pub(crate) record: control::BuildHistoryRecord,
    pub(crate) log: Vec<control::StatusResponse>,
}

impl Spool {
    fn begin(root: &Path, record: &control::BuildHistoryRecord) -> io::Result<Self> {
        let directory = directory(root, &record.r#ref);
        match fs::create_dir(&directory) {
            // A build of this name that a daemon before left and could not take in.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        fs::write(directory.join("record"), record.encode_to_vec())?;
        let log = File::create(directory.join("log"))?;
        Ok(Self {
            directory,
            log,
            unseen: 0,
            most_unseen: MOST_UNSEEN,
        })
    }

    /// Cuts what clients weren't shown at the limit, with words in its place. Returns whether it is reached.
    fn limit(&mut self, update: &mut Update) -> bool {
        let before = self.unseen;
        update.output.retain_mut(|piece| {
            if piece.audience != Audience::Record {
                return true;
            }
            if self.unseen > self.most_unseen {
                return false;
            }
            self.unseen += piece.bytes.len();
            if self.unseen > self.most_unseen {
                let room = piece.bytes.len() - (self.unseen - self.most_unseen);
                piece.bytes = cut(piece, room, self.most_unseen);
            }
            true
        });
        before <= self.most_unseen && self.unseen > self.most_unseen
    }

    fn append(&mut self, messages: &[control::StatusResponse]) -> io::Result<usize> {
        let bytes = encode_log(messages);
        self.log.write_all(&bytes)?;
        Ok(bytes.len())
    }
}

fn cut(piece: &Output, room: usize, most: usize) -> Bytes {
    let mut bytes = piece.bytes[..room].to_vec();
    bytes.extend_from_slice(
        format!("\n[output clipped, the record keeps {most} bytes that clients weren't shown]\n")
            .as_bytes(),
    );
    bytes.into()
}

/// Where a build spools. Names come from clients: what isn't plain is hashed.
pub(crate) fn directory(root: &Path, reference: &str) -> PathBuf {
    let is_plain = (1..=64).contains(&reference.len())
        && reference
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if is_plain {
        root.join(reference)
    } else {
        root.join(format!("sha256.{}", Digest::of(reference).hex()))
    }
}

/// Writes a build's progress as it comes, until `ended` and everything was taken. Returns the whole log,
/// `None` where it couldn't be written.
pub(crate) async fn record(
    root: PathBuf,
    record: control::BuildHistoryRecord,
    mut reader: Reader,
    ended: CancellationToken,
) -> Option<Bytes> {
    let warn = |error: io::Error| {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(error, "the log of a running build isn't kept");
    };
    let begun = tokio::task::spawn_blocking(move || Spool::begin(&root, &record)).await;
    let mut spool = begun.ok()?.map_err(warn).ok()?;
    while let Some(mut update) = reader.next().await {
        if spool.limit(&mut update) {
            reader.decline_hidden();
        }
        let messages = wire::responses(update);
        let written = tokio::task::spawn_blocking(move || {
            spool.append(&messages).map(|written| (spool, written))
        });
        let written = written.await.ok()?.map_err(warn).ok()?;
        spool = written.0;
        if written.1 < LARGE {
            tokio::select! {
                () = ended.cancelled() => {}
                () = tokio::time::sleep(BATCH) => {}
            }
        }
    }
    let log = spool.directory.join("log");
    let read = tokio::task::spawn_blocking(move || fs::read(log)).await;
    read.ok()?.map_err(warn).ok().map(Bytes::from)
}

/// The builds that the daemon before left. What can't be read is removed.
pub(crate) fn find_dead(root: &Path) -> Vec<Dead> {
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    let mut dead = Vec::new();
    for directory in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let record = fs::read(directory.join("record")).ok();
        let record = record
            .and_then(|bytes| control::BuildHistoryRecord::decode(Bytes::from(bytes)).ok())
            .filter(|record| !record.r#ref.is_empty());
        let Some(record) = record else {
            remove(&directory);
            continue;
        };
        let log = fs::read(directory.join("log")).unwrap_or_default();
        dead.push(Dead {
            directory,
            record,
            log: read_log(log.into()),
        });
    }
    dead
}

pub(crate) fn remove(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, directory = %directory.display(), "a spool stays behind");
        }
        _ => {}
    }
}

/// What the daemon says of a build that died with the one before.
const DIED: &str = "the daemon stopped while the build was running";

/// The record of a dead build, and its log with every step ended.
pub(crate) fn obituary(dead: Dead) -> (control::BuildHistoryRecord, Vec<control::StatusResponse>) {
    let Dead {
        mut record,
        mut log,
        ..
    } = dead;
    let mut steps = std::collections::BTreeMap::new();
    let mut last = record.created_at;
    let mut warnings = 0;
    for message in &log {
        warnings += message.warnings.len();
        for vertex in &message.vertexes {
            steps.insert(vertex.digest.clone(), vertex.clone());
        }
        let moments = message
            .vertexes
            .iter()
            .flat_map(|vertex| [vertex.started, vertex.completed])
            .chain(message.statuses.iter().map(|status| status.timestamp))
            .chain(message.logs.iter().map(|line| line.timestamp));
        for moment in moments.flatten() {
            if crate::record::moment(Some(&moment)) > crate::record::moment(last.as_ref()) {
                last = Some(moment);
            }
        }
    }
    let open: Vec<control::Vertex> = steps
        .values()
        .filter(|vertex| vertex.started.is_some() && vertex.completed.is_none())
        .map(|vertex| control::Vertex {
            completed: last,
            error: DIED.to_owned(),
            ..vertex.clone()
        })
        .collect();
    let count = |of: fn(&control::Vertex) -> bool| steps.values().filter(|one| of(one)).count();
    record.num_total_steps = steps.len() as i32;
    record.num_cached_steps = count(|one| one.cached) as i32;
    record.num_completed_steps = (count(|one| one.completed.is_some()) + open.len()) as i32;
    record.num_warnings = warnings as i32;
    record.completed_at = last;
    record.error = Some(kiln_proto::google::rpc::Status {
        code: UNAVAILABLE,
        message: DIED.to_owned(),
        details: Vec::new(),
    });
    if !open.is_empty() {
        log.push(control::StatusResponse {
            vertexes: open,
            ..control::StatusResponse::default()
        });
    }
    (record, log)
}

/// gRPC's code for a server that isn't there.
const UNAVAILABLE: i32 = 14;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use kiln_progress::Stream;

    use super::*;

    #[test]
    fn what_clients_did_not_see_is_kept_up_to_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::begin(
            directory.path(),
            &control::BuildHistoryRecord {
                r#ref: "build".to_owned(),
                ..Default::default()
            },
        )
        .unwrap();
        spool.most_unseen = 10;
        let piece = |audience, words: &'static str| Output {
            vertex: Digest::of("a"),
            stream: Stream::Stdout,
            audience,
            at: SystemTime::UNIX_EPOCH,
            bytes: Bytes::from_static(words.as_bytes()),
        };
        let mut keep = |pieces: Vec<Output>| {
            let mut update = Update {
                output: pieces,
                ..Update::default()
            };
            let reached = spool.limit(&mut update);
            let kept: Vec<u8> = update
                .output
                .iter()
                .flat_map(|one| one.bytes.to_vec())
                .collect();
            (reached, String::from_utf8(kept).unwrap())
        };
        let (hidden, shown) = (Audience::Record, Audience::Everybody);
        let all = |words: &str| (false, words.to_owned());
        assert_eq!(
            keep(vec![
                piece(shown, "shown-and-long "),
                piece(hidden, "12345678")
            ]),
            all("shown-and-long 12345678")
        );
        let (reached, kept) = keep(vec![
            piece(hidden, "90x"),
            piece(hidden, "y"),
            piece(shown, "z"),
        ]);
        assert!(reached);
        assert_eq!(
            kept,
            "90\n[output clipped, the record keeps 10 bytes that clients weren't shown]\nz"
        );
        assert_eq!(
            keep(vec![piece(hidden, "more"), piece(shown, "end")]),
            all("end")
        );
    }
}
