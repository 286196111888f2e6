//! Commits of repositories that a real git daemon serves.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kiln_cache::Ref;
use kiln_proto::pb;
use kiln_source::SourceProvider;

use crate::fixture::{Fixture, context, op};

/// `git daemon` over a directory of repositories.
struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
    url: String,
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut child = Command::new("/usr/lib/git-core/git-daemon")
            .args([
                "--listen=127.0.0.1",
                "--reuseaddr",
                "--export-all",
                "--verbose",
            ])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", directory.path().display()))
            .arg(directory.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("Ready to rumble")));
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            directory,
            url: format!("git://127.0.0.1:{port}"),
        }
    }

    /// A repository with one commit on `main`.
    fn repository(&self, name: &str) -> Repository {
        let path = self.directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let repository = Repository {
            path,
            url: format!("{}/{name}", self.url),
        };
        repository.git(&["init", "-q", "-b", "main"]);
        repository.git(&["config", "uploadpack.allowReachableSHA1InWant", "true"]);
        repository.commit("readme", "one");
        repository
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Repository {
    path: PathBuf,
    url: String,
}

impl Repository {
    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "protocol.file.allow=always"])
            .args(arguments)
            .current_dir(&self.path)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "n")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "e")))
            .envs(
                ["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_DATE"), "@1700000000 +0000")),
            )
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self, file: &str, text: &str) -> String {
        let path = self.path.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", text]);
        self.head()
    }

    fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    fn op(&self, fragment: &str, attrs: &[(&str, &str)]) -> pb::SourceOp {
        let mut attrs = attrs.to_vec();
        attrs.push(("git.fullurl", &self.url));
        op(format!("git://host/x{fragment}"), &attrs)
    }
}

async fn check_out(fixture: &Fixture, op: &pb::SourceOp) -> Result<(String, Ref), String> {
    let source = fixture
        .git
        .open(op, None)
        .map_err(|error| error.to_string())?;
    let key = source
        .cache_key(0, &context())
        .await
        .map_err(|error| error.to_string())?;
    assert!(key.last && key.pin.is_some());
    let made = source
        .snapshot(&context())
        .await
        .map_err(|error| error.to_string())?;
    Ok((key.key, made.unwrap()))
}

async fn files(made: &Ref) -> kiln_cache::RootPath {
    made.root_path(&[], &context().progress).await.unwrap()
}

