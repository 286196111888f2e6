//! Records of builds as files: `.dockerbuild`, written for others and taken in from them.
//!
//! ```text
//! STATE/imported/REF.dockerbuild    what was taken in, as it came
//! ```
//! A record that was taken in is shown like any other, from its file: whatever engine is in use, and also while the
//! machine is off.
//!
//! Invariants: the engine's own record of a build goes before a file's; what a file says is shown and never run.

use std::path::{Path, PathBuf};

use kiln_client::{Dockerbuild, LocalState};
use kiln_config::HostPaths;
use kiln_proto::google::rpc;
use kiln_proto::moby::buildkit::v1 as control;
use prost::Message as _;

use crate::builds::{summary, update};
use crate::projects::is_name;
use crate::view::{BuildSummary, BuildUpdate, BuildsChange};
use crate::{Controller, Failure, provenance};

const EXTENSION: &str = "dockerbuild";

/// The records that were taken in.
#[derive(Debug)]
pub(crate) struct Imported {
    directory: PathBuf,
}

impl Imported {
    pub(crate) fn new(paths: &HostPaths) -> Self {
        Self {
            directory: paths.state.join("imported"),
        }
    }

    fn file(&self, reference: &str) -> Option<PathBuf> {
        is_name(reference).then(|| self.directory.join(format!("{reference}.{EXTENSION}")))
    }

    /// One of them.
    fn read(&self, reference: &str) -> Option<Dockerbuild> {
        let bytes = std::fs::read(self.file(reference)?).ok()?;
        Dockerbuild::read(&bytes).ok()
    }

    /// All of them, as lists show them.
    pub(crate) fn summaries(&self) -> Vec<BuildSummary> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten();
        entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let reference = name.strip_suffix(&format!(".{EXTENSION}"))?.to_owned();
                Some(of_file(&self.read(&reference)?))
            })
            .collect()
    }

    /// Keeps a file; its record must be one.
    fn keep(&self, bytes: &[u8]) -> Result<BuildSummary, Failure> {
        let refused = |reason: String| {
            Failure::user(
                format!("The file holds no build’s record: {reason}."),
                "Choose one that “docker buildx history export” or Kiln wrote.",
            )
        };
        let read = Dockerbuild::read(bytes).map_err(|error| refused(error.to_string()))?;
        let reference = &read.record.r#ref;
        let file = self
            .file(reference)
            .ok_or_else(|| refused(format!("{reference:?} is no build’s name")))?;
        let write = || {
            std::fs::create_dir_all(&self.directory)?;
            let new = file.with_extension("new");
            std::fs::write(&new, bytes)?;
            std::fs::rename(&new, &file)
        };
        write().map_err(|error: std::io::Error| {
            Failure::user(
                format!("The record can’t be kept: {error}."),
                file.display().to_string(),
            )
        })?;
        Ok(of_file(&read))
    }

    /// Whether there was one.
    pub(crate) fn forget(&self, reference: &str) -> bool {
        self.file(reference)
            .is_some_and(|file| std::fs::remove_file(file).is_ok())
    }
}

fn of_file(read: &Dockerbuild) -> BuildSummary {
    let mut summary = summary(&read.record);
    summary.imported = true;
    if let Some(local) = &read.local
        && summary.context.is_empty()
    {
        summary.name = crate::builds::name_of(&local.local_path, &summary.dockerfile);
        summary.project.clone_from(&local.local_path);
        summary.context.clone_from(&local.local_path);
    }
    summary
}

/// The record with its whole error, and its provenance.
fn of_blobs(read: &Dockerbuild) -> (control::BuildHistoryRecord, Option<Vec<u8>>) {
    let mut record = read.record.clone();
    if let Some(whole) = &record.external_error
        && let Some(bytes) = read.blob(&whole.digest)
        && let Ok(status) = rpc::Status::decode(bytes.as_ref())
    {
        record.error = Some(status);
    }
    let statement = provenance::digest(&record).and_then(|digest| read.blob(&digest));
    let statement = statement.map(|bytes| bytes.as_ref().to_vec());
    (record, statement)
}

impl Controller {
    /// Takes in a file; the reference of its build.
    pub async fn import_build(&self, path: String) -> Result<String, Failure> {
        let bytes = tokio::fs::read(&path)
            .await
            .map_err(|error| Failure::user(format!("{path} can’t be read: {error}."), ""))?;
        let summary = self.imported().keep(&bytes)?;
        let reference = summary.r#ref.clone();
        // The engine's own record tells more.
        if self.add_imported(summary.clone()) {
            self.tell_builds(BuildsChange {
                changed: vec![summary],
                ..BuildsChange::default()
            });
        }
        Ok(reference)
    }

