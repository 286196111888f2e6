//! What git says of a context, so that histories show which commit was built.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// Adds the commit, the remote and the directory to a frontend's options. Without git, or outside of a
/// repository, it adds nothing.
pub(super) fn describe(context: &Path, attrs: &mut BTreeMap<String, String>) {
    let Ok(absolute) = std::fs::canonicalize(context) else {
        return;
    };
    if !absolute.ancestors().any(|at| at.join(".git").exists()) {
        return;
    }
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git")
            .arg("-C")
            .arg(&absolute)
            .args(arguments)
            .env("GIT_OPTIONAL_LOCKS", "0")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(root) = git(&["rev-parse", "--show-toplevel"]) else {
        return;
    };
    let mut put = |key: &str, value: String| attrs.insert(key.to_owned(), value);
    if let Some(mut revision) = git(&["rev-parse", "HEAD"]) {
        let changed = git(&["status", "--porcelain", "--untracked-files=no", "."]);
        if changed.is_some_and(|changed| !changed.is_empty()) {
            revision.push_str("-dirty");
        }
        put("vcs:revision", revision);
    }
    if let Some(source) = git(&["remote", "get-url", "origin"]) {
        put("vcs:source", without_credentials(&source));
    }
    let below = absolute
        .strip_prefix(std::fs::canonicalize(&root).unwrap_or_default())
        .ok()
        .filter(|below| !below.as_os_str().is_empty());
    let below = below.map_or_else(|| ".".to_owned(), |below| below.display().to_string());
    put("vcs:localdir:context", below.clone());
    put("vcs:localdir:dockerfile", below);
}

fn without_credentials(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}/{path}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn credentials_stay_here() {
        for (url, want) in [
            (
                "https://me:secret@example.com/x.git",
                "https://example.com/x.git",
            ),
            ("https://example.com/x@y.git", "https://example.com/x@y.git"),
            ("git@example.com:x.git", "git@example.com:x.git"),
        ] {
            assert_eq!(super::without_credentials(url), want);
        }
    }
}
