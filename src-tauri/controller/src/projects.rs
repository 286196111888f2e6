//! Which folder a build is of, where its record doesn't say. Clients keep that on their side, one file for each build.
//!
//! ```text
//! $BUILDX_CONFIG, else $DOCKER_CONFIG/buildx, else ~/.docker/buildx
//!   refs/BUILDER/NODE/REF    {"LocalPath": …, "DockerfilePath": …}    buildx's
//! STATE/refs/REF             {"LocalPath": …, "Request": {…}}         of builds of the app
//! ```
//! Invariants: buildx's are only read; what isn't there or isn't understood leaves a build as its record tells it; a note
//! has the sources of secrets, and never a value.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use kiln_client::DockerConfig;
use kiln_config::HostPaths;
use serde::{Deserialize, Serialize};

use crate::builds::name_of;
use crate::view::{BuildRequest, BuildSummary};

/// What was noted of a build.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Local {
    /// Its folder.
    #[serde(rename = "LocalPath")]
    pub(crate) folder: String,
    /// Its Dockerfile.
    #[serde(rename = "DockerfilePath")]
    pub(crate) dockerfile: String,
    /// All that it began with; of this app's builds alone.
    #[serde(rename = "Request")]
    pub(crate) request: Option<BuildRequest>,
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

    /// Notes what a build of the app begins with.
    pub(crate) fn keep(&self, reference: &str, request: &BuildRequest) -> io::Result<()> {
        if !is_name(reference) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let local = Local {
            folder: match Path::new(&request.context).is_dir() {
                true => std::path::absolute(&request.context)?.display().to_string(),
                false => String::new(),
            },
            dockerfile: String::new(),
            request: Some(request.clone()),
        };
        fs::create_dir_all(&self.own)?;
        // Build arguments are nobody else's business.
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(self.own.join(reference))?;
        file.write_all(&serde_json::to_vec(&local)?)
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
        let Some(Local { folder, .. }) = self.local(&build.r#ref) else {
            return;
        };
        if !Path::new(&folder).is_absolute() {
            return;
        }
        build.name = name_of(&folder, &build.dockerfile);
        build.project.clone_from(&folder);
        build.context = folder;
    }

    /// What was noted of a build.
    pub(crate) fn local(&self, reference: &str) -> Option<Local> {
        if !is_name(reference) {
            return None;
        }
        let below = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
        let builders = self.buildx.iter().flat_map(|refs| below(refs));
        let nodes = builders.flat_map(|builder| below(&builder.path()));
        std::iter::once(self.own.clone())
            .chain(nodes.map(|node| node.path()))
            .filter_map(|directory| fs::read(directory.join(reference)).ok())
            .find_map(|text| serde_json::from_slice::<Local>(&text).ok())
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
        let folder = directory.path().join("src/own");
        std::fs::create_dir_all(&folder).unwrap();
        let own = folder.display().to_string();
        let request = BuildRequest {
            context: own.clone(),
            ..BuildRequest::default()
        };
        notes.keep("r3", &request).unwrap();
        notes.keep("r4", &request).unwrap();
        notes.forget("r4");
        notes.keep("../r4", &request).unwrap_err();
        assert_eq!(notes.local("r3").unwrap().request, Some(request));
        let node = directory.path().join("refs/kiln/kiln0");
        std::fs::create_dir_all(&node).unwrap();
        std::fs::write(node.join("r1"), r#"{"LocalPath":"/src/shop"}"#).unwrap();
        std::fs::write(node.join("r2"), "{").unwrap();
        for (reference, context, name, project) in [
            ("r1", "", "shop", "/src/shop"),
            ("r1", "https://example.com/x.git", "Dockerfile", "p"),
            ("r2", "", "Dockerfile", "p"),
            ("r3", "", "own", &own),
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
