//! A result as a tree of files, for the `local` and `tar` outputs.

use std::io::Read as _;
use std::sync::Arc;

use kiln_cache::{OpResult, RootPath};
use kiln_filesync::{DirTree, MapStat, MemoryTree, MergedTree, Stat, Step, Tree, mode};
use kiln_oci::{Digester, Timestamp, go_json};

use crate::attestation::{Attestation, StatementSubject, statements, unbundle};
use crate::attrs::{Attributes, Epoch, boolean};
use crate::{Error, ExportInput};

/// Options of both outputs.
#[derive(Debug, Clone, Default)]
pub(crate) struct TreeOptions {
    pub(crate) epoch: Epoch,
    attestation_prefix: String,
    platform_split: Option<bool>,
}

impl TreeOptions {
    pub(crate) fn take(attributes: &mut Attributes) -> Result<Self, Error> {
        let split = match attributes.remove("platform-split") {
            None => None,
            Some(value) => Some(boolean("platform-split", &value, false)?),
        };
        Ok(Self {
            epoch: Epoch::take(attributes)?,
            attestation_prefix: attributes.remove("attestation-prefix").unwrap_or_default(),
            platform_split: split,
        })
    }

    /// Whether each platform goes into a directory of its own.
    pub(crate) fn split(&self, multi: bool) -> bool {
        self.platform_split.unwrap_or(multi)
    }
}

/// A tree, and what keeps its files there.
pub(crate) struct OutputTree {
    pub(crate) tree: Arc<dyn Tree>,
    pub(crate) keep: Option<RootPath>,
    pub(crate) epoch: Option<Timestamp>,
}

/// The files of one platform, with its attestations as further files.
pub(crate) async fn output_tree(
    input: &ExportInput,
    options: &TreeOptions,
    id: &str,
    result: OpResult,
    attestations: &[Attestation],
    now: i64,
) -> Result<OutputTree, Error> {
    let epoch = options.epoch.resolve(input, Some(id))?;
    let keep = match &result {
        None => None,
        Some(state) => Some(state.root_path(&input.sessions, &input.progress).await?),
    };
    let files: Arc<dyn Tree> = match &keep {
        None => Arc::new(MemoryTree::default()),
        Some(root) => {
            let tree = DirTree::new(root.path())?;
            Arc::new(match epoch {
                None => tree,
                Some(epoch) => tree.mapped(clamp(nanos(epoch))),
            })
        }
    };
    let wanted: Vec<Attestation> = attestations
        .iter()
        .filter(|attestation| !attestation.inline_only())
        .cloned()
        .collect();
    let wanted = unbundle(wanted, &input.sessions, &input.progress).await?;
    if wanted.is_empty() {
        return Ok(OutputTree {
            tree: files,
            keep,
            epoch,
        });
    }
    let hashed = Arc::clone(&files);
    let subjects = tokio::task::spawn_blocking(move || subjects(&*hashed))
        .await
        .map_err(|error| Error::Io {
            action: "hash",
            what: "the result".into(),
            source: std::io::Error::other(error),
        })??;
    let suffix = (input.is_multi() && !options.split(true)).then(|| id.replace('/', "_"));
    let mut memory = MemoryTree::default();
    let mut names = std::collections::BTreeSet::new();
    for statement in statements(&wanted, &subjects)? {
        let bytes = go_json::to_vec_indented(&statement).map_err(|source| Error::Json {
            what: "an attestation",
            source,
        })?;
        let mut name = format!("{}{}", options.attestation_prefix, statement.file_name);
        if let Some(suffix) = &suffix {
            name = match name.rsplit_once('.') {
                Some((stem, extension)) => format!("{stem}.{suffix}.{extension}"),
                None => format!("{name}.{suffix}"),
            };
        }
        if !names.insert(name.clone()) {
            return Err(Error::Result(format!(
                "duplicate attestation path name {name}"
            )));
        }
        let stat = Stat {
            path: name,
            mode: 0o600,
            mod_time: epoch.map_or(now, nanos),
            ..Stat::default()
        };
        memory.add(stat, bytes.into());
    }
    Ok(OutputTree {
        tree: Arc::new(MergedTree::new(vec![files, Arc::new(memory)])),
        keep,
        epoch,
    })
}

/// The directory of a platform.
pub(crate) fn platform_dir(id: &str, epoch: Option<Timestamp>) -> Stat {
    Stat {
        path: id.replace('/', "_"),
        mode: mode::DIR | 0o755,
        mod_time: epoch.map_or(0, nanos),
        ..Stat::default()
    }
}

/// Nanoseconds since 1970.
pub(crate) fn nanos(time: Timestamp) -> i64 {
    time.unix_seconds()
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(time.nanosecond()))
}

fn clamp(time: i64) -> MapStat {
    Arc::new(move |_, stat| {
        stat.mod_time = time;
        true
    })
}

/// Every regular file with its digest.
fn subjects(tree: &dyn Tree) -> Result<Vec<StatementSubject>, Error> {
    let mut paths = Vec::new();
    tree.walk(&mut |stat| {
        if mode::has_data(stat.mode) {
            paths.push(stat.path);
        }
        Ok(Step::Continue)
    })?;
    let mut buffer = vec![0; 256 << 10];
    let mut out = Vec::with_capacity(paths.len());
    for path in paths {
        let failed = |source| Error::Io {
            action: "hash",
            what: path.clone(),
            source,
        };
        let mut file = tree.open(&path).map_err(failed)?;
        let mut digest = Digester::new();
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => digest.update(&buffer[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let digest = digest.finish();
        out.push(StatementSubject::new(path, &digest));
    }
    Ok(out)
}
