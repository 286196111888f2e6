//! Named contexts: `context:NAME=docker-image://…`, which stand for stages and images.

use std::collections::BTreeMap;

use base64::Engine as _;
use kiln_llb::{Edge, VertexOptions};
use kiln_oci::{ImageConfig, Platform, Reference};
use kiln_proto::pb;

use super::context::{ContextError, Contexts, LocalSource};
use super::git::{GitOptions, git_source};
use super::image::to_pb;
use super::parse_git;

const MAX_RECURSION: usize = 10;

/// A context that a client gave a name.
#[derive(Debug, Clone)]
pub(crate) struct NamedContext {
    /// `scheme:…`
    pub input: String,
    /// The name in its short form.
    pub name: String,
    /// The name, and the platform where the client gave one for each.
    pub full_name: String,
    pub platform: Option<Platform>,
}

/// Where a file system starts.
#[derive(Debug)]
pub(crate) enum Base {
    /// A source, or the empty file system.
    Edge(Option<Edge>),
    /// A client's directory, of which the needed paths aren't known yet.
    Local(LocalBase),
}

/// A client's directory under another name.
#[derive(Debug)]
pub(crate) struct LocalBase {
    name: String,
    full_name: String,
    shared_key: String,
    exclude: Vec<String>,
}

impl LocalBase {
    pub(crate) fn edge(&self, contexts: &Contexts, follow: Vec<String>) -> Edge {
        contexts.local(LocalSource {
            name: &self.name,
            shared_key: format!("context:{}-{}", self.full_name, self.shared_key),
            title: format!("[context {}] load from client", self.full_name),
            follow,
            exclude: &self.exclude,
            no_differ: false,
        })
    }
}

