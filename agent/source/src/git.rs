//! `git://`: a commit of a repository, checked out.
//!
//! ```text
//! ref ──ls-remote──▶ commit ──▶ key        (a full commit id needs no network)
//!                       └─ fetch into the remote's shared bare repository ─▶ check out ─▶ Ref
//! ```
//! Each remote has one bare repository that stays from build to build, so that only new commits are fetched. All git
//! commands run with no configuration but ours: no user's or system's file, no prompts, no `file://` submodules.
//!
//! **Invariant:** one task at a time works in a repository; secrets go to git by its environment, and into
//! no argument, record or error.

mod checkout;
mod command;
mod repository;
mod request;
mod ssh;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use kiln_cache::{CacheManager, Ref};
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_frontend::{ResolveImage, SourceMeta};
use kiln_oci::Platform;
use kiln_proto::moby::buildkit::v1::frontend::ResolveSourceGitResponse;
use kiln_proto::pb;
use kiln_session::SessionManager;
use parking_lot::Mutex;

use crate::{Source, SourceContext, SourceKey, SourceProvider};
use command::Git;
use request::GitRequest;

/// Why a commit couldn't be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The address isn't one of a repository.
    #[error("invalid git source {identifier:?}: {reason}")]
    Address {
        /// What was given, without credentials.
        identifier: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Something known that isn't served.
    #[error("git source: {0} is not supported by this builder")]
    Unsupported(&'static str),
    /// `git` isn't installed, or doesn't start.
    #[error(
        "failed to run git; is it installed where the builder runs? (a machine has it from add-on.squashfs, beside its guest image)"
    )]
    Start(#[source] std::io::Error),
    /// A command failed.
    #[error("{doing}: git stderr:\n{stderr}")]
    Command {
        /// What it was for.
        doing: String,
        /// What it said, without credentials.
        stderr: String,
    },
    /// A command failed on a disk that is full.
    #[error(
        "no space left on the disk of the state root; prune the build cache or free space; {doing}: git stderr:\n{stderr}"
    )]
    Full {
        /// What it was for.
        doing: String,
        /// What it said, without credentials.
        stderr: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("repository {remote} does not contain ref {name}")]
    NoRef {
        /// The repository, without credentials.
        remote: String,
        /// The ref.
        name: String,
    },
    /// The commit isn't the one that was demanded.
    #[error("expected checksum to match {expected}, got {actual}")]
    Checksum {
        /// What was demanded.
        expected: String,
        /// What there is.
        actual: String,
    },
    /// The directory isn't in the commit, or isn't one.
    #[error("invalid subdir {subdir:?}: no such directory in the repository")]
    Subdir {
        /// What was asked for.
        subdir: String,
    },
    /// No client forwards the agent.
    #[error("no SSH key {id:?} forwarded from the client")]
    NoAgent {
        /// The agent's id.
        id: String,
    },
    /// A file couldn't be written or moved.
    #[error("failed to prepare the checkout at {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The client failed.
    #[error(transparent)]
    Session(#[from] kiln_session::Error),
    /// The record failed.
    #[error(transparent)]
    Cache(#[from] kiln_cache::Error),
}

impl From<GitError> for SharedError {
    fn from(error: GitError) -> Self {
        let kind = match &error {
            GitError::Address { .. } | GitError::Checksum { .. } | GitError::Subdir { .. } => {
                Some(Kind::User)
            }
            GitError::Unsupported(_) => Some(Kind::Unimplemented),
            GitError::NoRef { .. } => Some(Kind::NotFound),
            GitError::Start(_) => Some(Kind::Config),
            GitError::Full { .. } => Some(Kind::Exhausted),
            _ => None,
        };
        match kind {
            Some(kind) => WithDetail::kind(Arc::new(error), kind).shared(),
            None => Arc::new(error),
        }
    }
}

/// Makes git sources. Cheap to clone.
#[derive(Clone)]
pub struct GitSources(Arc<Parts>);

struct Parts {
    cache: CacheManager,
    sessions: SessionManager,
    /// For sockets of agents and files of host keys.
    tmp: PathBuf,
    /// Who works in the repository of a remote.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl GitSources {
    /// Checkouts become records of `cache`; secrets and agents come from `sessions`; temporary files go to `tmp`.
    pub fn new(cache: CacheManager, sessions: SessionManager, tmp: PathBuf) -> Self {
        Self(Arc::new(Parts {
            cache,
            sessions,
            tmp,
            turns: Mutex::default(),
        }))
    }
}

impl std::fmt::Debug for GitSources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GitSources")
    }
}

