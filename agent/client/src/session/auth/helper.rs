//! Docker's credential helpers: programs that keep credentials, spoken to in JSON.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use super::Credential;
use crate::Error;

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Runs a helper that must succeed.
pub(super) async fn run(name: &str, action: &'static str, input: &str) -> Result<(), Error> {
    let failed = |reason: String| Error::Helper {
        helper: name.to_owned(),
        reason,
    };
    if !is_helper_name(name) {
        return Err(failed(
            "its name isn't one of a credential helper".to_owned(),
        ));
    }
    let path = find_helper(name).ok_or_else(|| failed("it isn't installed".to_owned()))?;
    let output = call(&path, action, input).await;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(failed(String::from_utf8_lossy(&said).trim().to_owned()))
}

/// Runs the program to its end. One that doesn't read its input is judged by what it says.
async fn call(path: &Path, action: &str, input: &str) -> io::Result<Output> {
    let mut child = tokio::process::Command::new(path)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output().await
}

/// Only plain names are run: a configuration must not start arbitrary programs.
fn is_helper_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The helper's program in an absolute directory of `PATH`.
fn find_helper(name: &str) -> Option<PathBuf> {
    let program = format!("docker-credential-{name}");
    std::env::split_paths(&std::env::var_os("PATH")?)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(&program))
        .find(|path| path.is_file())
}

/// What a helper knows; one that is missing or misbehaves knows nothing.
pub(super) async fn ask(name: &str, key: &str) -> Result<Option<Credential>, Error> {
    if !is_helper_name(name) {
        tracing::warn!(%name, "not a name of a credential helper");
        return Ok(None);
    }
    let Some(path) = find_helper(name) else {
        tracing::warn!(%name, "the credential helper isn't installed");
        return Ok(None);
    };
    let output = call(&path, "get", key).await.map_err(|source| Error::Io {
        action: "run",
        path,
        source,
    })?;
    // Helpers fail where they know nothing; that is no error.
    let Ok(answer) = serde_json::from_slice::<HelperAnswer>(&output.stdout) else {
        return Ok(None);
    };
    if !output.status.success() || answer.secret.is_empty() {
        return Ok(None);
    }
    let username = if answer.username == "<token>" {
        String::new()
    } else {
        answer.username
    };
    Ok(Some(Credential {
        username,
        secret: answer.secret,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_have_plain_names() {
        for (name, want) in [
            ("osxkeychain", true),
            ("ecr-login", true),
            ("../x", false),
            ("a b", false),
            ("", false),
        ] {
            assert_eq!(is_helper_name(name), want, "{name}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_helper_that_reads_nothing_is_judged_by_what_it_says() {
        // Larger than a pipe, so that it can't all be written.
        let input = "x".repeat(1 << 20);
        let output = call(Path::new("/bin/echo"), "{}", &input).await.unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, b"{}\n");
    }
}
