//! The `local` output: files into a directory of the client.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures::future::try_join_all;
use kiln_filesync::{MergedTree, Step, SubdirTree, Tree, mode};
use kiln_session::{Caller, SessionManager};

use crate::attrs::Attributes;
use crate::tree::{OutputTree, TreeOptions, output_tree, platform_dir};
use crate::{Error, ExportInput, ExportOutput, Exporter, progress};

/// Sends trees.
#[derive(Debug)]
pub(crate) struct LocalExporter {
    sessions: SessionManager,
    /// The client's number for this output.
    output: usize,
    options: TreeOptions,
    /// The client deletes what it isn't sent, so everything goes in one transfer.
    delete: bool,
}

impl LocalExporter {
    pub(crate) fn new(
        sessions: SessionManager,
        output: usize,
        mut attributes: Attributes,
    ) -> Result<Self, Error> {
        let delete = match attributes.remove("mode").as_deref() {
            None | Some("" | "copy") => false,
            Some("delete") => true,
            Some(value) => {
                return Err(Error::Option {
                    key: "mode".into(),
                    value: value.to_owned(),
                    reason: "invalid",
                });
            }
        };
        Ok(Self {
            sessions,
            output,
            options: TreeOptions::take(&mut attributes)?,
            delete,
        })
    }

    async fn send(
        &self,
        caller: &Caller,
        input: &ExportInput,
        label: &str,
        tree: Arc<dyn Tree>,
    ) -> Result<(), Error> {
        let progress = progress::transfer(&input.progress, label);
        caller
            .copy_dir(self.output, self.delete, tree, Some(progress))
            .await?;
        Ok(())
    }
}

/// Now, in whole seconds, as nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    i64::try_from(seconds)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
}

/// The trees of all platforms, by platform id.
pub(crate) async fn trees(
    input: &ExportInput,
    options: &TreeOptions,
) -> Result<Vec<(String, OutputTree)>, Error> {
    let now = now();
    let mut out = Vec::new();
    for platform in input.platforms()? {
        let id = platform.id;
        let attestations = input.attestations.get(&id).map_or(&[][..], Vec::as_slice);
        let result = input.find(&id)?;
        let tree = output_tree(input, options, &id, result, attestations, now).await?;
        out.push((id, tree));
    }
    Ok(out)
}

/// Refuses files that two platforms have, where all go into one directory.
fn check_overlap(trees: &[(String, OutputTree)]) -> Result<(), Error> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    let mut clash = None;
    for (id, output) in trees {
        output.tree.walk(&mut |stat| {
            if !mode::is_dir(stat.mode)
                && let Some(first) = seen.insert(stat.path.clone(), id)
            {
                clash.get_or_insert(Error::Overwrite {
                    path: stat.path,
                    first: first.to_owned(),
                    second: id.clone(),
                });
            }
            Ok(Step::Continue)
        })?;
    }
    clash.map_or(Ok(()), Err)
}

#[async_trait]
impl Exporter for LocalExporter {
    fn name(&self) -> String {
        "exporting to client directory".to_owned()
    }

    async fn export(&self, input: ExportInput) -> Result<ExportOutput, Error> {
        let caller = self.sessions.get(&input.session).await?;
        let split = self.options.split(input.is_multi());
        let mut outputs = trees(&input, &self.options).await?;
        if !split && outputs.len() > 1 {
            outputs = tokio::task::spawn_blocking(move || {
                check_overlap(&outputs)?;
                Ok::<_, Error>(outputs)
            })
            .await
            .map_err(|error| Error::Io {
                action: "compare",
                what: "the platforms".into(),
                source: std::io::Error::other(error),
            })??;
        }
        // Whatever keeps the files there lives to the end of this function.
        let mut kept = Vec::new();
        let mut labelled: Vec<(String, Arc<dyn Tree>)> = Vec::new();
        for (id, output) in outputs {
            kept.extend(output.keep);
            if split {
                let dir = platform_dir(&id, output.epoch);
                let tree = SubdirTree::new([(dir, output.tree)])?;
                labelled.push((format!("copying files {id}"), Arc::new(tree)));
            } else {
                labelled.push(("copying files".to_owned(), output.tree));
            }
        }
        if self.delete {
            let all = labelled.into_iter().map(|(_, tree)| tree).collect();
            let tree = Arc::new(MergedTree::new(all));
            self.send(&caller, &input, "copying files", tree).await?;
        } else {
            try_join_all(labelled.into_iter().map(|(label, tree)| {
                let (caller, input) = (&caller, &input);
                async move { self.send(caller, input, &label, tree).await }
            }))
            .await?;
        }
        drop(kept);
        Ok(ExportOutput::default())
    }
}
