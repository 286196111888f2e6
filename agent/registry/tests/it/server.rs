//! Debian's `docker-registry` on a port of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    _directory: tempfile::TempDir,
    pub(crate) host: String,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Starts it with further lines of configuration.
    pub(crate) fn start_with(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.yml");
        let storage = directory.path().join("storage");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: 127.0.0.1:0}}\n{more}\n",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let host = lines
            .find_map(|line| {
                let line = line.unwrap();
                let (_, rest) = line.split_once("listening on ")?;
                Some(
                    rest.chars()
                        .take_while(|c| c.is_ascii_digit() || ".:".contains(*c))
                        .collect::<String>(),
                )
            })
            .unwrap();
        // Its pipe must not fill up.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            _directory: directory,
            host,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
