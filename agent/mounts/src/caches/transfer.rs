//! Files and archives on their way out of and into cache mounts, on threads of their own.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf as _, Bytes, BytesMut};
use kiln_cache::{MutableRef, RootPath};
use kiln_content::codec::Decompressor;
use kiln_snapshot::apply::{ApplyError, ApplyOptions, Whiteouts, apply};
use kiln_snapshot::diff::{DiffOptions, write_trees};
use kiln_snapshot::tar::Limits;
use kiln_sys::mount::TempMount;
use tokio::sync::mpsc;

use super::{Pieces, blocking};
use crate::Error;

/// Bytes of one piece.
const PIECE: usize = 256 << 10;
/// Pieces that wait for the client.
const WAITING: usize = 4;

/// Sends a file to its end, or as far as the client wants it.
pub(super) fn send_file(root: RootPath, mut file: File) -> Pieces {
    let (sender, pieces) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let piece = match file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    piece.truncate(count);
                    Ok(piece.into())
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = piece.is_err();
            if sender.blocking_send(piece).is_err() || is_last {
                break;
            }
        }
        drop(root);
    });
    pieces
}

/// Sends all files as a tar.
pub(super) fn send_archive(root: RootPath) -> Pieces {
    let (sender, pieces) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let out = Outgoing {
            buffer: BytesMut::with_capacity(PIECE),
            sender: sender.clone(),
        };
        let tree = [root.path().to_owned()];
        let written = write_trees(&[], &tree, out, DiffOptions::default());
        let failure = match written {
            Ok((mut out, _)) => out.flush().err(),
            Err(error) => Some(io::Error::other(error)),
        };
        if let Some(error) = failure {
            // A client that has left hears nothing, which is fine.
            let _ = sender.blocking_send(Err(error));
        }
        drop(root);
    });
    pieces
}

/// Collects what is written into pieces.
struct Outgoing {
    buffer: BytesMut,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Outgoing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&data[..count]);
        if self.buffer.len() == PIECE {
            self.flush()?;
            self.buffer.reserve(PIECE);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = self.buffer.split().freeze();
        self.sender
            .blocking_send(Ok(piece))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Reads pieces as they come. One that failed ends it with that error.
struct Incoming {
    pieces: Pieces,
    rest: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Extracts an archive into a record, in place of what is there or over it; gives the handle back.
pub(super) async fn unpack(
    record: MutableRef,
    scratch: PathBuf,
    pieces: Pieces,
    in_place_of_all: bool,
) -> Result<MutableRef, Error> {
    let incoming = Incoming {
        pieces,
        rest: Bytes::new(),
    };
    blocking(move || {
        if let Some(root) = record.root_path() {
            fill(&root, incoming, in_place_of_all)?;
            return Ok(record);
        }
        let mountable = record.mountable(false)?;
        let mount = TempMount::new(&mountable.specs, &scratch).map_err(|source| Error::Mount {
            target: scratch.clone(),
            source,
        })?;
        let filled = fill(mount.path(), incoming, in_place_of_all);
        mount.unmount().map_err(|source| Error::Mount {
            target: scratch.clone(),
            source,
        })?;
        filled.map(|()| record)
    })
    .await
}

fn fill(root: &Path, incoming: Incoming, in_place_of_all: bool) -> Result<(), Error> {
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io {
            doing,
            path,
            source,
        }
    };
    if in_place_of_all {
        for entry in std::fs::read_dir(root).map_err(failed("failed to list", root))? {
            let entry = entry.map_err(failed("failed to list", root))?;
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(&path),
                _ => std::fs::remove_file(&path),
            };
            removed.map_err(failed("failed to remove", &path))?;
        }
    }
    let buffered = io::BufReader::with_capacity(PIECE, incoming);
    let archive = Decompressor::new(buffered)
        .map_err(failed("failed to decompress", Path::new("archive")))?;
    let options = ApplyOptions {
        whiteouts: Whiteouts::Literal,
        limits: Limits::default(),
        skip_devices: true,
        owner: None,
    };
    apply(archive, root, &options)
        .map(drop)
        .map_err(|error: ApplyError| Error::Archive(error))
}
