//! Addresses of git repositories, and the sources that they make.

use std::collections::BTreeMap;

use kiln_llb::{Edge, VertexOptions};
use kiln_proto::pb;

use crate::text::{join, parse_bool, quote};

/// Why an address of a git repository can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say what each is")]
pub enum GitError {
    #[error("query {} has no value", quote(.0))]
    NoValue(String),
    #[error("query {} has multiple values", quote(.0))]
    ManyValues(String),
    #[error("unexpected query {}", quote(.0))]
    Unexpected(String),
    #[error("{what} conflicts: {} vs {}", quote(a), quote(b))]
    Conflict {
        what: &'static str,
        a: String,
        b: String,
    },
    #[error("branch conflicts with tag")]
    BranchAndTag,
    #[error("invalid {key} value: {}", quote(value))]
    Value { key: &'static str, value: String },
}

/// A repository and what of it is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GitRef {
    /// The address that git gets.
    pub remote: String,
    pub host: String,
    pub path: String,
    pub ssh: bool,
    /// A commit, tag or branch.
    pub reference: String,
    pub checksum: String,
    pub subdir: String,
    /// `github.com/…`, which may as well be a local path.
    pub like_a_path: bool,
    pub keep_git_dir: Option<bool>,
    pub submodules: Option<bool>,
    pub mtime: String,
    pub fetch_by_commit: bool,
}

/// `None` where the text is no address of a git repository.
pub(crate) fn parse(text: &str) -> Option<Result<GitRef, GitError>> {
    if text.starts_with("./") || text.starts_with("../") {
        return None;
    }
    let (mut git, query, fragment) = if let Some(rest) = text.strip_prefix("github.com/") {
        let (path, query, fragment) = parts(rest);
        let git = GitRef {
            remote: format!("github.com/{path}"),
            host: "github.com".to_owned(),
            path: format!("/{path}"),
            like_a_path: true,
            ..GitRef::default()
        };
        (git, query, fragment)
    } else if let Some((scheme, rest)) = scheme(text) {
        let (address, query, fragment) = parts(rest);
        let (authority, path) = match address.find('/') {
            Some(at) => address.split_at(at),
            None => (address, ""),
        };
        let host = authority.rsplit('@').next().unwrap_or(authority);
        match scheme.as_str() {
            "http" | "https" if path.strip_suffix(".git").is_some() => {}
            "ssh" | "git" => {}
            _ => return None,
        }
        let git = GitRef {
            remote: format!("{scheme}://{address}"),
            host: host.to_owned(),
            path: path.to_owned(),
            ssh: scheme == "ssh",
            ..GitRef::default()
        };
        (git, query, fragment)
    } else {
        scp_style(text)?
    };
    if let Some(fragment) = fragment {
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        reference.clone_into(&mut git.reference);
        join(&["/", subdir])[1..].clone_into(&mut git.subdir);
    }
    Some(git.take_query(query.unwrap_or("")).map(|()| git))
}

/// The scheme in lower case and what follows `://`.
fn scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let good = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric());
    good.then(|| (scheme.to_ascii_lowercase(), rest))
}

/// Address, query and fragment.
fn parts(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, fragment) = match text.split_once('#') {
        Some((rest, fragment)) => (rest, Some(fragment).filter(|f| !f.is_empty())),
        None => (text, None),
    };
    match rest.split_once('?') {
        Some((address, query)) => (address, Some(query), fragment),
        None => (rest, None, fragment),
    }
}

/// `user@host:path`
fn scp_style(text: &str) -> Option<(GitRef, Option<&str>, Option<&str>)> {
    let (user, rest) = text.split_once('@')?;
    let (host, _) = rest.split_once(':')?;
    let word = |text: &str, extra: &[char]| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || extra.contains(&c))
    };
    if !word(user, &['-', '_']) || !word(host, &['-', '.']) {
        return None;
    }
    let (address, query, fragment) = parts(text);
    let path = address.split_once(':').map_or("", |(_, path)| path);
    let git = GitRef {
        remote: address.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        ssh: true,
        ..GitRef::default()
    };
    Some((git, query, fragment))
}

fn query_decode(text: &str) -> String {
    percent_decode(&text.replace('+', " "))
}

/// The text with `%20` and the like resolved.
pub(crate) fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let decoded = digits.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match decoded.filter(|_| *byte == b'%') {
            Some(decoded) => {
                out.push(decoded);
                rest = &after[2..];
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl GitRef {
    fn take_query(&mut self, query: &str) -> Result<(), GitError> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            values
                .entry(query_decode(key))
                .or_default()
                .push(query_decode(value));
        }
        let (mut tag, mut branch) = (String::new(), String::new());
        for (key, mut value) in values {
            if value.len() > 1 {
                return Err(GitError::ManyValues(key));
            }
            let value = value.pop().unwrap_or_default();
            let switches = ["submodules", "keep-git-dir", "fetch-by-commit"];
            if value.is_empty() && !switches.contains(&key.as_str()) {
                return Err(GitError::NoValue(key));
            }
            match key.as_str() {
                "ref" => set_once("ref", &mut self.reference, value)?,
                "tag" => tag = value,
                "branch" => branch = value,
                "subdir" => set_once("subdir", &mut self.subdir, value)?,
                "checksum" | "commit" => self.checksum = value,
                "keep-git-dir" => self.keep_git_dir = Some(switch("keep-git-dir", value)?),
                "submodules" => self.submodules = Some(switch("submodules", value)?),
                "fetch-by-commit" => self.fetch_by_commit = switch("fetch-by-commit", value)?,
                "mtime" if value == "checkout" || value == "commit" => self.mtime = value,
                "mtime" => {
                    return Err(GitError::Value {
                        key: "mtime",
                        value,
                    });
                }
                _ => return Err(GitError::Unexpected(key)),
            }
        }
        if !tag.is_empty() && !branch.is_empty() {
            return Err(GitError::BranchAndTag);
        }
        for (name, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            if !name.is_empty() {
                let full = if name.starts_with(prefix) {
                    name
                } else {
                    format!("{prefix}{name}")
                };
                set_once("ref", &mut self.reference, full)?;
            }
        }
        Ok(())
    }
}

