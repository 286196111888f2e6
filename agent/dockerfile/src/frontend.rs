//! The frontend `dockerfile.v0`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use kiln_errdefs::{Detail, Kind, Source, WithDetail};
use kiln_frontend::{Bridge, Frontend, MaybeReference, SolveRequest, Solved, Warning};
use kiln_oci::{Platform, Reference, go_json};
use kiln_proto::pb;
use serde::Serialize;

use crate::lint::{Broken, Linter};
use crate::lower::{Converted, Error, Problem, Request, convert, lint_config};
use crate::parse::{Directive, Lines, detect_syntax};
use crate::subrequest;
use crate::ui::{Contexts, Entrypoint, Options, from_pb};

/// The version of the syntax that is served here, as `# syntax=docker/dockerfile:1.N` names it.
pub const SYNTAX_VERSION: (u64, u64) = (1, 26);

/// The Dockerfile frontend.
#[derive(Debug, Clone, Copy, Default)]
pub struct DockerfileFrontend;

#[async_trait]
impl Frontend for DockerfileFrontend {
    async fn solve(
        &self,
        bridge: Arc<dyn Bridge>,
        options: BTreeMap<String, String>,
        inputs: BTreeMap<String, pb::Definition>,
    ) -> kiln_frontend::Result<Solved> {
        let workers: Vec<Platform> = bridge.worker_platforms().iter().map(from_pb).collect();
        let options = Options::parse(options, &workers).map_err(|e| shared(e.into(), None))?;
        let contexts = Contexts::new(bridge, options, inputs);
        build(&contexts).await
    }
}

async fn build(contexts: &Contexts) -> kiln_frontend::Result<Solved> {
    let options = &contexts.options;
    let missing = options.missing_cap();
    if let Some((error, false)) = missing {
        return Err(unsupported_cap(error));
    }
    let entrypoint = contexts.entrypoint().await;
    let entrypoint = entrypoint.map_err(|e| shared(e.into(), None))?;
    if let Some(solved) = forward(contexts, &entrypoint).await? {
        return Ok(solved);
    }
    if let Some((error, true)) = missing {
        return Err(unsupported_cap(error));
    }
    let info = &entrypoint.info;
    if options.raw.contains_key("requestid") {
        let solved = subrequest::handle(contexts, &entrypoint).await;
        return solved.map_err(|error| shared(error, Some(info)));
    }
    let targets: Vec<Option<Platform>> = if options.target_platforms.is_empty() {
        vec![None]
    } else {
        options.target_platforms.iter().cloned().map(Some).collect()
    };
    let builds = targets.into_iter().enumerate();
    let builds = builds.map(|(i, target)| build_one(contexts, &entrypoint, i, target));
    let built = try_join_all(builds).await;
    let built = built.map_err(|error| shared(error, Some(info)))?;
    collect(options.multi_platform, built).map_err(|error| shared(error, Some(info)))
}

/// What one platform gives.
struct Built {
    target: Option<Platform>,
    reference: MaybeReference,
    converted: Converted,
}

async fn build_one(
    contexts: &Contexts,
    entrypoint: &Entrypoint,
    index: usize,
    target: Option<Platform>,
) -> Result<Built, Error> {
    let lint = Linter::new(lint_config(&contexts.options, &entrypoint.info.data)?);
    let converted = convert(Request {
        contexts,
        info: Arc::clone(&entrypoint.info),
        platform: target.clone(),
        lint: lint.clone(),
        all_stages: false,
    })
    .await;
    if index == 0 {
        // Each platform breaks the same rules.
        report(contexts, entrypoint, &lint);
    }
    let converted = converted?;
    let mut reference = None;
    if let Some(edge) = &converted.edge {
        let request = SolveRequest {
            definition: Some(kiln_llb::definition(Some(edge))),
            cache_imports: contexts.options.cache_imports.clone(),
            ..SolveRequest::default()
        };
        let mut solved = contexts
            .bridge
            .solve(request)
            .await
            .map_err(Problem::Engine)?;
        reference = solved.refs.remove("").flatten();
    }
    Ok(Built {
        target,
        reference,
        converted,
    })
}

