//! Who answers for `RUN --mount=type=ssh`: `--ssh`.

use std::path::{Path, PathBuf};

use super::BuildError;

/// Who has the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshSource {
    /// An agent that listens on this socket.
    Agent(PathBuf),
    /// Private keys, for which an agent is started while the build runs.
    Keys(Vec<PathBuf>),
}

/// Reads `default` or `ID[=SOCKET|KEY[,KEY…]]`. The default socket is that of `SSH_AUTH_SOCK`.
pub fn parse_ssh(text: &str) -> Result<(String, SshSource), BuildError> {
    const WHAT: &str = "ssh agent";
    let (id, paths) = match text.split_once('=') {
        Some((id, paths)) => (id, Some(paths)),
        None => (text, None),
    };
    let id = if id.is_empty() { "default" } else { id };
    let paths: Vec<PathBuf> = match paths {
        Some(paths) => paths.split(',').map(PathBuf::from).collect(),
        None => vec![
            std::env::var_os("SSH_AUTH_SOCK")
                .map(PathBuf::from)
                .ok_or_else(|| {
                    let reason = "no ssh agent runs: SSH_AUTH_SOCK isn't set (start one with `eval \
                                  $(ssh-agent)` and add a key with ssh-add, or name a key with \
                                  default=KEY)";
                    BuildError::invalid(WHAT, text, reason)
                })?,
        ],
    };
    let mut sockets = 0;
    for path in &paths {
        let metadata = std::fs::metadata(path).map_err(BuildError::io("look at", path))?;
        if metadata.is_dir() {
            let reason = format!("{} is a directory", path.display());
            return Err(BuildError::invalid(WHAT, text, reason));
        }
        sockets += usize::from(is_socket(&metadata));
    }
    let source = match (sockets, paths.as_slice()) {
        (0, _) => SshSource::Keys(paths),
        (1, [socket]) => SshSource::Agent(Path::to_owned(socket)),
        _ => {
            let reason = "it is one agent's socket, or keys";
            return Err(BuildError::invalid(WHAT, text, reason));
        }
    };
    Ok((id.to_owned(), source))
}

#[cfg(unix)]
fn is_socket(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    metadata.file_type().is_socket()
}

#[cfg(not(unix))]
fn is_socket(_: &std::fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_and_keys_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["one", "two"] {
            std::fs::write(at(name), "key").unwrap();
        }
        let path = |name: &str| at(name).display().to_string();
        let (socket, one, two) = (path("socket"), path("one"), path("two"));
        for (text, want) in [
            (
                format!("default={socket}"),
                Some(("default", SshSource::Agent(at("socket")))),
            ),
            (
                format!("={one}"),
                Some(("default", SshSource::Keys(vec![at("one")]))),
            ),
            (
                format!("git={one},{two}"),
                Some(("git", SshSource::Keys(vec![at("one"), at("two")]))),
            ),
            (format!("git={one},{socket}"), None),
            (format!("git={}", directory.path().display()), None),
            ("git=/no/such/key".to_owned(), None),
        ] {
            let got = parse_ssh(&text).ok();
            let want = want.map(|(id, source)| (id.to_owned(), source));
            assert_eq!(got, want, "{text}");
        }
    }
}