fn set_once(what: &'static str, field: &mut String, value: String) -> Result<(), GitError> {
    if !field.is_empty() && *field != value {
        return Err(GitError::Conflict {
            what,
            a: field.clone(),
            b: value,
        });
    }
    *field = value;
    Ok(())
}

fn switch(key: &'static str, value: String) -> Result<bool, GitError> {
    if value.is_empty() {
        return Ok(true);
    }
    parse_bool(&value).ok_or(GitError::Value { key, value })
}

/// What is asked of a repository beside its address.
#[derive(Debug, Clone, Default)]
pub(crate) struct GitOptions {
    pub keep_git_dir: bool,
    pub checksum: String,
    pub mtime: String,
}

/// The source of a repository.
pub(crate) fn git_source(git: &GitRef, more: &GitOptions, mut options: VertexOptions) -> Edge {
    let mut attrs = BTreeMap::new();
    let mut set = |key: &str, value: &str, cap: &str| {
        attrs.insert(key.to_owned(), value.to_owned());
        options.caps.insert(cap.to_owned());
    };
    let mut id = format!("{}{}", git.host, join(&["/", &git.path]));
    if !git.reference.is_empty() || !git.subdir.is_empty() {
        id.push('#');
        id.push_str(&git.reference);
        if !git.subdir.is_empty() {
            id.push(':');
            id.push_str(&git.subdir);
        }
    }
    let url = if git.like_a_path {
        format!("https://{}", git.remote)
    } else {
        git.remote.clone()
    };
    if more.keep_git_dir {
        set("git.keepgitdir", "true", "source.git.keepgitdir");
    }
    set("git.fullurl", &url, "source.git.fullurl");
    set("git.authtokensecret", "GIT_AUTH_TOKEN", "source.git");
    set("git.authheadersecret", "GIT_AUTH_HEADER", "source.git");
    if git.ssh {
        set("git.mountsshsock", "default", "source.git.mountsshsock");
    }
    if !more.checksum.is_empty() {
        set("git.checksum", &more.checksum, "source.git.checksum");
    }
    if git.submodules == Some(false) {
        set("git.skipsubmodules", "true", "source.git.skipsubmodules");
    }
    if !more.mtime.is_empty() {
        set("git.mtime", &more.mtime, "source.git.mtime");
    }
    if git.fetch_by_commit {
        set("git.fetchbycommit", "true", "source.git.fetchbycommit");
    }
    let source = pb::SourceOp {
        identifier: format!("git://{id}"),
        attrs,
    };
    kiln_llb::source(source, None, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text| parse(text).map(Result::unwrap);
        let git = parse("https://u:p@host/o/r.git?tag=v1&keep-git-dir#").unwrap();
        assert_eq!(
            (
                git.remote.as_str(),
                git.host.as_str(),
                git.reference.as_str()
            ),
            ("https://u:p@host/o/r.git", "host", "refs/tags/v1")
        );
        assert_eq!(git.keep_git_dir, Some(true));
        let git = parse("git@host:o/r.git#main:sub/../dir").unwrap();
        assert_eq!(
            (
                git.remote.as_str(),
                git.path.as_str(),
                git.reference.as_str(),
                git.subdir.as_str()
            ),
            ("git@host:o/r.git", "o/r.git", "main", "dir")
        );
        assert!(git.ssh);
        assert!(parse("github.com/o/r").unwrap().like_a_path);
        for text in [
            "./x",
            "../y",
            "a/b",
            "https://host/file.tar",
            "a@b",
            "x.git",
            "ftp://h/r.git",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn mistakes_in_addresses() {
        let error = |query: &str| {
            let text = format!("https://host/r.git?{query}");
            super::parse(&text).unwrap().unwrap_err().to_string()
        };
        assert_eq!(error("x=1"), "unexpected query \"x\"");
        assert_eq!(error("ref="), "query \"ref\" has no value");
        assert_eq!(error("ref=a&ref=b"), "query \"ref\" has multiple values");
        assert_eq!(
            error("ref=a&tag=b"),
            "ref conflicts: \"a\" vs \"refs/tags/b\""
        );
        assert_eq!(error("tag=a&branch=b"), "branch conflicts with tag");
        assert_eq!(error("submodules=x"), "invalid submodules value: \"x\"");
    }
}
