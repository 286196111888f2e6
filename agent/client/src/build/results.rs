//! Exporters, and where their bytes go.

use kiln_oci::Reference;

use super::{BuildError, BuildRequest, BuilderKind, Destination, Kept, OutputSpec, Prepared};
use crate::Output;

impl BuildRequest {
    /// Exporters, and where their bytes go.
    pub(super) fn put_outputs(
        &mut self,
        builder: BuilderKind,
        prepared: &mut Prepared,
    ) -> Result<(), BuildError> {
        let names = self
            .tags
            .iter()
            .map(|tag| match tag.parse::<Reference>() {
                Ok(reference) => Ok(reference.with_default_tag().to_string()),
                Err(error) => Err(BuildError::invalid("tag", tag, error.to_string())),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut outputs = std::mem::take(&mut self.outputs);
        if outputs.is_empty() && (!names.is_empty() || builder == BuilderKind::Docker) {
            outputs.push(OutputSpec::new("image", []));
        }
        let mut stdout_taken = false;
        for mut output in outputs {
            if output.kind == "cacheonly" {
                continue;
            }
            if output.takes_names() && !names.is_empty() {
                output.attributes.insert("name".into(), names.join(","));
            }
            let named = output.attributes.get("name").map(|names| {
                let names = names.split(',').filter(|name| !name.is_empty());
                names.map(str::to_owned).collect::<Vec<_>>()
            });
            let named = named.unwrap_or_default();
            if output.pushes() && named.is_empty() {
                return Err(BuildError::Needs {
                    what: "a push",
                    needed: "a name: -t REGISTRY/NAME:TAG",
                });
            }
            if output.takes_names() {
                output.attributes.extend(self.annotations.iter().cloned());
            }
            let mut destination = output.destination()?;
            if builder == BuilderKind::Docker
                && (output.kind == "image" || destination == Destination::Docker)
            {
                "moby".clone_into(&mut output.kind);
                destination = Destination::Daemon;
            }
            let (target, kept) = match destination {
                Destination::Daemon if output.pushes() => (Output::None, Kept::Registry(named)),
                Destination::Daemon => (Output::None, Kept::Store(named)),
                Destination::Directory { path, delete } => (
                    Output::Directory {
                        path: path.clone(),
                        delete,
                    },
                    Kept::Path(path),
                ),
                Destination::File(path) => (Output::File(path.clone()), Kept::Path(path)),
                Destination::Layout(path) => {
                    std::fs::create_dir_all(&path).map_err(BuildError::io("create", &path))?;
                    let stores = &mut prepared.attachments.stores;
                    if stores.insert("export".into(), path.clone()).is_some() {
                        return Err(BuildError::Conflict {
                            first: "an OCI layout",
                            second: "another one",
                            reason: "a build writes one layout at most",
                        });
                    }
                    prepared.layouts.push((path.clone(), named));
                    (Output::None, Kept::Path(path))
                }
                Destination::Stdout => {
                    if std::mem::replace(&mut stdout_taken, true) {
                        return Err(BuildError::Conflict {
                            first: "an output to standard output",
                            second: "another one",
                            reason: "there is only one standard output",
                        });
                    }
                    (Output::None, Kept::Stdout)
                }
                Destination::Docker => (Output::None, Kept::Docker(named)),
            };
            prepared.attachments.outputs.push(target);
            prepared.kept.push(kept);
            prepared
                .options
                .exporters
                .push((output.kind, output.attributes));
        }
        if prepared.kept.is_empty() {
            prepared.kept.push(Kept::CacheOnly);
        }
        Ok(())
    }
}
