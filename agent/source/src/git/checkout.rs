//! Checking a commit out into a record of its own.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_cache::{RecordOptions, Ref, UsageKind};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::command::Git;
use super::repository::Repository;
use super::request::{GitRequest, is_commit_id};
use super::{Commit, GitError, Parts};

/// Where the whole tree is when only a directory of it is wanted.
const WHOLE: &str = ".kiln-checkout";

pub(super) async fn make(
    parts: &Parts,
    git: &Git,
    repository: &Repository,
    request: &GitRequest,
    commit: &Commit,
    index: String,
) -> Result<Ref, GitError> {
    let description = format!(
        "git snapshot for {}#{}",
        request.shown_remote(),
        request.name
    );
    let options = RecordOptions {
        description: description.clone(),
        kind: UsageKind::SourceGit,
        ..RecordOptions::default()
    };
    let record = parts.cache.new_mutable(None, options).await?;
    let root = record
        .root_path()
        .ok_or(GitError::Unsupported("a record without a directory"))?;
    let files = Files {
        git,
        repository,
        request,
        doing: format!("failed to checkout remote {}", request.shown_remote()),
    };
    if request.keep_git_dir && request.subdir.is_empty() {
        files.clone_into(&root, commit).await?;
    } else if request.subdir.is_empty() {
        files.write_into(&root, commit).await?;
    } else {
        let whole = root.join(WHOLE);
        fs::create_dir(&whole).map_err(io(&whole))?;
        files.write_into(&whole, commit).await?;
        let subdir = request.subdir.clone();
        blocking(move || take_out(&root, &whole, &subdir)).await?;
    }
    if request.commit_time {
        let ask = [
            "show",
            "-s",
            "--format=%ct",
            &format!("{}^{{commit}}", commit.object),
        ];
        let answer = repository
            .run(git, "failed to get commit time", &ask)
            .await?;
        let seconds = answer.trim().parse().unwrap_or_default();
        let root = record
            .root_path()
            .ok_or(GitError::Unsupported("a record without a directory"))?;
        blocking(move || set_times(&root, seconds)).await?;
    }
    let options = RecordOptions {
        description,
        kind: UsageKind::SourceGit,
        index: vec![index],
        ..RecordOptions::default()
    };
    Ok(record.commit(options).await?)
}

struct Files<'a> {
    git: &'a Git,
    repository: &'a Repository,
    request: &'a GitRequest,
    doing: String,
}

impl Files<'_> {
    /// Only the files, without a repository among them.
    async fn write_into(&self, tree: &Path, commit: &Commit) -> Result<(), GitError> {
        let git_dir = self.repository.path.to_string_lossy();
        let object = format!("{}^{{commit}}", commit.object);
        self.run(tree, &git_dir, &["read-tree", "--reset", &object])
            .await?;
        self.run(tree, &git_dir, &["checkout-index", "--all", "--force"])
            .await?;
        self.submodules(tree, &git_dir).await
    }

    /// With a `.git` of depth 1 whose origin is the remote.
    async fn clone_into(&self, tree: &Path, commit: &Commit) -> Result<(), GitError> {
        let git_dir = tree.join(".git");
        let git_dir = git_dir.to_string_lossy();
        let format = if commit.object.len() == 64 {
            "--object-format=sha256"
        } else {
            "--object-format=sha1"
        };
        self.run(
            tree,
            &git_dir,
            &["-c", "init.defaultBranch=master", "init", format],
        )
        .await?;
        // By the file protocol: a local clone would hard-link objects and follow links in the repository.
        let origin = format!("file://{}", self.repository.path.display());
        self.run(tree, &git_dir, &["remote", "add", "origin", &origin])
            .await?;
        let local = &self.repository.local_ref;
        let refspec = if is_commit_id(&commit.full_ref) {
            local.clone()
        } else {
            format!("{local}:{}", commit.full_ref)
        };
        self.run(
            tree,
            &git_dir,
            &[
                "fetch",
                "-u",
                "--depth=1",
                "--no-tags",
                "--",
                "origin",
                &refspec,
            ],
        )
        .await?;
        self.run(tree, &git_dir, &["checkout", "-q", "FETCH_HEAD"])
            .await?;
        self.run(
            tree,
            &git_dir,
            &["remote", "set-url", "origin", &self.request.shown_remote()],
        )
        .await?;
        self.run(
            tree,
            &git_dir,
            &["reflog", "expire", "--all", "--expire=now"],
        )
        .await?;
        let _ = fs::remove_file(tree.join(".git/FETCH_HEAD"));
        self.submodules(tree, &git_dir).await
    }

    async fn submodules(&self, tree: &Path, git_dir: &str) -> Result<(), GitError> {
        if self.request.skip_submodules || tree.join(".gitmodules").symlink_metadata().is_err() {
            return Ok(());
        }
        let update = ["submodule", "update", "--init", "--recursive", "--depth=1"];
        self.run(tree, git_dir, &update).await
    }

    async fn run(&self, tree: &Path, git_dir: &str, arguments: &[&str]) -> Result<(), GitError> {
        let work_tree = tree.to_string_lossy();
        let options = ["--work-tree", &work_tree, "--git-dir", git_dir];
        self.git
            .run_in(&self.doing, tree, &options, arguments)
            .await
            .map(drop)
    }
}

/// Moves the contents of a directory of the whole tree to the root, and removes the rest. Links on the way are refused.
fn take_out(root: &Path, whole: &Path, subdir: &str) -> Result<(), GitError> {
    let missing = || GitError::Subdir {
        subdir: subdir.to_owned(),
    };
    let mut from = whole.to_owned();
    for part in subdir.split('/') {
        from.push(part);
        if !from.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Err(missing());
        }
    }
    for entry in fs::read_dir(&from).map_err(io(&from))? {
        let entry = entry.map_err(io(&from))?;
        // A commit may have a file of the name of our own directory only to annoy.
        let target = root.join(entry.file_name());
        fs::rename(entry.path(), &target).map_err(io(&target))?;
    }
    fs::remove_dir_all(whole).map_err(io(whole))
}

/// Sets the time of everything, of directories after what is in them.
fn set_times(path: &Path, seconds: i64) -> Result<(), GitError> {
    let found = path.symlink_metadata().map_err(io(path))?;
    if found.is_dir() {
        for entry in fs::read_dir(path).map_err(io(path))? {
            set_times(&entry.map_err(io(path))?.path(), seconds)?;
        }
    }
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| io(path)(error.into()))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> GitError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| GitError::Io { path, source }
}

async fn blocking(
    work: impl FnOnce() -> Result<(), GitError> + Send + 'static,
) -> Result<(), GitError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(GitError::Start(std::io::Error::other(error))),
    }
}
