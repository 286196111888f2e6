//! Kiln's own client as a blocking one, for tests that start hundreds of builds.
//!
//! Invariant: each call connects anew; the daemon may have died in between.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use kiln_client::agent::{PullImageRequest, import_mount_start::Mount};
use kiln_client::{Address, Attachments, Client, Output, SolveOptions};
use kiln_proto::moby::buildkit::v1 as control;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// A call that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(60);

/// A client of one socket.
#[derive(Debug)]
pub(crate) struct Thin {
    runtime: Runtime,
    address: Address,
}

/// What becomes of a build's result.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// It stays in the cache.
    Cached,
    /// An exporter that writes a file.
    File(&'static str, PathBuf),
    /// A directory of the client.
    Directory(PathBuf),
    /// An exporter that sends nothing to the client, with its attributes.
    Elsewhere(&'static str, Vec<(&'static str, String)>),
    /// Nothing, but the cache goes to a registry.
    CacheTo(String),
    /// Nothing, but the cache goes to a directory of the client.
    CacheInto(PathBuf),
}

/// Where a build finds a cache.
#[derive(Debug, Clone)]
pub(crate) enum From {
    /// In a registry.
    Registry(String),
    /// In a directory of the client.
    Directory(PathBuf),
}

impl Thin {
    pub(crate) fn new(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            runtime,
            address: Address::Unix(socket.to_path_buf()),
        })
    }

    /// Builds a context to the end.
    pub(crate) fn build(&self, context: &Path, fate: Fate) -> Result<()> {
        self.wait(self.start_build(context, fate))
    }

    /// Builds a context to the end, from a cache.
    pub(crate) fn build_from(&self, context: &Path, fate: Fate, from: From) -> Result<()> {
        let (mut options, mut attachments) = request(context, fate);
        let (kind, attributes) = match from {
            From::Registry(reference) => ("registry", vec![("ref", reference)]),
            From::Directory(directory) => {
                let digest = cache_in(&directory)?;
                let src = directory.display().to_string();
                attachments.stores.insert(format!("local:{src}"), directory);
                ("local", vec![("src", src), ("digest", digest)])
            }
        };
        let attributes: BTreeMap<&str, String> = attributes.into_iter().collect();
        let imports = serde_json::json!([{ "Type": kind, "Attrs": attributes }]);
        options
            .frontend_attrs
            .insert("cache-imports".to_owned(), imports.to_string());
        self.wait(self.start(options, attachments))
    }

    /// Starts to build a context.
    pub(crate) fn start_build(&self, context: &Path, fate: Fate) -> JoinHandle<Result<()>> {
        let (options, attachments) = request(context, fate);
        self.start(options, attachments)
    }

    fn start(&self, options: SolveOptions, attachments: Attachments) -> JoinHandle<Result<()>> {
        let address = self.address.clone();
        let logs = Arc::new(Mutex::new(String::new()));
        self.runtime.spawn(async move {
            let client = Client::connect(&address).await?;
            let solved = client.solve(options, attachments, |status| {
                for line in status.logs {
                    *logs.lock() += &String::from_utf8_lossy(&line.msg);
                }
            });
            match solved.await {
                Ok(_) => Ok(()),
                Err(error) => Err(error).with_context(|| format!("log: {}", logs.lock())),
            }
        })
    }

    /// Prunes what isn't in use.
    pub(crate) fn prune(&self) -> Result<()> {
        self.wait(self.start_prune())
    }

    /// Starts to prune.
    pub(crate) fn start_prune(&self) -> JoinHandle<Result<()>> {
        let address = self.address.clone();
        self.runtime.spawn(async move {
            let client = Client::connect(&address).await?;
            let request = control::PruneRequest {
                all: true,
                ..control::PruneRequest::default()
            };
            let mut removed = client.prune(request).await?;
            while let Some(record) = removed.next().await {
                record?;
            }
            Ok(())
        })
    }

    /// Puts a file of so many bytes into a cache mount, as `kiln cache import` does.
    pub(crate) fn import_mount(&self, id: &str, bytes: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "big", bytes)?;
        let archive = archive.into_inner()?;
        let (address, id) = (self.address.clone(), id.to_owned());
        self.wait(self.runtime.spawn(async move {
            let cache = Client::connect(&address).await?.cache();
            let id = Mount::MountId(id);
            let chunks: Vec<Vec<u8>> = archive.chunks(1 << 20).map(<[u8]>::to_vec).collect();
            let chunks = futures::stream::iter(chunks).map(Into::into);
            cache.import_mount(id, false, chunks).await?;
            Ok(())
        }))
    }

    /// Pulls an image, as `kiln pull` does.
    pub(crate) fn pull(&self, name: &str) -> Result<()> {
        let (address, name) = (self.address.clone(), name.to_owned());
        self.wait(self.runtime.spawn(async move {
            let images = Client::connect(&address).await?.images();
            let request = PullImageRequest {
                name,
                ..PullImageRequest::default()
            };
            images.pull(request, |_| {}).await?;
            Ok(())
        }))
    }

    /// Loads an archive, as `kiln load` does.
    pub(crate) fn load(&self, archive: &Path) -> Result<()> {
        let (address, archive) = (self.address.clone(), archive.to_path_buf());
        self.wait(self.runtime.spawn(async move {
            let images = Client::connect(&address).await?.images();
            images.load(tokio::fs::File::open(archive).await?).await?;
            Ok(())
        }))
    }

    /// Asks something that any living daemon answers.
    pub(crate) fn is_answered(&self) -> Result<()> {
        let address = self.address.clone();
        self.wait(self.runtime.spawn(async move {
            let client = Client::connect(&address).await?;
            client.info().await?;
            client.disk_usage(Vec::new()).await?;
            Ok(())
        }))
    }

    /// Waits for what was started.
    pub(crate) fn wait<T>(&self, task: JoinHandle<Result<T>>) -> Result<T> {
        self.runtime
            .block_on(async { tokio::time::timeout(LONGEST, task).await })
            .context("the daemon doesn't answer in time")?
            .context("the call panicked")?
    }
}