fn read(root: &kiln_cache::RootPath, path: &str) -> String {
    std::fs::read_to_string(root.path().join(path)).unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_tags_and_commits_are_checked_out() {
    let daemon = Daemon::start();
    let repository = daemon.repository("a");
    let first = repository.head();
    repository.git(&["tag", "-a", "v1", "-m", "annotated"]);
    let tag = repository.git(&["rev-parse", "v1"]);
    let second = repository.commit("docs/guide", "two");
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;

    let (key, made) = check_out(&fixture, &repository.op("", &[])).await.unwrap();
    assert_eq!(key, second);
    assert_eq!(names(files(&made).await.path()), ["docs", "readme"]);
    let (key, same) = check_out(&fixture, &repository.op("#main", &[]))
        .await
        .unwrap();
    assert_eq!(
        (key, same.id()),
        (second.clone(), made.id()),
        "a checkout is made once"
    );

    let (key, made) = check_out(&fixture, &repository.op("#v1", &[]))
        .await
        .unwrap();
    assert_eq!(key, first, "the commit behind the tag");
    assert_eq!(names(files(&made).await.path()), ["readme"]);

    let third = repository.commit("docs/guide", "three");
    let (key, made) = check_out(&fixture, &repository.op("#main:docs", &[]))
        .await
        .unwrap();
    assert_eq!(key, format!("{third}:docs"));
    assert_eq!(read(&files(&made).await, "guide"), "three");

    let (key, made) = check_out(&fixture, &repository.op(&format!("#{second}"), &[]))
        .await
        .unwrap();
    assert_eq!(
        (key, read(&files(&made).await, "docs/guide")),
        (second, "two".to_owned())
    );

    let (key, made) = check_out(
        &fixture,
        &repository.op("#v1", &[("git.keepgitdir", "true")]),
    )
    .await
    .unwrap();
    assert_eq!(key, format!("{tag}.git#refs/tags/v1"));
    let root = files(&made).await;
    let clone = Repository {
        path: root.path().to_owned(),
        url: String::new(),
    };
    assert_eq!(clone.head(), first);
    assert_eq!(clone.git(&["remote", "get-url", "origin"]), repository.url);
    assert_eq!(clone.git(&["status", "--porcelain"]), "");
    assert_eq!(clone.git(&["tag"]), "v1");

    let (key, made) = check_out(&fixture, &repository.op("", &[("git.mtime", "commit")]))
        .await
        .unwrap();
    assert_eq!(key, format!("{third}(mtime=commit)"));
    let root = files(&made).await;
    for path in ["", "docs", "docs/guide"] {
        let time = std::fs::metadata(root.path().join(path))
            .unwrap()
            .modified()
            .unwrap();
        assert_eq!(
            time.duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
            1_700_000_000,
            "{path:?}"
        );
    }
    // One repository of the remote serves all of these.
    let shared = fixture
        .cache
        .search(&format!("git-remote:{}", repository.url));
    assert_eq!(shared.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submodules_come_from_where_they_may() {
    let daemon = Daemon::start();
    let inner = daemon.repository("inner");
    let outer = daemon.repository("outer");
    outer.git(&["submodule", "add", "-q", &inner.url, "sub"]);
    let head = outer.commit("more", "x");
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let (_, made) = check_out(&fixture, &outer.op("", &[])).await.unwrap();
    assert_eq!(read(&files(&made).await, "sub/readme"), "one");
    let skipping = outer.op("", &[("git.skipsubmodules", "true")]);
    let (key, made) = check_out(&fixture, &skipping).await.unwrap();
    assert_eq!(key, format!("{head}(skip-submodules)"));
    assert!(names(&files(&made).await.path().join("sub")).is_empty());

    let secret = tempfile::tempdir().unwrap();
    let stolen = Repository {
        path: secret.path().to_owned(),
        url: String::new(),
    };
    stolen.git(&["init", "-q"]);
    stolen.commit("secret", "s");
    let hostile = daemon.repository("hostile");
    hostile.git(&[
        "submodule",
        "add",
        "-q",
        &format!("file://{}", secret.path().display()),
        "sub",
    ]);
    hostile.commit("more", "x");
    let refused = check_out(&fixture, &hostile.op("", &[])).await.unwrap_err();
    assert!(
        refused.contains("transport 'file' not allowed"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_named_and_leaves_no_record() {
    let daemon = Daemon::start();
    let repository = daemon.repository("a");
    std::os::unix::fs::symlink("/etc", repository.path.join("link")).unwrap();
    let head = repository.commit("b", "x");
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path()).await;
    let none = "0".repeat(40);
    for (fragment, attrs, want) in [
        ("#nope", &[][..], "does not contain ref nope"),
        ("#main:no/such", &[], "invalid subdir \"no/such\""),
        ("#main:link", &[], "invalid subdir \"link\""),
        (
            "#main",
            &[("git.checksum", "abc")],
            "expected checksum to match abc",
        ),
        (&format!("#{none}"), &[], "does not contain ref 0000"),
    ] {
        let refused = check_out(&fixture, &repository.op(fragment, attrs))
            .await
            .unwrap_err();
        assert!(refused.contains(want), "{fragment}: {refused}");
    }
    let missing = Repository {
        url: format!("{}/none", daemon.url),
        path: repository.path.clone(),
    };
    let refused = check_out(&fixture, &missing.op("", &[])).await.unwrap_err();
    assert!(
        refused.contains("failed to fetch remote git://127.0.0.1"),
        "{refused}"
    );
    let (_, made) = check_out(
        &fixture,
        &repository.op("", &[("git.checksum", &head[..8])]),
    )
    .await
    .unwrap();
    drop(made);
    let records = fixture.cache.usage().await.unwrap();
    let names: Vec<_> = records
        .iter()
        .map(|record| record.description.as_str())
        .collect();
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("git snapshot"))
            .count(),
        1,
        "{names:?}"
    );
}
