//! The work that a daemon is killed in: builds, pulls, exports, prunes, collections of garbage.
//!
//! Each job has words and files of its own, so that what a later build makes of the state that was left can be
//! compared byte by byte.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use kiln_harness::{Context, Kilnd, KilndOptions, Registry};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::random::Random;
use crate::thin::{Fate, Thin};

const FILES: usize = 12;
const FILE_BYTES: usize = 16 << 10;
const BASE_LAYERS: usize = 4;
const BASE_BYTES: usize = 512 << 10;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Steps, copies, cache mounts.
    Build,
    /// An image of several layers, none of which is here.
    Pull,
    /// An archive for the client.
    Archive,
    /// An image in the local store.
    Store,
    /// An image in a registry.
    Push,
    /// A cache in a registry.
    Cache,
    /// Everything that isn't used goes.
    Prune,
    /// The same, by the daemon itself.
    Collect,
}

impl Work {
    pub(crate) const ALL: [Self; 8] = [
        Self::Build,
        Self::Pull,
        Self::Archive,
        Self::Store,
        Self::Push,
        Self::Cache,
        Self::Prune,
        Self::Collect,
    ];
}

/// What all jobs share.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) thin: Thin,
    registry: &'a Registry,
    directory: TempDir,
}

impl<'a> Site<'a> {
    pub(crate) fn new(kilnd: &Kilnd, registry: &'a Registry) -> Result<Self> {
        Ok(Self {
            thin: Thin::new(kilnd.socket())?,
            registry,
            directory: tempfile::Builder::new().prefix("site-").tempdir()?,
        })
    }

    fn base(&self) -> String {
        self.registry.image("crash/base:latest")
    }

    /// Builds and pushes the image that jobs pull, with another daemon.
    pub(crate) fn push_base(&self) -> Result<()> {
        let kilnd = Kilnd::start(self.registry, KilndOptions::default())?;
        let copies: Vec<String> = (0..BASE_LAYERS)
            .map(|number| format!("COPY f{number} /base/\n"))
            .collect();
        let text = format!("FROM busybox\n{}", copies.concat());
        let mut random = Random::new(0);
        let context = Context::new(&text)?;
        for number in 0..BASE_LAYERS {
            context.put(&format!("f{number}"), random.bytes(BASE_BYTES))?;
        }
        Thin::new(kilnd.socket())?.build(
            context.path(),
            Fate::Elsewhere("image", image(self.base(), true)),
        )?;
        kilnd.finish()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn image(name: String, push: bool) -> Vec<(&'static str, String)> {
    vec![("name", name), ("push", push.to_string())]
}

/// One piece of work.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) work: Work,
    word: String,
    files: Vec<Vec<u8>>,
    context: Context,
}

impl Job {
    /// Prepares what the work needs to be found.
    pub(crate) fn prepare(site: &Site<'_>, work: Work, random: &mut Random) -> Result<Self> {
        let job = Self::new(site, work, random)?;
        match work {
            Work::Build | Work::Collect => {}
            Work::Pull => site.thin.prune()?,
            // Half of the time only the export is left to do.
            Work::Archive | Work::Store | Work::Push | Work::Cache => {
                if random.below(2) == 0 {
                    site.thin.build(job.context.path(), Fate::Cached)?;
                }
            }
            Work::Prune => {
                for _ in 0..2 {
                    let other = Self::new(site, Work::Build, random)?;
                    site.thin.build(other.context.path(), Fate::Cached)?;
                }
                site.thin.build(job.context.path(), Fate::Cached)?;
            }
        }
        Ok(job)
    }

    fn new(site: &Site<'_>, work: Work, random: &mut Random) -> Result<Self> {
        let word = format!("w{:016x}", random.next());
        let (from, more) = match work {
            Work::Pull => (site.base(), "COPY --from=work /base /base\n"),
            _ => ("busybox".to_owned(), ""),
        };
        let context = Context::new(&format!(
            "FROM {from} AS work\nCOPY . /ctx\nRUN --mount=type=cache,target=/c cp -r /ctx /copy && echo {word} > /f \
             && echo {word} >> /c/log\nRUN cat /f > /g\nFROM scratch\nCOPY --from=work /copy /copy\n{more}COPY \
             --from=work /f /g /\n"
        ))?;
        let mut files = Vec::new();
        for number in 0..FILES {
            let bytes = random.bytes(FILE_BYTES);
            context.put(&format!("d{}/f{number}", number % 3), &bytes)?;
            files.push(bytes);
        }
        Ok(Self {
            work,
            word,
            files,
            context,
        })
    }

    /// Starts the work; the same again does the same.
    pub(crate) fn start(&self, site: &Site<'_>) -> JoinHandle<Result<()>> {
        let fate = match self.work {
            Work::Prune => return site.thin.start_prune(),
            Work::Build | Work::Collect | Work::Pull => Fate::Cached,
            Work::Archive => Fate::File("oci", site.path(&self.word)),
            Work::Store => Fate::Elsewhere("image", image(self.name(), false)),
            Work::Push => {
                let name = site.registry.image(&format!("crash/{}", self.word));
                Fate::Elsewhere("image", image(name, true))
            }
            Work::Cache => Fate::CacheTo(site.registry.image(&format!("cache/{}", self.word))),
        };
        site.thin.start_build(self.context.path(), fate)
    }

    /// The name that an image gets in the local store.
    pub(crate) fn name(&self) -> String {
        format!("docker.io/crash/{}:latest", self.word)
    }

    /// Builds the job's context, whatever is cached of it, and compares the files.
    pub(crate) fn check(&self, site: &Site<'_>) -> Result<()> {
        let target = tempfile::tempdir_in(site.directory.path())?;
        let fate = Fate::Directory(target.path().to_path_buf());
        site.thin.build(self.context.path(), fate)?;
        for name in ["f", "g"] {
            let text = fs::read_to_string(target.path().join(name)).context(name)?;
            ensure!(text.trim() == self.word, "{name}: {text:?}");
        }
        for (number, bytes) in self.files.iter().enumerate() {
            let name = format!("copy/d{}/f{number}", number % 3);
            let found = fs::read(target.path().join(&name)).with_context(|| name.clone())?;
            ensure!(found == *bytes, "{name} has other bytes");
        }
        if self.work == Work::Pull {
            let mut random = Random::new(0);
            for number in 0..BASE_LAYERS {
                let found = fs::read(target.path().join(format!("base/f{number}")))?;
                ensure!(found == random.bytes(BASE_BYTES), "base/f{number}");
            }
        }
        Ok(())
    }
}