impl Parts {
    async fn turn(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut turns = self.turns.lock();
            turns.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(turns.entry(key.to_owned()).or_default())
        };
        lock.lock_owned().await
    }
}

#[async_trait]
impl SourceProvider for GitSources {
    fn schemes(&self) -> &'static [&'static str] {
        &["git"]
    }

    fn open(
        &self,
        op: &pb::SourceOp,
        _platform: Option<&Platform>,
    ) -> Result<Arc<dyn Source>, SharedError> {
        Ok(Arc::new(Checkout {
            parts: Arc::clone(&self.0),
            request: GitRequest::parse(op)?,
            commit: tokio::sync::Mutex::new(None),
        }))
    }

    async fn look_up(
        &self,
        op: pb::SourceOp,
        _options: &ResolveImage,
        cx: &SourceContext,
    ) -> Result<SourceMeta, SharedError> {
        let request = GitRequest::parse(&op)?;
        let git = Git::new(&self.0, &request, cx).await?;
        let commit = Commit::resolve(&git, &request).await?;
        Ok(SourceMeta {
            source: op,
            git: Some(ResolveSourceGitResponse {
                checksum: commit.object,
                r#ref: commit.full_ref,
                commit_checksum: commit.peeled.unwrap_or_default(),
                ..ResolveSourceGitResponse::default()
            }),
            ..SourceMeta::default()
        })
    }
}

/// What a ref stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    /// `refs/heads/main`, `refs/tags/v1`; the commit id itself where that was asked for.
    full_ref: String,
    /// The id that the ref has: a commit, or an annotated tag.
    object: String,
    /// The commit behind an annotated tag.
    peeled: Option<String>,
}

impl Commit {
    async fn resolve(git: &Git, request: &GitRequest) -> Result<Self, GitError> {
        if let Some(id) = request.commit_id() {
            request.check(&[id])?;
            return Ok(Self {
                full_ref: id.to_owned(),
                object: id.to_owned(),
                peeled: None,
            });
        }
        let doing = format!("failed to fetch remote {}", request.shown_remote());
        let name = match request.name.as_str() {
            "" => {
                let answer = git
                    .run(
                        &doing,
                        &["ls-remote", "--symref", "--", &request.remote, "HEAD"],
                    )
                    .await?;
                let head = answer
                    .lines()
                    .find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
                head.ok_or_else(|| request.no_ref("HEAD"))?.to_owned()
            }
            name => name.to_owned(),
        };
        let peeled = format!("{name}^{{}}");
        let answer = git
            .run(
                &doing,
                &["ls-remote", "--", &request.remote, &name, &peeled],
            )
            .await?;
        let commit = Self::choose(&answer, &name).ok_or_else(|| request.no_ref(&name))?;
        let ids: Vec<&str> = [Some(commit.object.as_str()), commit.peeled.as_deref()]
            .into_iter()
            .flatten()
            .collect();
        request.check(&ids)?;
        Ok(commit)
    }

