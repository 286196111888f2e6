//! Running git: what it may see, and what is kept of its output.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use kiln_progress::{Stream, VertexProgress};
use kiln_provenance::redact;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::request::GitRequest;
use super::ssh::Agent;
use super::{GitError, Parts};
use crate::SourceContext;

const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];
/// Of what a failed command said so much is shown.
const MAX_STDERR: usize = 8 << 10;

/// How git is to be run for one source.
pub(super) struct Git {
    environment: Vec<(OsString, OsString)>,
    progress: VertexProgress,
    /// Files and sockets that the environment names.
    _agent: Option<Agent>,
    _known_hosts: Option<tempfile::NamedTempFile>,
}

impl Git {
    pub(super) async fn new(
        parts: &Parts,
        request: &GitRequest,
        cx: &SourceContext,
    ) -> Result<Self, GitError> {
        let mut environment: Vec<(OsString, OsString)> = [
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("HOME", "/dev/null"),
            ("LC_ALL", "C"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        let inherited = PROXIES.iter().chain(&["PATH"]);
        environment
            .extend(inherited.filter_map(|name| Some(((*name).into(), std::env::var_os(name)?))));

        // A repository must not bring in files of this machine by a submodule.
        let mut config = vec![("protocol.file.allow".to_owned(), "user".to_owned())];
        config.extend(authorization(parts, request, cx).await?);
        environment.push(("GIT_CONFIG_COUNT".into(), config.len().to_string().into()));
        for (at, (key, value)) in config.into_iter().enumerate() {
            environment.push((format!("GIT_CONFIG_KEY_{at}").into(), key.into()));
            environment.push((format!("GIT_CONFIG_VALUE_{at}").into(), value.into()));
        }

        let known_hosts = if request.known_hosts.is_empty() {
            None
        } else {
            Some(write_known_hosts(&parts.tmp, &request.known_hosts)?)
        };
        let hosts = match &known_hosts {
            Some(file) => format!("UserKnownHostsFile={}", file.path().display()),
            None => "StrictHostKeyChecking=no".to_owned(),
        };
        environment.push((
            "GIT_SSH_COMMAND".into(),
            format!("ssh -F /dev/null -o {hosts}").into(),
        ));
        let agent = if request.ssh_agent.is_empty() {
            None
        } else {
            Some(Agent::forward(parts, &request.ssh_agent, cx).await?)
        };
        if let Some(agent) = &agent {
            environment.push(("SSH_AUTH_SOCK".into(), agent.socket().into()));
        }
        Ok(Self {
            environment,
            progress: cx.progress.clone(),
            _agent: agent,
            _known_hosts: known_hosts,
        })
    }

    /// Runs git outside of any repository.
    pub(super) async fn run(&self, doing: &str, arguments: &[&str]) -> Result<String, GitError> {
        self.run_in(doing, Path::new("/"), &[], arguments).await
    }

    /// Runs git in `directory` with the options before its command. Returns what it wrote to stdout; what it
    /// writes to stderr goes to the vertex's log if it fails or fetches. Dropping the future kills it.
    pub(super) async fn run_in(
        &self,
        doing: &str,
        directory: &Path,
        options: &[&str],
        arguments: &[&str],
    ) -> Result<String, GitError> {
        let mut command = Command::new("git");
        command
            .args(options)
            .args(arguments)
            .current_dir(directory)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(GitError::Start)?;
        // Its helpers (for HTTP, ssh) are in the same group and go with it.
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let output = child.wait_with_output().await.map_err(GitError::Start)?;
        group.0 = None;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stderr = redact(stderr.trim_end());
        if output.status.success() {
            if arguments.first() == Some(&"fetch") && !stderr.is_empty() {
                self.progress.log(Stream::Stderr, format!("{stderr}\n"));
            }
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let from = stderr.len().saturating_sub(MAX_STDERR);
        let from = (from..=stderr.len())
            .find(|at| stderr.is_char_boundary(*at))
            .unwrap_or(0);
        let (doing, stderr) = (doing.to_owned(), stderr[from..].to_owned());
        Err(if is_full(directory, &stderr) {
            GitError::Full { doing, stderr }
        } else {
            GitError::Command { doing, stderr }
        })
    }
}

/// Less than this is nothing that git could work with.
const TOO_LITTLE: u64 = 1 << 20;

/// Whether a command failed because the disk is full. Git doesn't always say so: what it fetches over plain HTTP is
/// written by curl, and stays there.
fn is_full(directory: &Path, stderr: &str) -> bool {
    let has_little = || {
        let disk = rustix::fs::statvfs(directory);
        disk.is_ok_and(|disk| disk.f_bavail * disk.f_frsize < TOO_LITTLE)
    };
    // Outside of a repository nothing is written.
    let writes = directory != Path::new("/");
    stderr.contains("No space left on device") || (writes && has_little())
}

/// Kills a process group whose leader wasn't waited for.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// A setting that sends the client's secret to the remote, and to nobody else.
async fn authorization(
    parts: &Parts,
    request: &GitRequest,
    cx: &SourceContext,
) -> Result<Option<(String, String)>, GitError> {
    let Some((_, rest)) = request
        .remote
        .split_once("://")
        .filter(|(scheme, _)| scheme.starts_with("http"))
    else {
        return Ok(None);
    };
    let host = rest.split('/').next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let (header, token) = (&request.header_secret, &request.token_secret);
    let candidates = [
        (format!("{header}.{host}"), false, header),
        (format!("{token}.{host}"), true, token),
        (header.clone(), false, header),
        (token.clone(), true, token),
    ];
    for caller in cx
        .sessions
        .iter()
        .filter_map(|id| parts.sessions.attached(id))
    {
        for (name, is_token, _) in candidates.iter().filter(|(_, _, asked)| !asked.is_empty()) {
            let secret = match caller.secret(name).await {
                Ok(secret) => secret,
                Err(kiln_session::Error::NoSecret { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let secret = String::from_utf8_lossy(&secret).trim().to_owned();
            let value = if *is_token {
                let pair = format!("x-access-token:{secret}");
                format!(
                    "basic {}",
                    base64::engine::general_purpose::STANDARD.encode(pair)
                )
            } else {
                secret
            };
            let key = format!("http.{}.extraheader", scope(&request.remote));
            return Ok(Some((key, format!("Authorization: {value}"))));
        }
    }
    Ok(None)
}

/// Where the secret may go: the remote; for GitHub all of it, since submodules usually live there too.
fn scope(remote: &str) -> &str {
    let github = ["https://github.com/", "https://www.github.com/"];
    github
        .into_iter()
        .find(|prefix| remote.starts_with(prefix))
        .unwrap_or(remote)
}

fn write_known_hosts(tmp: &Path, text: &str) -> Result<tempfile::NamedTempFile, GitError> {
    let fail = |source| GitError::Io {
        path: tmp.to_owned(),
        source,
    };
    let file = tempfile::Builder::new()
        .prefix("known-hosts-")
        .tempfile_in(tmp)
        .map_err(fail)?;
    std::fs::write(file.path(), text).map_err(fail)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_with_their_remote() {
        for (remote, want) in [
            ("https://github.com/a/b.git", "https://github.com/"),
            ("https://github.com.evil/a", "https://github.com.evil/a"),
            ("https://h.example/a/b.git", "https://h.example/a/b.git"),
        ] {
            assert_eq!(scope(remote), want);
        }
    }
}
