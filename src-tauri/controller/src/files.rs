//! Files of this computer that the engine's streams go to and come from.
//!
//! Invariant: a file is in its place only when it is whole.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Failure;

/// Pieces of a file that is read.
const CHUNK: usize = 256 << 10;

fn whole(path: &str) -> Result<&Path, Failure> {
    let path = Path::new(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Failure::user(
            "Give the file’s whole path.",
            "It begins with a slash.",
        )),
    }
}

/// Writes a stream to a file; its size.
pub(crate) async fn write(
    path: &str,
    chunks: impl Stream<Item = Result<Bytes, kiln_client::Error>>,
) -> Result<i64, Failure> {
    let target = whole(path)?;
    let failed =
        |error: std::io::Error| Failure::user(format!("{path} can’t be written: {error}."), "");
    let mut part = target.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let mut file = tokio::fs::File::create(part).await.map_err(failed)?;
    let mut size = 0;
    let mut chunks = std::pin::pin!(chunks);
    let written: Result<(), Failure> = async {
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            file.write_all(&chunk).await.map_err(failed)?;
            size += chunk.len() as i64;
        }
        file.flush().await.map_err(failed)?;
        tokio::fs::rename(part, target).await.map_err(failed)
    }
    .await;
    if let Err(failure) = written {
        // What is there of it is of no use.
        let _ = tokio::fs::remove_file(part).await;
        return Err(failure);
    }
    Ok(size)
}

/// A file's pieces. One that ends early ends the stream; its reader sees that the archive isn't whole.
pub(crate) async fn read(
    path: &str,
) -> Result<impl Stream<Item = Bytes> + Send + 'static, Failure> {
    let opened = tokio::fs::File::open(whole(path)?).await;
    let file =
        opened.map_err(|error| Failure::user(format!("{path} can’t be read: {error}."), ""))?;
    Ok(futures::stream::unfold(file, |mut file| async move {
        let mut piece = BytesMut::with_capacity(CHUNK);
        match file.read_buf(&mut piece).await {
            Ok(0) => None,
            Ok(_) => Some((piece.freeze(), file)),
            Err(error) => {
                tracing::warn!(%error, "a file is read to here only");
                None
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_becomes_a_file_only_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.tar").display().to_string();
        let piece = |text: &'static str| Ok(Bytes::from_static(text.as_bytes()));
        let broken = || Err(kiln_client::Error::SessionEnded);
        let stream = futures::stream::iter([piece("ab"), broken()]);
        write(&path, stream).await.unwrap_err();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let stream = futures::stream::iter([piece("ab"), piece("c")]);
        assert_eq!(write(&path, stream).await.unwrap(), 3);
        let pieces: Vec<Bytes> = read(&path).await.unwrap().collect().await;
        assert_eq!(pieces.concat(), b"abc");
        let none = futures::stream::empty();
        assert_eq!(write("x.tar", none).await.unwrap_err().kind, "user");
        assert!(read("/no/such.tar").await.is_err());
    }
}