    /// Picks from the lines of `ls-remote`: a full name, else a branch, else a tag.
    fn choose(answer: &str, name: &str) -> Option<Self> {
        let lines: HashMap<&str, &str> = answer
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(id, name)| (name, id))
            .collect();
        let bare = name.strip_prefix("refs/").unwrap_or(name);
        let tag = format!(
            "refs/tags/{}",
            name.strip_prefix("refs/tags/").unwrap_or(name)
        );
        let candidates = [
            format!("refs/{bare}"),
            format!(
                "refs/heads/{}",
                name.strip_prefix("refs/heads/").unwrap_or(name)
            ),
            tag.clone(),
        ];
        let full_ref = candidates
            .into_iter()
            .find(|full| lines.contains_key(full.as_str()))?;
        let object = lines
            .get(full_ref.as_str())
            .filter(|id| request::is_commit_id(id))?;
        let peeled = (full_ref == tag)
            .then(|| lines.get(format!("{tag}^{{}}").as_str()))
            .flatten();
        Some(Self {
            object: (*object).to_owned(),
            peeled: peeled.map(|id| (*id).to_owned()),
            full_ref,
        })
    }
}

/// One git source of one vertex.
struct Checkout {
    parts: Arc<Parts>,
    request: GitRequest,
    commit: tokio::sync::Mutex<Option<Commit>>,
}

impl Checkout {
    async fn commit(&self, cx: &SourceContext) -> Result<Commit, GitError> {
        let mut known = self.commit.lock().await;
        if let Some(commit) = &*known {
            return Ok(commit.clone());
        }
        let git = Git::new(&self.parts, &self.request, cx).await?;
        let commit = Commit::resolve(&git, &self.request).await?;
        Ok(known.insert(commit).clone())
    }

    async fn check_out(&self, cx: &SourceContext) -> Result<Ref, GitError> {
        let commit = self.commit(cx).await?;
        let key = self.request.cache_key(&commit);
        let index = format!("git-snapshot:{key}:{}", self.request.subdir);
        let _turn = self.parts.turn(&self.request.remote).await;
        for id in self.parts.cache.search(&index) {
            if let Some(found) = self.parts.cache.get(&id).await? {
                return Ok(found);
            }
        }
        let git = Git::new(&self.parts, &self.request, cx).await?;
        let repository = repository::fetch(&self.parts, &git, &self.request, &commit).await?;
        let made = checkout::make(
            &self.parts,
            &git,
            &repository,
            &self.request,
            &commit,
            index,
        )
        .await;
        repository.record.retain();
        made
    }
}

#[async_trait]
impl Source for Checkout {
    async fn cache_key(&self, _index: usize, cx: &SourceContext) -> Result<SourceKey, SharedError> {
        let commit = self.commit(cx).await?;
        Ok(SourceKey {
            key: self.request.cache_key(&commit),
            pin: Some(commit.object),
            last: true,
        })
    }

    async fn snapshot(&self, cx: &SourceContext) -> Result<Option<Ref>, SharedError> {
        Ok(Some(self.check_out(cx).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_are_chosen_as_git_checkout_does() {
        let id = |c: char| c.to_string().repeat(40);
        let (branch, tag, peeled) = (id('a'), id('b'), id('c'));
        let answer =
            format!("{branch}\trefs/heads/v1\n{tag}\trefs/tags/v1\n{peeled}\trefs/tags/v1^{{}}\n");
        let choose = |name: &str| {
            Commit::choose(&answer, name)
                .map(|commit| (commit.full_ref, commit.object, commit.peeled))
        };
        assert_eq!(
            choose("v1"),
            Some(("refs/heads/v1".into(), branch.clone(), None))
        );
        assert_eq!(
            choose("heads/v1"),
            Some(("refs/heads/v1".into(), branch, None))
        );
        assert_eq!(
            choose("refs/tags/v1"),
            Some(("refs/tags/v1".into(), tag.clone(), Some(peeled)))
        );
        // BuildKit's key is that of the tag itself here.
        assert_eq!(choose("tags/v1"), Some(("refs/tags/v1".into(), tag, None)));
        assert_eq!(choose("v2"), None);
        assert_eq!(Commit::choose("nonsense\trefs/heads/x\n", "x"), None);
    }
}
