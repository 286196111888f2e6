//! Private keys for `RUN --mount=type=ssh`, in an agent of their own.
//!
//! The agent is the system's `ssh-agent`, so that every kind of key and passphrase works as it does there, and
//! nothing here reads a private key.
//!
//! Invariants: the agent holds the given keys only, listens in a directory that only this user may enter, and ends
//! with the [`KeyAgent`].

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::BuildError;

const WHAT: &str = "ssh key";

/// A running agent.
#[derive(Debug)]
pub(super) struct KeyAgent {
    process: Child,
    socket: PathBuf,
    _directory: TempDir,
}

impl KeyAgent {
    /// Starts one with these keys. A key that has a passphrase is asked for on the terminal, by `ssh-add`.
    pub(super) fn start(keys: &[PathBuf]) -> Result<Self, BuildError> {
        let named = keys.iter().map(|key| key.display().to_string());
        let named = named.collect::<Vec<_>>().join(",");
        let failed = |reason: String| BuildError::invalid(WHAT, &named, reason);
        let directory = super::files::temporary()?;
        let socket = directory.path().join("agent.sock");
        let mut process = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(format!("ssh-agent doesn't start: {error}")))?;
        // It says where it listens once it does.
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let agent = Self {
            process,
            socket,
            _directory: directory,
        };
        if line.is_empty() {
            return Err(failed("ssh-agent ended at once".to_owned()));
        }
        let added = Command::new("ssh-add")
            .arg("-q")
            .args(keys)
            .env("SSH_AUTH_SOCK", &agent.socket)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(format!("ssh-add doesn't start: {error}")))?;
        if added.status.success() {
            return Ok(agent);
        }
        let words = String::from_utf8_lossy(&added.stderr);
        Err(failed(format!("ssh-add: {}", words.trim())))
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn key(directory: &Path, name: &str, passphrase: &str) -> PathBuf {
        let path = directory.join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-C", name, "-N", passphrase, "-f"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(made.success());
        path
    }

    /// What an agent answers to "which keys have you".
    fn identities(socket: &Path) -> Vec<u8> {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(&[0, 0, 0, 1, 11]).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut answer).unwrap();
        answer
    }

    #[test]
    fn an_agent_holds_the_keys_and_ends_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let keys = [
            key(directory.path(), "one", ""),
            key(directory.path(), "two", ""),
        ];
        let agent = KeyAgent::start(&keys).unwrap();
        let socket = agent.socket().to_owned();
        let answer = identities(&socket);
        assert_eq!(answer[..5], [12, 0, 0, 0, 2]);
        for name in ["one", "two"] {
            assert!(answer.windows(3).any(|part| part == name.as_bytes()));
        }
        drop(agent);
        assert!(!socket.exists());
    }

    #[test]
    fn a_key_that_is_none_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("no-key");
        std::fs::write(&path, "not a key").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let error = KeyAgent::start(&[path]).unwrap_err().to_string();
        assert!(
            error.contains("ssh-add: ") && error.contains("no-key"),
            "{error}"
        );
    }
}
