//! The shared bare repository of a remote: found or made, and brought up to what is wanted.

use std::path::{Path, PathBuf};

use kiln_cache::{MutableRef, RecordOptions};
use kiln_oci::Digest;

use super::command::Git;
use super::request::{GitRequest, is_commit_id};
use super::{Commit, GitError, Parts};

/// A bare repository that has the commit. Its record is this task's alone.
pub(super) struct Repository {
    pub(super) record: MutableRef,
    pub(super) path: PathBuf,
    /// A ref of ours that names the commit, or the tag.
    pub(super) local_ref: String,
}

impl Repository {
    pub(super) async fn run(
        &self,
        git: &Git,
        doing: &str,
        arguments: &[&str],
    ) -> Result<String, GitError> {
        let directory = self.path.to_string_lossy();
        git.run_in(doing, &self.path, &["--git-dir", &directory], arguments)
            .await
    }

    async fn has(&self, git: &Git, id: &str) -> bool {
        let object = format!("{id}^{{commit}}");
        self.run(git, "look for a commit", &["cat-file", "-e", &object])
            .await
            .is_ok()
    }
}

/// Makes sure that the commit is in the remote's repository. A repository in which git can't work any more is
/// given up for a new one.
pub(super) async fn fetch(
    parts: &Parts,
    git: &Git,
    request: &GitRequest,
    commit: &Commit,
) -> Result<Repository, GitError> {
    let (repository, is_new) = open(parts, git, request, commit).await?;
    let error = match bring(git, &repository, request, commit).await {
        Ok(()) => return Ok(repository),
        Err(error) if is_new => return Err(error),
        Err(error) => error,
    };
    tracing::warn!(%error, remote = request.shown_remote(), "starting anew with a git repository");
    repository.record.discard().await?;
    let (repository, _) = open(parts, git, request, commit).await?;
    bring(git, &repository, request, commit).await?;
    Ok(repository)
}

async fn open(
    parts: &Parts,
    git: &Git,
    request: &GitRequest,
    commit: &Commit,
) -> Result<(Repository, bool), GitError> {
    let index = format!("git-remote:{}", request.remote);
    let local_ref = format!("refs/kiln/{}", Digest::of(&commit.full_ref).hex());
    for id in parts.cache.search(&index) {
        match parts.cache.get_mutable(&id).await {
            Ok(Some(record)) => {
                let path = directory(&record)?;
                remove_locks(&path);
                let repository = Repository {
                    record,
                    path,
                    local_ref,
                };
                return Ok((repository, false));
            }
            Ok(None) | Err(kiln_cache::Error::InUse(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let options = RecordOptions {
        description: format!("shared git repo for {}", request.shown_remote()),
        index: vec![index],
        ..RecordOptions::default()
    };
    // Not retained before it is a repository: what is dropped until then is gone.
    let record = parts.cache.new_mutable(None, options).await?;
    let path = directory(&record)?;
    let repository = Repository {
        record,
        path,
        local_ref,
    };
    let format = if commit.object.len() == 64 {
        "--object-format=sha256"
    } else {
        "--object-format=sha1"
    };
    repository
        .run(
            git,
            "failed to init git repository",
            &["-c", "init.defaultBranch=master", "init", "--bare", format],
        )
        .await?;
    repository
        .run(
            git,
            "failed to add remote",
            &["remote", "add", "origin", &request.remote],
        )
        .await?;
    Ok((repository, true))
}

fn directory(record: &MutableRef) -> Result<PathBuf, GitError> {
    record
        .root_path()
        .ok_or(GitError::Unsupported("a record without a directory"))
}

/// What a git that was killed left.
fn remove_locks(path: &Path) {
    for name in [
        "shallow.lock",
        "packed-refs.lock",
        "index.lock",
        "config.lock",
        "HEAD.lock",
    ] {
        let _ = std::fs::remove_file(path.join(name));
    }
}

async fn bring(
    git: &Git,
    repository: &Repository,
    request: &GitRequest,
    commit: &Commit,
) -> Result<(), GitError> {
    let wanted = commit.object.as_str();
    if !repository.has(git, wanted).await {
        let doing = format!("failed to fetch remote {}", request.shown_remote());
        let source = if is_commit_id(&commit.full_ref) {
            wanted
        } else {
            &commit.full_ref
        };
        let refspec = format!("+{source}:{}", repository.local_ref);
        let shallow = ["fetch", "--depth=1", "--no-tags", "--", "origin", &refspec];
        match repository.run(git, &doing, &shallow).await {
            Ok(_) => {}
            Err(GitError::Command { stderr, .. }) if is_about_depth(&stderr) => {
                let whole = ["fetch", "--no-tags", "--", "origin", &refspec];
                repository.run(git, &doing, &whole).await?;
            }
            Err(GitError::Command { stderr, .. }) if is_about_unadvertised(&stderr) => {
                everything(git, repository, &doing).await?;
            }
            Err(error) => return Err(error),
        }
        // The ref may have moved since it was looked up.
        if !repository.has(git, wanted).await {
            let refspec = format!("+{wanted}:{}", repository.local_ref);
            let by_id = ["fetch", "--depth=1", "--no-tags", "--", "origin", &refspec];
            if repository.run(git, &doing, &by_id).await.is_err() {
                everything(git, repository, &doing).await?;
            }
        }
        if !repository.has(git, wanted).await {
            return Err(request.no_ref(wanted));
        }
    }
    let update = ["update-ref", "--no-deref", &repository.local_ref, wanted];
    repository
        .run(git, "failed to name the commit", &update)
        .await?;
    Ok(())
}

/// Fetches all branches and tags with their history, for servers that don't give single commits.
async fn everything(git: &Git, repository: &Repository, doing: &str) -> Result<(), GitError> {
    let mut arguments = vec!["fetch", "--tags", "--force"];
    if repository.path.join("shallow").exists() {
        arguments.push("--unshallow");
    }
    arguments.extend(["--", "origin", "+refs/heads/*:refs/kiln/heads/*"]);
    repository.run(git, doing, &arguments).await?;
    Ok(())
}

fn is_about_depth(stderr: &str) -> bool {
    stderr.contains("--depth") || stderr.contains("shallow")
}

fn is_about_unadvertised(stderr: &str) -> bool {
    stderr.contains("not our ref") || stderr.contains("unadvertised object")
}