/// The digest of the cache in a directory. What writes its name into the index is the command, which isn't here.
fn cache_in(directory: &Path) -> Result<String> {
    const CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
    for blob in std::fs::read_dir(directory.join("blobs/sha256"))? {
        let blob = blob?;
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(blob.path())?).unwrap_or_default();
        if json["config"]["mediaType"] == CONFIG {
            return Ok(format!("sha256:{}", blob.file_name().display()));
        }
    }
    anyhow::bail!("no cache in {}", directory.display())
}

fn request(context: &Path, fate: Fate) -> (SolveOptions, Attachments) {
    let mut options = SolveOptions {
        frontend: "dockerfile.v0".to_owned(),
        ..SolveOptions::default()
    };
    let mut attachments = Attachments {
        shared_key: context.display().to_string(),
        dirs: ["context", "dockerfile"]
            .map(|name| (name.to_owned(), context.to_path_buf()))
            .into(),
        ..Attachments::default()
    };
    let mut export = |kind: &str, attributes: BTreeMap<String, String>, output| {
        options.exporters.push((kind.to_owned(), attributes));
        attachments.outputs.push(output);
    };
    match fate {
        Fate::Cached => {}
        Fate::File(kind, path) => export(kind, BTreeMap::new(), Output::File(path)),
        Fate::Directory(path) => {
            let delete = false;
            export("local", BTreeMap::new(), Output::Directory { path, delete });
        }
        Fate::Elsewhere(kind, attributes) => {
            let attributes = attributes
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value));
            export(kind, attributes.collect(), Output::None);
        }
        Fate::CacheTo(reference) => {
            let attributes = [("ref", reference), ("mode", "max".to_owned())]
                .map(|(name, value)| (name.to_owned(), value));
            let entry = ("registry".to_owned(), attributes.into());
            options.cache_exports.push(entry);
        }
        Fate::CacheInto(directory) => {
            let dest = directory.display().to_string();
            attachments
                .stores
                .insert(format!("local:{dest}"), directory);
            let attributes = [("dest", dest), ("mode", "max".to_owned())]
                .map(|(name, value)| (name.to_owned(), value));
            let entry = ("local".to_owned(), attributes.into());
            options.cache_exports.push(entry);
        }
    }
    (options, attachments)
}
