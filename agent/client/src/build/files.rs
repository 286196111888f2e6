//! The context, the Dockerfile and further contexts: options of the frontend, and what the session serves for them.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{BuildError, BuildRequest, ContextSource, DockerfileSource, Prepared};
use super::{context, is_remote, layout, repository};
use crate::client::random_id;

impl BuildRequest {
    /// The context and the Dockerfile.
    pub(super) fn put_context(&mut self, prepared: &mut Prepared) -> Result<(), BuildError> {
        let (options, attachments) = (&mut prepared.options, &mut prepared.attachments);
        let attrs = &mut options.frontend_attrs;
        // The directory that the Dockerfile is in, and its name there.
        let mut file: Option<(PathBuf, String)> = None;
        let mut name = "Dockerfile".to_owned();
        match std::mem::take(&mut self.context) {
            ContextSource::Empty => {
                let empty = temporary()?;
                attachments
                    .dirs
                    .insert("context".into(), empty.path().to_owned());
                prepared.temporary.push(empty);
            }
            ContextSource::Directory(path) => {
                if !path.is_dir() {
                    return Err(BuildError::NoContext { path });
                }
                attachments.shared_key = shared_key(&path);
                match &self.dockerfile {
                    DockerfileSource::Path(dockerfile) => {
                        file = Some(split(dockerfile)?);
                    }
                    _ => file = Some((path.clone(), context::default_name(&path))),
                }
                repository::describe(&path, attrs);
                attachments.dirs.insert("context".into(), path);
            }
            ContextSource::Url(url) => {
                if url.contains('?') {
                    attrs.insert(
                        "frontend.caps".into(),
                        "moby.buildkit.frontend.gitquerystring".into(),
                    );
                }
                attrs.insert("context".into(), url);
                file_in_context(&self.dockerfile, &mut name, &mut file)?;
            }
            ContextSource::Archive(stream) => {
                let id = random_id().map_err(|error| {
                    BuildError::invalid("build context", "-", error.to_string())
                })?;
                attrs.insert("context".into(), format!("http://buildkit-session/{id}"));
                attachments.uploads.insert(id, stream);
                file_in_context(&self.dockerfile, &mut name, &mut file)?;
            }
        }
        match &self.dockerfile {
            DockerfileSource::Text(text) => {
                let directory = temporary()?;
                let path = directory.path().join("Dockerfile");
                std::fs::write(&path, text).map_err(BuildError::io("write", path))?;
                file = Some((directory.path().to_owned(), "Dockerfile".to_owned()));
                attrs.insert("dockerfilekey".into(), "dockerfile".into());
                prepared.temporary.push(directory);
            }
            DockerfileSource::InContext | DockerfileSource::Path(_) => {}
        }
        if let Some((directory, found)) = file {
            let path = directory.join(&found);
            if !path.is_file() {
                return Err(BuildError::NoDockerfile { path });
            }
            name = found;
            if !attachments.dirs.contains_key("context") {
                attrs.insert("dockerfilekey".into(), "dockerfile".into());
            }
            attachments.dirs.insert("dockerfile".into(), directory);
        }
        attrs.insert("filename".into(), name);
        Ok(())
    }

    /// Contexts by name.
    pub(super) fn put_contexts(&mut self, prepared: &mut Prepared) -> Result<(), BuildError> {
        let attrs = &mut prepared.options.frontend_attrs;
        let attachments = &mut prepared.attachments;
        if !self.contexts.is_empty() {
            let caps = attrs.entry("frontend.caps".into()).or_default();
            if !caps.is_empty() {
                caps.push(',');
            }
            caps.push_str("moby.buildkit.frontend.contexts+forward");
        }
        for (name, source) in std::mem::take(&mut self.contexts) {
            let key = format!("context:{name}");
            if is_remote(&source) || source.starts_with("docker-image://") {
                attrs.insert(key, source);
            } else if let Some(layout) = source.strip_prefix("oci-layout://") {
                let (path, tag, digest) = layout_reference(layout);
                let digest = match digest {
                    Some(digest) => digest.to_owned(),
                    None => layout::find(Path::new(path), tag)?
                        .ok_or_else(|| BuildError::Layout {
                            path: path.into(),
                            reason: "it has no manifest of that name".to_owned(),
                        })?
                        .digest
                        .to_string(),
                };
                let id = random_id().map_err(|error| {
                    BuildError::invalid("build context", &source, error.to_string())
                })?;
                attrs.insert(key, format!("oci-layout://{id}@{digest}"));
                attachments.stores.insert(format!("oci:{id}"), path.into());
            } else {
                let path = PathBuf::from(&source);
                if !path.is_dir() {
                    return Err(BuildError::NoContext { path });
                }
                let directory = match name.as_str() {
                    "context" | "dockerfile" => format!("_{name}"),
                    _ => name.clone(),
                };
                attrs.insert(key, format!("local:{directory}"));
                attrs.insert(format!("sharedkey:localdir:{name}"), shared_key(&path));
                attachments.dirs.insert(directory, path);
            }
        }
        Ok(())
    }
}

pub(super) fn temporary() -> Result<TempDir, BuildError> {
    let prefix = "kiln-build-";
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .map_err(BuildError::io("create", std::env::temp_dir()))
}

/// A Dockerfile's directory and name.
fn split(path: &Path) -> Result<(PathBuf, String), BuildError> {
    let missing = || BuildError::NoDockerfile {
        path: path.to_owned(),
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(missing)?.to_owned();
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if name == "Dockerfile" {
        let found = context::default_name(&directory);
        return Ok((directory, found));
    }
    Ok((directory, name))
}

/// A relative path is in the context; an absolute one is on this side.
fn file_in_context(
    source: &DockerfileSource,
    name: &mut String,
    file: &mut Option<(PathBuf, String)>,
) -> Result<(), BuildError> {
    if let DockerfileSource::Path(path) = source {
        if path.is_absolute() {
            *file = Some(split(path)?);
        } else {
            *name = path.display().to_string();
        }
    }
    Ok(())
}

/// The name of the directory: builds of it elsewhere send only what differs.
fn shared_key(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(
        || "/".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// `PATH[:TAG][@DIGEST]`.
fn layout_reference(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !tag.is_empty() => (path, Some(tag), digest),
        _ => (rest, None, digest),
    }
}
