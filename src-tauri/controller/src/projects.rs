//! Which folder a build is of, where its record doesn't say. Clients keep that on their side, one file for each build.
//!
//! ```text
//! $BUILDX_CONFIG, else $DOCKER_CONFIG/buildx, else ~/.docker/buildx
//!   refs/BUILDER/NODE/REF    {"LocalPath": …, "DockerfilePath": …}    buildx's
//! STATE/refs/REF             {"LocalPath": …}                         of builds of the app
//! ```
//! Invariant: buildx's are only read; what isn't there or isn't understood leaves a build as its record tells it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use kiln_client::DockerConfig;
use kiln_config::HostPaths;
use serde::{Deserialize, Serialize};

use crate::builds::name_of;
use crate::view::BuildSummary;

#[derive(Serialize, Deserialize)]
struct Local {
    #[serde(rename = "LocalPath", default)]
    folder: String,
}

/// Where the notes are.
#[derive(Debug)]
pub(crate) struct Notes {
    buildx: Option<PathBuf>,
    own: PathBuf,
}

impl Notes {
    pub(crate) fn new(paths: &HostPaths) -> Self {
        let named = std::env::var_os("BUILDX_CONFIG").filter(|path| !path.is_empty());
        let buildx = named
            .map(PathBuf::from)
            .or_else(|| Some(DockerConfig::default_dir()?.join("buildx")));
        Self {
            buildx: buildx.map(|directory| directory.join("refs")),
            own: paths.state.join("refs"),
        }
    }

    /// Notes the folder of a build of the app.
    pub(crate) fn keep(&self, reference: &str, folder: &Path) -> io::Result<()> {
        if !is_name(reference) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let local = Local {
            folder: std::path::absolute(folder)?.display().to_string(),
        };
        fs::create_dir_all(&self.own)?;
        fs::write(self.own.join(reference), serde_json::to_vec(&local)?)
    }

    /// Forgets a build that was deleted.
    pub(crate) fn forget(&self, reference: &str) {
        if is_name(reference) {
            // Most builds have no note.
            let _ = fs::remove_file(self.own.join(reference));
        }
    }

    /// Adds the folder to a build whose record has none.
    pub(crate) fn place(&self, build: &mut BuildSummary) {
        if !build.context.is_empty() {
            return;
        }
        let Some(folder) = self.folder(&build.r#ref) else {
            return;
        };
        build.name = name_of(&folder, &build.dockerfile);
        build.project.clone_from(&folder);
        build.context = folder;
    }

    fn folder(&self, reference: &str) -> Option<String> {
        if !is_name(reference) {
            return None;
        }
        let below = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
        let builders = self.buildx.iter().flat_map(|refs| below(refs));
        let nodes = builders.flat_map(|builder| below(&builder.path()));
        std::iter::once(self.own.clone())
            .chain(nodes.map(|node| node.path()))
            .filter_map(|directory| fs::read(directory.join(reference)).ok())
            .filter_map(|text| serde_json::from_slice::<Local>(&text).ok())
            .map(|local| local.folder)
            .find(|folder| Path::new(folder).is_absolute())
    }
}

/// What a client sends as a name must stay one here.
pub(crate) fn is_name(reference: &str) -> bool {
    !reference.is_empty() && !reference.contains(['/', '\0']) && !reference.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_a_folder_gets_the_one_that_was_noted() {
        let directory = tempfile::tempdir().unwrap();
        let notes = Notes {
            buildx: Some(directory.path().join("refs")),
            own: directory.path().join("own"),
        };
        notes.keep("r3", Path::new("/src/own")).unwrap();
        notes.keep("r4", Path::new("/src/own")).unwrap();
        notes.forget("r4");
        notes.keep("../r4", Path::new("/src/own")).unwrap_err();
        let node = directory.path().join("refs/kiln/kiln0");
        std::fs::create_dir_all(&node).unwrap();
        std::fs::write(node.join("r1"), r#"{"LocalPath":"/src/shop"}"#).unwrap();
        std::fs::write(node.join("r2"), "{").unwrap();
        for (reference, context, name, project) in [
            ("r1", "", "shop", "/src/shop"),
            ("r1", "https://example.com/x.git", "Dockerfile", "p"),
            ("r2", "", "Dockerfile", "p"),
            ("r3", "", "own", "/src/own"),
            ("r4", "", "Dockerfile", "p"),
            ("../r1", "", "Dockerfile", "p"),
        ] {
            let mut build = BuildSummary {
                r#ref: reference.into(),
                context: context.into(),
                name: "Dockerfile".into(),
                project: "p".into(),
                ..BuildSummary::default()
            };
            notes.place(&mut build);
            assert_eq!(
                (build.name.as_str(), build.project.as_str()),
                (name, project)
            );
        }
    }
}
