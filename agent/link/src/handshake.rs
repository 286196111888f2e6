//! Finding the beginning of a life in a channel that may hold anything.

use std::io;
use std::time::Duration;

use rand::RngCore as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

/// Changes with the meaning of the bytes that follow the handshake.
pub const PROTOCOL: u8 = 1;

const MAGIC: &[u8; 8] = b"\0KILNLNK";
/// Magic, kind, version, nonce, and the CRC-32 of those: half a word of an earlier life is no word.
const WORD: usize = 8 + 1 + 1 + 16 + 4;
const AGAIN: Duration = Duration::from_millis(200);

/// Why no link came about.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Nobody answered in time.
    #[error("no answer from the other side within {0:?}")]
    Timeout(Duration),
    /// The other side speaks another version.
    #[error(
        "the other side speaks version {theirs} of the link, this one {PROTOCOL}: update the guest image"
    )]
    Version {
        /// What it speaks.
        theirs: u8,
    },
    /// The channel failed.
    #[error("link")]
    Io(#[from] io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hello = 1,
    Ready = 2,
    Go = 3,
}

type Nonce = [u8; 16];

fn word(kind: Kind, nonce: &Nonce) -> [u8; WORD] {
    let mut word = [0; WORD];
    word[..8].copy_from_slice(MAGIC);
    word[8] = kind as u8;
    word[9] = PROTOCOL;
    word[10..26].copy_from_slice(nonce);
    let sum = check(&word);
    word[26..].copy_from_slice(&sum);
    word
}

fn check(word: &[u8; WORD]) -> [u8; 4] {
    crc32fast::hash(&word[..26]).to_le_bytes()
}

/// Reads byte by byte, so that nothing behind the word is taken, until a word of that kind comes that
/// `wanted` takes.
async fn scan(
    io: &mut (impl AsyncRead + Unpin),
    kind: Kind,
    wanted: impl Fn(&Nonce) -> bool,
) -> Result<Nonce, HandshakeError> {
    let mut window = [0; WORD];
    loop {
        let byte = io.read_u8().await?;
        window.copy_within(1.., 0);
        window[WORD - 1] = byte;
        if window[..8] != *MAGIC || window[8] != kind as u8 || window[26..] != check(&window) {
            continue;
        }
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&window[10..26]);
        if !wanted(&nonce) {
            continue;
        }
        if window[9] != PROTOCOL {
            return Err(HandshakeError::Version { theirs: window[9] });
        }
        return Ok(nonce);
    }
}

/// The host's half. Says HELLO until the guest answers.
pub(crate) async fn host(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    patience: Duration,
) -> Result<(), HandshakeError> {
    let mut nonce = [0; 16];
    rand::rng().fill_bytes(&mut nonce);
    let deadline = Instant::now() + patience;
    let talk = async {
        let (mut reader, mut writer) = tokio::io::split(&mut *io);
        let ready = scan(&mut reader, Kind::Ready, |theirs| *theirs == nonce);
        tokio::pin!(ready);
        loop {
            let said = async {
                writer.write_all(&word(Kind::Hello, &nonce)).await?;
                writer.flush().await?;
                tokio::time::sleep(AGAIN).await;
                Ok::<_, io::Error>(())
            };
            tokio::select! {
                heard = &mut ready => {
                    heard?;
                    break;
                }
                said = said => said?,
            }
        }
        writer.write_all(&word(Kind::Go, &nonce)).await?;
        writer.flush().await?;
        Ok(())
    };
    timeout_at(deadline, talk)
        .await
        .map_err(|_| HandshakeError::Timeout(patience))?
}

/// The guest's half. Waits for as long as it takes for a HELLO, then for a while for the GO; a newer
/// HELLO starts over.
pub(crate) async fn guest(
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    patience: Duration,
) -> Result<(), HandshakeError> {
    loop {
        let nonce = scan(io, Kind::Hello, |_| true).await?;
        io.write_all(&word(Kind::Ready, &nonce)).await?;
        io.flush().await?;
        let go = scan(io, Kind::Go, |theirs| *theirs == nonce);
        match timeout_at(Instant::now() + patience, go).await {
            Ok(heard) => return heard.map(|_| ()),
            Err(_) => tracing::debug!("no GO after a HELLO: the host may have gone; waiting again"),
        }
    }
}
