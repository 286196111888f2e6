//! What an op asks for: an address with a ref and a directory, and attributes.

use kiln_proto::pb;
use kiln_provenance::redact;

use super::{Commit, GitError};

const TRANSPORTS: [&str; 4] = ["http", "https", "ssh", "git"];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GitRequest {
    /// What git is given: a URL, or `user@host:path`.
    pub(super) remote: String,
    /// A branch, tag, full ref or commit id; empty for the default branch.
    pub(super) name: String,
    /// Without slashes at its ends; empty for all.
    pub(super) subdir: String,
    pub(super) keep_git_dir: bool,
    pub(super) skip_submodules: bool,
    /// All files get the commit's time.
    pub(super) commit_time: bool,
    checksum: String,
    pub(super) header_secret: String,
    pub(super) token_secret: String,
    pub(super) ssh_agent: String,
    pub(super) known_hosts: String,
}

impl GitRequest {
    pub(super) fn parse(op: &pb::SourceOp) -> Result<Self, GitError> {
        let address = |reason| GitError::Address {
            identifier: redact(&op.identifier).into_owned(),
            reason,
        };
        let name = op
            .identifier
            .strip_prefix("git://")
            .unwrap_or(&op.identifier);
        let (remote, fragment) = split_fragment(&with_transport(name));
        let (name, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
        let mut request = Self {
            remote,
            name: name.to_owned(),
            // As seen from the repository's root.
            subdir: kiln_gotext::path::rooted(subdir).split_off(1),
            ..Self::default()
        };
        for (key, value) in &op.attrs {
            let is_true = value == "true";
            match key.as_str() {
                "git.keepgitdir" => request.keep_git_dir = is_true,
                "git.fullurl" => request.remote = split_fragment(&with_transport(value)).0,
                "git.authheadersecret" => request.header_secret.clone_from(value),
                "git.authtokensecret" => request.token_secret.clone_from(value),
                "git.knownsshhosts" => request.known_hosts.clone_from(value),
                "git.mountsshsock" => request.ssh_agent.clone_from(value),
                "git.checksum" => request.checksum.clone_from(value),
                "git.skipsubmodules" => request.skip_submodules = is_true,
                "git.mtime" => match value.as_str() {
                    "" | "checkout" => {}
                    "commit" => request.commit_time = true,
                    _ => return Err(address("git.mtime must be checkout or commit")),
                },
                "git.bundle" | "git.checkoutbundle" if !value.is_empty() && value != "false" => {
                    return Err(GitError::Unsupported("a bundle"));
                }
                "git.sig.pubkey" => return Err(GitError::Unsupported("signature verification")),
                // Whether a commit is fetched by its id is decided here anyway.
                _ => {}
            }
        }
        // What begins with a hyphen would be an option to git.
        if request.name.starts_with('-') || request.remote.starts_with('-') {
            return Err(address("it begins with a hyphen"));
        }
        if request.remote.contains(char::is_control) || request.name.contains(char::is_control) {
            return Err(address("it has control characters"));
        }
        if !is_transport(&request.remote) {
            return Err(address("want http, https, ssh or git"));
        }
        Ok(request)
    }

    /// The commit that is known without asking the remote.
    pub(super) fn commit_id(&self) -> Option<&str> {
        is_commit_id(&self.name).then_some(self.name.as_str())
    }

    /// BuildKit's key.
    pub(super) fn cache_key(&self, commit: &Commit) -> String {
        let id = commit
            .peeled
            .as_ref()
            .filter(|_| !self.keep_git_dir)
            .unwrap_or(&commit.object);
        let mut key = id.clone();
        if self.keep_git_dir {
            key += ".git#";
            key += &commit.full_ref;
        }
        if !self.subdir.is_empty() {
            key += ":";
            key += &self.subdir;
        }
        if self.skip_submodules {
            key += "(skip-submodules)";
        }
        if self.commit_time {
            key += "(mtime=commit)";
        }
        key
    }

    /// Whether one of the ids begins as was demanded.
    pub(super) fn check(&self, ids: &[&str]) -> Result<(), GitError> {
        if self.checksum.is_empty() || ids.iter().any(|id| id.starts_with(&self.checksum)) {
            return Ok(());
        }
        Err(GitError::Checksum {
            expected: self.checksum.clone(),
            actual: ids.join(" or "),
        })
    }

    pub(super) fn no_ref(&self, name: &str) -> GitError {
        GitError::NoRef {
            remote: self.shown_remote(),
            name: name.to_owned(),
        }
    }

    pub(super) fn shown_remote(&self) -> String {
        redact(&self.remote).into_owned()
    }
}

pub(super) fn is_commit_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn with_transport(name: &str) -> String {
    if is_transport(name) {
        name.to_owned()
    } else {
        format!("https://{name}")
    }
}

fn is_transport(remote: &str) -> bool {
    match remote.split_once("://") {
        Some((scheme, rest)) => {
            TRANSPORTS.contains(&scheme.to_ascii_lowercase().as_str()) && !rest.is_empty()
        }
        None => is_scp_style(remote),
    }
}

/// `user@host:path`
fn is_scp_style(remote: &str) -> bool {
    let is_word = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    remote.split_once('@').is_some_and(|(user, rest)| {
        rest.split_once(':')
            .is_some_and(|(host, _)| is_word(user, b"-_") && is_word(host, b"-."))
    })
}

/// The address without query and fragment, and the fragment.
fn split_fragment(address: &str) -> (String, String) {
    let (remote, fragment) = address.split_once('#').unwrap_or((address, ""));
    let remote = remote.split_once('?').map_or(remote, |(remote, _)| remote);
    (remote.to_owned(), percent_decoded(fragment))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = digits
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        if let Some(byte) = byte {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(identifier: &str, attrs: &[(&str, &str)]) -> Result<GitRequest, GitError> {
        GitRequest::parse(&pb::SourceOp {
            identifier: identifier.to_owned(),
            attrs: attrs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        })
    }

    #[test]
    fn addresses_are_read() {
        let table = [
            (
                "git://github.com/a/b.git",
                None,
                ("https://github.com/a/b.git", "", ""),
            ),
            (
                "git://github.com/a/b.git#v1:docs",
                None,
                ("https://github.com/a/b.git", "v1", "docs"),
            ),
            (
                "git://x/y#:/a/./b/../c/",
                Some("http://x/y?z=1#ignored"),
                ("http://x/y", "", "a/c"),
            ),
            (
                "git://git@github.com:a/b.git#r%23x",
                None,
                ("git@github.com:a/b.git", "r#x", ""),
            ),
            (
                "git://x",
                Some("ssh://git@h:22/a"),
                ("ssh://git@h:22/a", "", ""),
            ),
        ];
        for (identifier, full, want) in table {
            let attrs: Vec<_> = full.iter().map(|full| ("git.fullurl", *full)).collect();
            let request = parse(identifier, &attrs).unwrap();
            assert_eq!(
                (
                    request.remote.as_str(),
                    request.name.as_str(),
                    request.subdir.as_str()
                ),
                want,
                "{identifier}"
            );
        }
    }

    #[test]
    fn bad_ops_are_refused() {
        for (identifier, attrs) in [
            ("git://x/y#--upload-pack=touch", &[][..]),
            ("git://x/y", &[("git.mtime", "now")]),
            ("git://x/y", &[("git.bundle", "oci-layout+blob://x")]),
            ("git://x/y", &[("git.sig.pubkey", "k")]),
            ("git://x/y#a\nb", &[]),
        ] {
            assert!(
                parse(identifier, attrs).is_err(),
                "{identifier:?} {attrs:?}"
            );
        }
        // Other transports, of files and of commands, become names of hosts.
        for url in ["file:///etc", "ext::sh -c id", "/etc"] {
            let request = parse("git://x/y", &[("git.fullurl", url)]).unwrap();
            assert_eq!(request.remote, format!("https://{url}"));
        }
        let error = parse("git://https://me:secret@h/x#-", &[])
            .unwrap_err()
            .to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn keys_are_buildkits() {
        let commit = Commit {
            full_ref: "refs/tags/v1".into(),
            object: "t".repeat(40),
            peeled: Some("c".repeat(40)),
        };
        let (tag, peeled) = ("t".repeat(40), "c".repeat(40));
        let table = [
            ("git://x/y#v1", &[][..], peeled.clone()),
            (
                "git://x/y#v1:d",
                &[("git.skipsubmodules", "true")],
                format!("{peeled}:d(skip-submodules)"),
            ),
            (
                "git://x/y#v1",
                &[("git.keepgitdir", "true")],
                format!("{tag}.git#refs/tags/v1"),
            ),
            (
                "git://x/y#v1",
                &[("git.mtime", "commit")],
                format!("{peeled}(mtime=commit)"),
            ),
        ];
        for (identifier, attrs, want) in table {
            assert_eq!(
                parse(identifier, attrs).unwrap().cache_key(&commit),
                want,
                "{identifier} {attrs:?}"
            );
        }
    }
}
