//! Where the files of a build come from.
//!
//! | context | Dockerfile | what the daemon gets |
//! |---|---|---|
//! | directory | in it, beside it, or text | the directory as `context`, the Dockerfile's as `dockerfile` |
//! | git or http URL | in it, or text | the URL as option `context` |
//! | tar | in it | an upload that the session serves, as option `context` |
//! | nothing | text | an empty directory as `context` |

use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::BuildError;
use crate::Upload;

/// The files that `COPY` and `ADD` see.
#[derive(Default)]
pub enum ContextSource {
    /// None at all.
    #[default]
    Empty,
    /// A directory on this side.
    Directory(PathBuf),
    /// A repository or archive that the daemon gets itself.
    Url(String),
    /// An archive (plain, gzip, bzip2, xz or zstd), sent once.
    Archive(Upload),
}

/// The Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DockerfileSource {
    /// `Dockerfile` in the context.
    #[default]
    InContext,
    /// A path: on this side for a directory, in the context for a URL or an archive.
    Path(PathBuf),
    /// Its text.
    Text(Vec<u8>),
}

impl std::fmt::Debug for ContextSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::Url(url) => f.debug_tuple("Url").field(url).finish(),
            Self::Archive(_) => f.write_str("Archive"),
        }
    }
}

/// As many bytes tell an archive from a Dockerfile.
const MAGIC: usize = 512 * 2;

impl ContextSource {
    /// What a command line's argument means: a directory that is there, else a URL.
    pub fn of_argument(argument: &str) -> Result<Self, BuildError> {
        let path = PathBuf::from(argument);
        if path.is_dir() {
            return Ok(Self::Directory(path));
        }
        if is_remote(argument) {
            return Ok(Self::Url(argument.to_owned()));
        }
        Err(BuildError::NoContext { path })
    }

    /// What standard input holds: an archive, or a Dockerfile without any files.
    pub async fn of_stream(
        mut stream: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<(Self, DockerfileSource), BuildError> {
        let failed = |error| BuildError::io("read", "standard input")(error);
        let mut head = Vec::with_capacity(MAGIC);
        (&mut stream)
            .take(MAGIC as u64)
            .read_to_end(&mut head)
            .await
            .map_err(failed)?;
        if is_archive(&head) {
            let all = std::io::Cursor::new(head).chain(stream);
            return Ok((Self::Archive(Box::pin(all)), DockerfileSource::InContext));
        }
        stream.read_to_end(&mut head).await.map_err(failed)?;
        if head.iter().all(u8::is_ascii_whitespace) {
            let reason = "standard input holds neither a Dockerfile nor an archive";
            return Err(BuildError::invalid("build context", "-", reason));
        }
        Ok((Self::Empty, DockerfileSource::Text(head)))
    }
}

/// Whether a daemon would take the text for a repository or an archive elsewhere.
pub fn is_remote(text: &str) -> bool {
    const SCHEMES: [&str; 4] = ["http://", "https://", "git://", "ssh://"];
    if SCHEMES.iter().any(|scheme| text.starts_with(scheme)) || text.starts_with("github.com/") {
        return true;
    }
    // user@host:path, as git and ssh have it.
    text.split_once(':').is_some_and(|(host, path)| {
        host.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && !host.is_empty() && !host.contains('/') && !path.starts_with("//")
        })
    })
}

fn is_archive(head: &[u8]) -> bool {
    const MAGICS: [&[u8]; 4] = [
        b"\x1f\x8b\x08",
        b"BZh",
        b"\xfd7zXZ\x00",
        b"\x28\xb5\x2f\xfd",
    ];
    MAGICS.iter().any(|magic| head.starts_with(magic)) || is_tar(head)
}

/// A header whose checksum is right; an archive may also be empty.
fn is_tar(head: &[u8]) -> bool {
    let Some(header) = head.get(..512) else {
        return false;
    };
    if header.iter().all(|byte| *byte == 0) {
        return true;
    }
    let field = &header[148..156];
    let text = std::str::from_utf8(field).unwrap_or_default();
    let text = text.trim_matches(|character| character == '\0' || character == ' ');
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    u32::from_str_radix(text, 8) == Ok(sum)
}

/// `Dockerfile`, or `dockerfile` where only that is there.
pub(super) fn default_name(directory: &Path) -> String {
    const NAME: &str = "Dockerfile";
    let lower = NAME.to_lowercase();
    // Asked of the directory itself, since some file systems don't tell the two apart.
    let names: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name == NAME || *name == lower)
        .collect();
    match names.as_slice() {
        [only] => only.clone(),
        _ => NAME.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        for (text, want) in [
            ("https://example.com/x.tar.gz", true),
            ("git@example.com:me/repository.git", true),
            ("ssh://git@example.com/me/repository", true),
            ("github.com/me/repository", true),
            ("git://localhost/x.git#main:dir", true),
            ("./directory", false),
            ("directory", false),
            ("C:\\directory", false),
            ("some:thing", false),
            ("", false),
        ] {
            assert_eq!(is_remote(text), want, "{text}");
        }
    }

    #[tokio::test]
    async fn archives_are_told_from_dockerfiles() {
        let mut tar = vec![0; 1024];
        tar[..4].copy_from_slice(b"file");
        let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        for (bytes, archive) in [
            (tar, Some(true)),
            (vec![0; 10240], Some(true)),
            (b"\x1f\x8b\x08\0".to_vec(), Some(true)),
            (b"FROM scratch\n".to_vec(), Some(false)),
            (vec![b'#'; 3000], Some(false)),
            (b" \n".to_vec(), None),
            (Vec::new(), None),
        ] {
            let got = ContextSource::of_stream(std::io::Cursor::new(bytes.clone())).await;
            let Ok((context, dockerfile)) = got else {
                assert_eq!(archive, None);
                continue;
            };
            match context {
                ContextSource::Archive(mut stream) => {
                    assert_eq!(archive, Some(true));
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).await.unwrap();
                    assert_eq!(all, bytes);
                }
                _ => {
                    assert_eq!(archive, Some(false));
                    assert_eq!(dockerfile, DockerfileSource::Text(bytes));
                }
            }
        }
    }
}
