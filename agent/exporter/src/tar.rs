//! The `tar` output: the files as one archive for the client.

use std::io::{self, Write};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use kiln_filesync::{Stat, Step, SubdirTree, Tree, mode};
use kiln_session::{FileWriter, SessionManager, Taken};
use kiln_snapshot::tar::{Header, Kind, PAX_XATTR, TarTime, TarWriter};
use tokio::sync::mpsc;

use crate::attrs::Attributes;
use crate::local::trees;
use crate::tree::{TreeOptions, platform_dir};
use crate::{Error, ExportInput, ExportOutput, Exporter, progress};

/// One message's worth of an archive.
const CHUNK: usize = 512 << 10;

/// Sends an archive of the files.
#[derive(Debug)]
pub(crate) struct TarExporter {
    sessions: SessionManager,
    output: usize,
    options: TreeOptions,
}

impl TarExporter {
    pub(crate) fn new(
        sessions: SessionManager,
        output: usize,
        mut attributes: Attributes,
    ) -> Result<Self, Error> {
        Ok(Self {
            sessions,
            output,
            options: TreeOptions::take(&mut attributes)?,
        })
    }
}

#[async_trait]
impl Exporter for TarExporter {
    fn name(&self) -> String {
        "exporting to client tarball".to_owned()
    }

    async fn export(&self, input: ExportInput) -> Result<ExportOutput, Error> {
        let outputs = trees(&input, &self.options).await?;
        let mut kept = Vec::new();
        let mut dirs: Vec<(Stat, Arc<dyn Tree>)> = Vec::new();
        for (id, output) in outputs {
            kept.extend(output.keep);
            dirs.push((platform_dir(&id, output.epoch), output.tree));
        }
        let tree: Arc<dyn Tree> = if input.is_multi() {
            Arc::new(SubdirTree::new(dirs)?)
        } else {
            match dirs.pop() {
                Some((_, tree)) => tree,
                None => return Err(Error::Result("a result without platforms".into())),
            }
        };
        let caller = self.sessions.get(&input.session).await?;
        let writer = caller.send_file(self.output, &Attributes::new())?;
        let _step = progress::Step::begin(&input.progress, "sending tarball");
        stream(writer, move |sink| write_tree(&*tree, sink)).await?;
        drop(kept);
        Ok(ExportOutput::default())
    }
}

/// Runs `produce` on a thread of its own and sends what it writes. A client that wants no more ends
/// it early.
pub(crate) async fn stream<F>(mut writer: FileWriter, produce: F) -> Result<Taken, Error>
where
    F: FnOnce(&mut Sink) -> Result<(), Error> + Send + 'static,
{
    let (sender, mut pieces) = mpsc::channel(8);
    let thread = tokio::task::spawn_blocking(move || {
        let mut sink = Sink {
            buffer: BytesMut::with_capacity(CHUNK),
            sender,
        };
        produce(&mut sink)?;
        sink.flush().map_err(|source| Error::Io {
            action: "send",
            what: "the archive".into(),
            source,
        })
    });
    let mut refused = false;
    while let Some(piece) = pieces.recv().await {
        if writer.send(piece).await.is_err() {
            refused = true;
            break;
        }
    }
    drop(pieces);
    let produced = thread.await.map_err(|error| Error::Io {
        action: "write",
        what: "the archive".into(),
        source: io::Error::other(error),
    })?;
    if refused {
        // The client's answer says why it took no more, the thread only that it did so.
        return Ok(writer.finish().await?);
    }
    produced?;
    Ok(writer.finish().await?)
}

/// Collects writes into messages.
pub(crate) struct Sink {
    buffer: BytesMut,
    sender: mpsc::Sender<Bytes>,
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let len = data.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&data[..len]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
            self.buffer.reserve(CHUNK);
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.sender
            .blocking_send(self.buffer.split().freeze())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Writes every entry of a tree in walk order.
fn write_tree(tree: &dyn Tree, out: &mut Sink) -> Result<(), Error> {
    let failed = |path: &str, source| Error::Io {
        action: "write to the archive",
        what: path.to_owned(),
        source,
    };
    let mut writer = TarWriter::new(out);
    let mut outcome = Ok(());
    tree.walk(&mut |stat| {
        let header = header(&stat);
        let result = if header.kind == Kind::Regular && header.size > 0 {
            tree.open(&stat.path)
                .and_then(|mut file| writer.entry(&header, &mut file))
        } else {
            writer.header(&header)
        };
        if let Err(source) = result {
            outcome = Err(failed(&stat.path, source));
            // Ends the walk: nothing can be written any more.
            return Err(kiln_filesync::Error::Truncated);
        }
        Ok(Step::Continue)
    })
    .or_else(|error| match &outcome {
        Ok(()) => Err(Error::Files(error)),
        Err(_) => Ok(()),
    })?;
    outcome?;
    writer
        .finish()
        .map(drop)
        .map_err(|source| failed("", source))
}

fn header(stat: &Stat) -> Header {
    let kind = if mode::is_dir(stat.mode) {
        Kind::Directory
    } else if mode::is_symlink(stat.mode) {
        Kind::Symlink
    } else if !stat.linkname.is_empty() {
        Kind::HardLink
    } else if stat.mode & mode::CHAR_DEVICE != 0 {
        Kind::CharDevice
    } else if stat.mode & mode::DEVICE != 0 {
        Kind::BlockDevice
    } else if stat.mode & mode::NAMED_PIPE != 0 {
        Kind::Fifo
    } else {
        Kind::Regular
    };
    let mut name = stat.path.clone().into_bytes();
    if kind == Kind::Directory {
        name.push(b'/');
    }
    let number = |value: i64| u32::try_from(value).unwrap_or_default();
    let mut header = Header::new(name, kind);
    header.linkname = stat.linkname.clone().into_bytes();
    header.mode = mode::permissions(stat.mode);
    header.uid = stat.uid.into();
    header.gid = stat.gid.into();
    if kind == Kind::Regular {
        header.size = stat.size.unsigned_abs();
    }
    // Go keeps whole seconds here, rounded to the nearest one.
    let seconds = stat.mod_time.div_euclid(1_000_000_000);
    let rounded = i64::from(stat.mod_time.rem_euclid(1_000_000_000) >= 500_000_000);
    header.mtime = TarTime {
        seconds: seconds.saturating_add(rounded),
        nanoseconds: 0,
    };
    header.devmajor = number(stat.devmajor);
    header.devminor = number(stat.devminor);
    for (key, value) in &stat.xattrs {
        let key = format!("{PAX_XATTR}{key}").into_bytes();
        header.pax.insert(key, value.clone());
    }
    header
}