fn collect(multi_platform: bool, built: Vec<Built>) -> Result<Solved, Error> {
    #[derive(Serialize)]
    struct Platforms {
        #[serde(rename = "Platforms")]
        platforms: Vec<Exported>,
    }
    #[derive(Serialize)]
    struct Exported {
        #[serde(rename = "ID")]
        id: String,
        #[serde(rename = "Platform")]
        platform: Platform,
    }
    let mut solved = Solved::default();
    let mut platforms = Vec::new();
    for one in built {
        let image = &one.converted.image;
        let mut platform = one.target.unwrap_or_else(Platform::host).normalized();
        let id = platform.format_all();
        if platform.os == "windows" && image.platform.os == platform.os {
            // The base image says which version it needs.
            if platform.os_version.is_empty() {
                platform.os_version.clone_from(&image.platform.os_version);
            }
            if platform.os_features.is_empty() {
                platform.os_features.clone_from(&image.platform.os_features);
            }
        }
        let mut add = |key: &str, value: Vec<u8>| {
            let key = if multi_platform {
                format!("{key}/{id}")
            } else {
                key.to_owned()
            };
            solved.metadata.insert(key, Bytes::from(value));
        };
        add("containerimage.config", json("image config", image)?);
        if let Some(base) = &one.converted.base_image {
            add(
                "containerimage.base.config",
                json("base image config", base)?,
            );
        }
        if let Some(epoch) = one.converted.epoch {
            let since = epoch.to_system_time().duration_since(std::time::UNIX_EPOCH);
            let seconds = since.map_or(0, |since| since.as_secs());
            add("source.date.epoch", seconds.to_string().into_bytes());
        }
        let name = if multi_platform {
            id.clone()
        } else {
            String::new()
        };
        solved.refs.insert(name, one.reference);
        platforms.push(Exported { id, platform });
    }
    let platforms = json("platforms", &Platforms { platforms })?;
    let key = "refs.platforms".to_owned();
    solved.metadata.insert(key, Bytes::from(platforms));
    Ok(solved)
}

fn json<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, Error> {
    go_json::to_vec(value).map_err(|source| Problem::Json { what, source }.into())
}

/// Hands the build to the frontend that the Dockerfile asks for, unless that is this one.
async fn forward(
    contexts: &Contexts,
    entrypoint: &Entrypoint,
) -> kiln_frontend::Result<Option<Solved>> {
    let options = &contexts.options;
    if options.raw.contains_key("cmdline") {
        return Ok(None);
    }
    let given = options.raw.get("build-arg:BUILDKIT_SYNTAX");
    let directive = match given {
        Some(value) => Directive {
            name: "syntax".to_owned(),
            value: value.trim().to_owned(),
            lines: Lines::default(),
        },
        None => match detect_syntax(&entrypoint.info.data) {
            Some(directive) => directive,
            None => return Ok(None),
        },
    };
    let image = directive.first_word();
    if is_built_in(image) {
        return Ok(None);
    }
    let mut attributes = options.raw.clone();
    attributes.insert("source".to_owned(), image.to_owned());
    attributes.insert("cmdline".to_owned(), directive.value.clone());
    let request = SolveRequest {
        frontend: "gateway.v0".to_owned(),
        options: attributes,
        inputs: contexts.inputs(),
        ..SolveRequest::default()
    };
    match contexts.bridge.solve(request).await {
        Ok(solved) => Ok(Some(solved)),
        Err(error) => {
            let known = kiln_errdefs::details(error.as_ref());
            if known.iter().any(|d| matches!(d, Detail::Source(_))) {
                return Err(error);
            }
            if given.is_some() {
                let problem = Problem::Forward {
                    name: "build-arg:BUILDKIT_SYNTAX",
                    value: directive.value,
                    source: error,
                };
                return Err(shared(problem.into(), None));
            }
            let error = Error {
                problem: Box::new(Problem::Engine(error)),
                lines: vec![directive.lines],
            };
            Err(shared(error, Some(&entrypoint.info)))
        }
    }
}

