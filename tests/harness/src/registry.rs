//! `docker-registry` on loopback, filled with busybox.
//!
//! The image is `testdata/busybox.oci.tar`, made of Debian's busybox and libc. It is there as `busybox` and as
//! `library/busybox`, so that the registry also serves as Docker Hub's mirror.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kiln_test_tools::on_path;
use tempfile::TempDir;

use crate::service::Service;

/// A user and the hash of a password, as `htpasswd -B` writes them.
const GUARD: &str = "me:$2y$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC\n";

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    service: Service,
    host: String,
    directory: TempDir,
}

impl Registry {
    /// Starts a registry with busybox in it.
    pub fn start() -> Result<Self> {
        let registry = Self::start_empty()?;
        for name in ["busybox:latest", "library/busybox:latest"] {
            registry.push_archive(&busybox_archive(), name)?;
        }
        Ok(registry)
    }

    /// Starts a registry without any image.
    pub fn start_empty() -> Result<Self> {
        Self::start_with(None)
    }

    /// Starts an empty registry that serves nobody but `me`, whose password is `right`.
    pub fn start_guarded() -> Result<Self> {
        Self::start_with(Some(GUARD))
    }

    fn start_with(users: Option<&str>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("registry-").tempdir()?;
        let port = free_port()?;
        let host = format!("127.0.0.1:{port}");
        let config = directory.path().join("config.yml");
        let storage = directory.path().join("data");
        let mut more = String::new();
        if let Some(users) = users {
            let file = directory.path().join("users");
            fs::write(&file, users)?;
            more = format!(
                "auth:\n  htpasswd:\n    realm: tests\n    path: {}\n",
                file.display()
            );
        }
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    \
                 enabled: true\nhttp:\n  addr: {host}\n{more}",
                storage.display()
            ),
        )?;
        let mut command = Command::new(on_path("docker-registry")?);
        command.arg("serve").arg(&config);
        let log = directory.path().join("registry.log");
        let mut service = Service::start("docker-registry", &mut command, log)?;
        service.wait_until("listening", Duration::from_secs(15), || {
            TcpStream::connect(&host).is_ok()
        })?;
        Ok(Self {
            service,
            host,
            directory,
        })
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The reference of an image here.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    /// Pushes an OCI archive under a name, byte for byte.
    pub fn push_archive(&self, archive: &Path, name: &str) -> Result<()> {
        let source = format!("oci-archive:{}", archive.display());
        let target = format!("docker://{}", self.image(name));
        skopeo(&[
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &source,
            &target,
        ])
        .map(drop)
    }

    /// Puts busybox into a registry that wants a login.
    pub fn push_guarded(&self) -> Result<()> {
        let source = format!("oci-archive:{}", busybox_archive().display());
        let target = format!("docker://{}", self.image("busybox:latest"));
        let options = ["--dest-tls-verify=false", "--dest-creds=me:right"];
        skopeo(&["copy", options[0], options[1], &source, &target]).map(drop)
    }

    /// What `skopeo inspect` says about an image here, raw or not.
    pub fn inspect(&self, name: &str, options: &[&str]) -> Result<serde_json::Value> {
        let target = format!("docker://{}", self.image(name));
        let mut arguments = vec!["inspect", "--tls-verify=false"];
        arguments.extend(options);
        arguments.push(&target);
        Ok(serde_json::from_str(&skopeo(&arguments)?)?)
    }

    /// A blob's bytes.
    pub fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.directory.path().join("data/docker/registry/v2/blobs");
        let path = blobs.join("sha256").join(hex.get(..2).unwrap_or_default());
        fs::read(path.join(hex).join("data")).with_context(|| format!("blob {digest}"))
    }

    /// Digests of the blobs of a repository whose bytes were asked for so far, as the access log has them.
    pub fn blobs_read(&self, repository: &str) -> Vec<String> {
        let wanted = format!("\"GET /v2/{repository}/blobs/");
        let log = fs::read_to_string(self.service.log()).unwrap_or_default();
        log.lines()
            .filter_map(|line| line.split_once(&wanted)?.1.split_whitespace().next())
            .map(str::to_owned)
            .collect()
    }

    /// The directory with the registry's files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// The archive of the busybox image.
pub(crate) fn busybox_archive() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/busybox.oci.tar")
}

/// Runs skopeo and returns what it prints.
pub(crate) fn skopeo(arguments: &[&str]) -> Result<String> {
    let output = Command::new(on_path("skopeo")?)
        .arg("--insecure-policy")
        .args(arguments)
        .output()?;
    if !output.status.success() {
        bail!(
            "skopeo {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("skopeo prints UTF-8")
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