impl Contexts {
    /// The context that stands for a name, if the client gave one.
    pub(crate) fn named(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Option<NamedContext>, ContextError> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return Ok(None);
        }
        if !self
            .options
            .raw
            .keys()
            .any(|key| key.starts_with("context:"))
        {
            return Ok(None);
        }
        let reference: Reference = name.parse().map_err(|source| ContextError::Name {
            name: name.to_owned(),
            source,
        })?;
        let familiar = reference.familiar();
        let short = familiar.strip_suffix(":latest").unwrap_or(&familiar);
        let wanted = platform
            .cloned()
            .unwrap_or_else(Platform::host)
            .normalized();
        let with_platform = format!("{short}::{}", wanted.format_all());
        for full_name in [with_platform, short.to_owned()] {
            if let Some(input) = self.options.raw.get(&format!("context:{full_name}")) {
                return Ok(Some(NamedContext {
                    input: input.clone(),
                    name: short.to_owned(),
                    full_name,
                    platform: platform.cloned(),
                }));
            }
        }
        Ok(None)
    }

    /// Finds out what a named context is.
    pub(crate) async fn load(
        &self,
        named: &NamedContext,
    ) -> Result<(Base, Option<ImageConfig>), ContextError> {
        let mut input = named.input.clone();
        for _ in 0..=MAX_RECURSION {
            let Some((scheme, rest)) = input.split_once(':') else {
                return Err(ContextError::Specifier {
                    specifier: input,
                    name: named.full_name.clone(),
                });
            };
            let scheme = if scheme.starts_with("git@") {
                "git"
            } else {
                scheme
            };
            let body = rest.strip_prefix("//").unwrap_or(rest);
            return match scheme {
                "docker-image" => match self.load_image(named, body).await? {
                    Ok(loaded) => Ok(loaded),
                    // A source policy put something else in the image's place.
                    Err(other) => {
                        input = other;
                        continue;
                    }
                },
                "git" => Ok((Base::Edge(Some(load_git(&input)?)), None)),
                "http" | "https" => Ok((Base::Edge(Some(load_http(named, &input)?)), None)),
                "oci-layout" => self.load_layout(named, body).await,
                "local" => self.load_local(named, rest).await,
                "input" => self.load_input(named, rest),
                other => Err(ContextError::Scheme {
                    scheme: other.to_owned(),
                    name: named.full_name.clone(),
                }),
            };
        }
        Err(ContextError::Recursion(input))
    }

    async fn load_image(
        &self,
        named: &NamedContext,
        name: &str,
    ) -> Result<Result<(Base, Option<ImageConfig>), String>, ContextError> {
        if name == "scratch" {
            return Ok(Ok((Base::Edge(None), None)));
        }
        let reference: Reference = name.parse().map_err(|source| ContextError::Name {
            name: name.to_owned(),
            source,
        })?;
        let reference = reference.with_default_tag();
        let source = image_source(&reference.to_string());
        let log_name = format!("[context {}] load metadata for {name}", named.full_name);
        let platform = named.platform.as_ref();
        let mode = self.options.resolve_mode.name();
        let resolved = self.images.resolve(source, platform, mode, log_name).await;
        let resolved = resolved.map_err(|source| ContextError::Lookup {
            name: reference.to_string(),
            source,
        })?;
        if !resolved.identifier.starts_with("docker-image://") {
            return Ok(Err(resolved.identifier.replacen("://", ":", 1)));
        }
        let config = parse_config(&resolved.config, &named.full_name)?;
        let mut options = VertexOptions::named(format!("[context {}] {name}", named.full_name));
        options.caps.insert("source.image".to_owned());
        let platform = named.platform.clone().unwrap_or_else(Platform::host);
        let source = image_source(&resolved.reference);
        let edge = kiln_llb::source(source, Some(&to_pb(&platform)), options);
        Ok(Ok((Base::Edge(Some(edge)), Some(config))))
    }

    async fn load_layout(
        &self,
        named: &NamedContext,
        body: &str,
    ) -> Result<(Base, Option<ImageConfig>), ContextError> {
        let no_digest = || ContextError::NoDigest(body.to_owned());
        let (store, digest) = body.split_once('@').ok_or_else(no_digest)?;
        let digest: kiln_oci::Digest = digest.parse().map_err(|_| no_digest())?;
        let store = store.rsplit_once(':').map_or(store, |(name, _)| name);
        let shown: Reference = named.name.parse().map_err(|source| ContextError::Name {
            name: named.name.clone(),
            source,
        })?;
        let shown = shown.with_digest(digest).to_string();
        let source = pb::SourceOp {
            identifier: format!("oci-layout://{shown}"),
            attrs: [
                ("oci.session".to_owned(), self.bridge.session().to_string()),
                ("oci.store".to_owned(), store.to_owned()),
            ]
            .into(),
        };
        let log_name = format!("[context {}] load metadata for {shown}", named.full_name);
        let platform = named.platform.as_ref();
        let resolved = self
            .images
            .resolve(source.clone(), platform, "default", log_name)
            .await
            .map_err(|source| ContextError::Lookup {
                name: shown,
                source,
            })?;
        let config = parse_config(&resolved.config, &named.full_name)?;
        let title = format!("[context {}] OCI load from client", named.full_name);
        let mut options = VertexOptions::named(title);
        options.caps.insert("source.ocilayout".to_owned());
        let platform = named.platform.clone().unwrap_or_else(Platform::host);
        let edge = kiln_llb::source(source, Some(&to_pb(&platform)), options);
        Ok((Base::Edge(Some(edge)), Some(config)))
    }

    async fn load_local(
        &self,
        named: &NamedContext,
        name: &str,
    ) -> Result<(Base, Option<ImageConfig>), ContextError> {
        const FILE: &str = ".dockerignore";
        let edge = self.local(LocalSource {
            name,
            shared_key: format!("context:{}-{FILE}", named.full_name),
            title: format!("[context {}] load {FILE}", named.full_name),
            follow: vec![FILE.to_owned()],
            no_differ: true,
            ..LocalSource::default()
        });
        let reference = self.solve(FILE, &edge).await?;
        // Most contexts have none.
        let data = self.read(FILE, &reference, FILE, None).await;
        let shared_key = format!("sharedkey:localdir:{}", named.full_name);
        let base = LocalBase {
            name: name.to_owned(),
            full_name: named.full_name.clone(),
            shared_key: self.options.text(&shared_key).to_owned(),
            exclude: kiln_filesync::ignore_patterns(&data.unwrap_or_default()),
        };
        Ok((Base::Local(base), None))
    }

    fn load_input(
        &self,
        named: &NamedContext,
        name: &str,
    ) -> Result<(Base, Option<ImageConfig>), ContextError> {
        let input = self.input(name).ok_or_else(|| ContextError::NoInput {
            input: name.to_owned(),
            name: named.full_name.clone(),
        })??;
        let metadata = self.options.text(&format!("input-metadata:{name}"));
        if metadata.is_empty() {
            return Ok((Base::Edge(input), None));
        }
        let bad = |source| ContextError::Metadata {
            metadata: metadata.to_owned(),
            source,
        };
        // Go writes bytes as base64.
        let members: BTreeMap<String, String> = serde_json::from_str(metadata).map_err(bad)?;
        let Some(config) = members.get("containerimage.config") else {
            return Ok((Base::Edge(input), None));
        };
        let config = base64::engine::general_purpose::STANDARD
            .decode(config)
            .unwrap_or_default();
        let config = parse_config(&config, &named.full_name)?;
        Ok((Base::Edge(input), Some(config)))
    }
}

/// The source of an image.
pub(crate) fn image_source(reference: &str) -> pb::SourceOp {
    pb::SourceOp {
        identifier: format!("docker-image://{reference}"),
        ..pb::SourceOp::default()
    }
}

fn parse_config(json: &[u8], name: &str) -> Result<ImageConfig, ContextError> {
    let mut config = ImageConfig::parse(json).map_err(|source| ContextError::ImageConfig {
        name: name.to_owned(),
        source,
    })?;
    config.created = None;
    Ok(config)
}

fn load_git(input: &str) -> Result<Edge, ContextError> {
    let git = parse_git(input).ok_or_else(|| ContextError::Git(input.to_owned()))??;
    let more = GitOptions {
        keep_git_dir: git.keep_git_dir == Some(true),
        checksum: git.checksum.clone(),
        mtime: git.mtime.clone(),
    };
    let title = format!("[internal] load git source {input}");
    Ok(git_source(&git, &more, VertexOptions::named(title)))
}

fn load_http(named: &NamedContext, input: &str) -> Result<Edge, ContextError> {
    if parse_git(input).is_some() {
        return load_git(input);
    }
    let title = format!("[context {}] {input}", named.full_name);
    let mut options = VertexOptions::named(title);
    options.caps.insert("source.http".to_owned());
    let source = pb::SourceOp {
        identifier: input.to_owned(),
        attrs: [("http.filename".to_owned(), "context".to_owned())].into(),
    };
    Ok(kiln_llb::source(source, None, options))
}