    /// Writes a build's record to a file.
    pub async fn export_build(&self, reference: &str, path: String) -> Result<(), Failure> {
        let target = Path::new(&path);
        if !target.is_absolute() {
            return Err(Failure::user(
                "Give the file’s whole path.",
                "It begins with a slash, and ends with .dockerbuild.",
            ));
        }
        let kept = match self.is_imported(reference) {
            true => self.imported().file(reference),
            false => None,
        };
        let bytes = match kept {
            Some(file) => tokio::fs::read(file)
                .await
                .map_err(|error| Failure::internal(&error))?,
            None => {
                let known = self.known_builds();
                let local = known.into_iter().find(|build| build.r#ref == reference);
                let local = local
                    .filter(|build| Path::new(&build.context).is_absolute())
                    .map(|build| LocalState {
                        target: build.target,
                        dockerfile_path: Path::new(&build.context)
                            .join(&build.dockerfile)
                            .display()
                            .to_string(),
                        local_path: build.context,
                    });
                self.engine().await?.export_record(reference, local).await?
            }
        };
        tokio::fs::write(target, bytes)
            .await
            .map_err(|error| Failure::user(format!("{path} can’t be written: {error}."), ""))
    }

    /// The record and the provenance of a build that was taken in; none where it isn't one.
    pub(crate) fn imported_record(
        &self,
        reference: &str,
    ) -> Option<(control::BuildHistoryRecord, Option<Vec<u8>>)> {
        let known = self.is_imported(reference);
        known
            .then(|| self.imported().read(reference))
            .flatten()
            .map(|read| of_blobs(&read))
    }

    /// Its progress.
    pub(crate) fn imported_log(&self, reference: &str) -> Option<Vec<BuildUpdate>> {
        let known = self.is_imported(reference);
        let read = known.then(|| self.imported().read(reference)).flatten()?;
        Some(read.log().into_iter().map(update).collect())
    }

    /// Forgets it; whether it was one.
    pub(crate) fn forget_imported(&self, reference: &str) -> bool {
        let was = self.is_imported(reference) && self.imported().forget(reference);
        if was {
            self.remove_known(reference);
            self.tell_builds(BuildsChange {
                removed: vec![reference.into()],
                ..BuildsChange::default()
            });
        }
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_client::archive::Archive;

    /// A file as buildx writes one: a failed build with a log of one step.
    fn file(reference: &str) -> Vec<u8> {
        let message = control::StatusResponse {
            vertexes: vec![control::Vertex {
                name: "[2/2] RUN false".into(),
                error: "exit code: 1".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut log = u32::try_from(message.encoded_len())
            .unwrap()
            .to_le_bytes()
            .to_vec();
        log.extend(message.encode_to_vec());
        let mut archive = Archive::default();
        let mut add = |data: &[u8]| {
            let digest = kiln_oci::Digest::of(data).to_string();
            let path = format!("blobs/{}", digest.replace(':', "/"));
            archive.file(&path, data).unwrap();
            digest
        };
        let log = add(&log);
        let record = serde_json::json!({
            "Ref": reference, "FrontendAttrs": {"filename": "Dockerfile"}, "CreatedAt": {"seconds": 5},
            "CompletedAt": {"seconds": 7}, "error": {"code": 2, "message": "exit code: 1"}, "logs": {"digest": log},
            "localState": {"LocalPath": "/home/bob/shop", "DockerfilePath": "/home/bob/shop/Dockerfile"},
        });
        let record = add(record.to_string().as_bytes());
        let manifest = serde_json::json!({
            "config": {"mediaType": "application/vnd.buildkit.historyrecord.v0", "digest": record}, "layers": [],
        });
        let manifest = add(manifest.to_string().as_bytes());
        let index = serde_json::json!({"manifests": [{"digest": manifest}]});
        archive
            .file("index.json", index.to_string().as_bytes())
            .unwrap();
        archive.finish().unwrap()
    }

    #[tokio::test]
    async fn a_record_of_somebody_elses_build_is_shown_while_the_machine_is_off() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let paths = HostPaths {
            runtime: at("r"),
            state: at("s"),
            config: at("c"),
        };
        let controller = Controller::new(paths.clone());
        let mut changes = controller.builds();
        std::fs::write(at("x.dockerbuild"), file("ref1")).unwrap();
        let path = at("x.dockerbuild").display().to_string();
        assert_eq!(controller.import_build(path).await.unwrap(), "ref1");
        assert_eq!(changes.try_recv().unwrap().changed[0].name, "shop");
        let detail = controller.build_detail("ref1").await.unwrap();
        assert!(detail.summary.imported);
        assert_eq!(detail.failure.unwrap().exit_code, Some(1));
        let mut steps = Vec::new();
        let watched = controller.watch_build("ref1", true, |update| {
            steps.extend(update.vertices);
            true
        });
        watched.await.unwrap();
        assert_eq!(steps[0].name, "[2/2] RUN false");
        assert_eq!(controller.explain_build("ref1").await.unwrap(), []);

        // It is there after a restart, goes out as it came, and goes away.
        let again = Controller::new(paths);
        assert_eq!(again.known_builds()[0].status, "failed");
        let out = at("out.dockerbuild").display().to_string();
        again.export_build("ref1", out).await.unwrap();
        assert_eq!(std::fs::read(at("out.dockerbuild")).unwrap(), file("ref1"));
        again.delete_builds(&["ref1".into()]).await.unwrap();
        assert!(again.known_builds().is_empty());
        assert_eq!(
            again
                .export_build("ref1", "x".into())
                .await
                .unwrap_err()
                .kind,
            "user"
        );
    }

    #[tokio::test]
    async fn a_file_that_is_none_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let imported = Imported {
            directory: directory.path().join("imported"),
        };
        for bytes in [b"not a file of this kind".to_vec(), file("../up"), file("")] {
            assert_eq!(imported.keep(&bytes).unwrap_err().kind, "user");
        }
        assert!(imported.summaries().is_empty());
    }
}
