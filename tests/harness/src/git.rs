//! A git repository on the web server, over the plain HTTP that git calls dumb.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use kiln_test_tools::on_path;

use crate::web::Web;

/// A repository with a work tree elsewhere and its objects on the web server.
#[derive(Debug)]
pub struct Repository {
    work: tempfile::TempDir,
    served: PathBuf,
    url: String,
}

impl Repository {
    /// Makes an empty repository that is served as `NAME.git`.
    pub fn create(web: &Web, name: &str) -> Result<Self> {
        let work = tempfile::Builder::new().prefix("git-").tempdir()?;
        let directory = format!("{name}.git");
        let repository = Self {
            served: web.directory().join(&directory),
            url: web.url(&directory),
            work,
        };
        repository.git(&["init", "--quiet", "--initial-branch=main"])?;
        Ok(repository)
    }

    /// Commits files and publishes the result; gives the commit's id.
    pub fn commit(&self, files: &[(&str, &str)]) -> Result<String> {
        for (path, contents) in files {
            let target = self.work.path().join(path);
            fs::create_dir_all(target.parent().unwrap_or(Path::new("/")))?;
            fs::write(target, contents)?;
        }
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "change"])?;
        self.publish()?;
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    /// Puts a tag on the last commit.
    pub fn tag(&self, name: &str) -> Result<()> {
        self.git(&["tag", name])?;
        self.publish()
    }

    /// The URL to clone from.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn publish(&self) -> Result<()> {
        if self.served.exists() {
            fs::remove_dir_all(&self.served)?;
        }
        let target = self.served.display().to_string();
        self.git(&["clone", "--quiet", "--bare", ".", &target])?;
        self.git(&["--git-dir", &target, "update-server-info"])
            .map(drop)
    }

    fn git(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(on_path("git")?)
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
            .args(arguments)
            .current_dir(self.work.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z")
            .env("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z")
            .output()?;
        if !output.status.success() {
            bail!(
                "git {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