/// Whether an image of a frontend is served here: `docker/dockerfile:1`, `1.N` up to our own, their
/// `-labs`, and `latest`. One that is pinned by a digest is what it is.
fn is_built_in(image: &str) -> bool {
    let Ok(reference) = image.parse::<Reference>() else {
        return false;
    };
    let known = ["docker/dockerfile", "docker/dockerfile-upstream"];
    if reference.domain() != "docker.io"
        || !known.contains(&reference.path())
        || image.contains('@')
    {
        return false;
    }
    let tag = reference.tag().unwrap_or("latest");
    let version = tag.strip_suffix("-labs").unwrap_or(tag);
    if matches!(version, "latest" | "labs" | "1" | "master") {
        return true;
    }
    let mut parts = version.split('.').map(str::parse::<u64>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => {
            (major, minor) <= SYNTAX_VERSION
                && major == SYNTAX_VERSION.0
                && parts.all(|part| part.is_ok())
        }
        _ => false,
    }
}

/// Tells the client which rules are broken.
pub(crate) fn report(contexts: &Contexts, entrypoint: &Entrypoint, lint: &Linter) {
    // Each warning carries the file: a large file with many mistakes must not fill the memory.
    let most = (64 << 20) / entrypoint.info.data.len().max(1);
    for broken in lint.take().into_iter().take(most.clamp(20, 1000)) {
        let warning = warning(&broken, &entrypoint.info);
        contexts.bridge.warn(entrypoint.vertex, warning);
    }
}

fn warning(broken: &Broken, info: &pb::SourceInfo) -> Warning {
    Warning {
        level: 1,
        short: broken.short(),
        detail: vec![broken.rule.description().to_owned()],
        url: broken.rule.url(),
        source: Some(info.clone()),
        ranges: broken.lines.map(Lines::to_ranges).unwrap_or_default(),
    }
}

fn unsupported_cap(error: crate::ui::OptionError) -> kiln_frontend::Error {
    let name = match &error {
        crate::ui::OptionError::Capability(name) => name.clone(),
        _ => String::new(),
    };
    WithDetail::kind(Arc::new(error), Kind::Unimplemented)
        .and(Detail::FrontendCap { name })
        .shared()
}

/// The error as the engine takes it, with the lines of the Dockerfile.
fn shared(error: Error, info: Option<&Arc<pb::SourceInfo>>) -> kiln_frontend::Error {
    let kind = match &*error.problem {
        Problem::Request(_) => Some(Kind::Unimplemented),
        // These came from elsewhere, with a kind of their own.
        Problem::BaseImage { .. }
        | Problem::Context(_)
        | Problem::EpochLookup(_)
        | Problem::Forward { .. }
        | Problem::Engine(_) => None,
        _ => Some(Kind::User),
    };
    let request = match &*error.problem {
        Problem::Request(name) => Some(name.clone()),
        _ => None,
    };
    let lines = error.lines.clone();
    let mut shared: kiln_frontend::Error = match *error.problem {
        Problem::Engine(error) if lines.is_empty() => return error,
        Problem::Engine(error) => error,
        problem => Arc::new(problem),
    };
    if let Some(kind) = kind {
        let mut with = WithDetail::kind(shared, kind);
        if let Some(name) = request {
            with = with.and(Detail::Subrequest { name });
        }
        shared = with.shared();
    }
    let Some(info) = info else { return shared };
    for lines in lines {
        let source = Source {
            info: (**info).clone(),
            ranges: lines.to_ranges(),
        };
        shared = WithDetail::new(shared, Detail::Source(source)).shared();
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::is_built_in;

    #[test]
    fn own_syntax_is_served_here() {
        for image in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker.io/docker/dockerfile:1.7",
            "docker/dockerfile:1.26-labs",
            "docker/dockerfile:1.4.3",
            "docker/dockerfile-upstream:master",
        ] {
            assert!(is_built_in(image), "{image}");
        }
        for image in [
            "docker/dockerfile:1.27",
            "docker/dockerfile:2",
            "docker/dockerfile:0.9",
            "docker/dockerfile:experimental",
            "docker/dockerfile:1@sha256:b1d96093b72dd92208432bf3b33bfbb92a40c8cdcc9ddbcb72323ea1e226c36e",
            "registry.example/docker/dockerfile:1",
            "someone/dockerfile:1",
            "",
        ] {
            assert!(!is_built_in(image), "{image}");
        }
    }
}
