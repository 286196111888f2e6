//! The SLSA predicate of a build.
//!
//! `min` has the request without arguments that aren't build-defining, and the materials; `max` adds
//! what the caller passes in [`Run::max`]: the graph (`buildConfig`), the sources and the layers.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use kiln_oci::{Platform, Reference};

use crate::capture::{Capture, ImageMaterial};
use crate::redact;

/// How much the predicate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nothing that could be confidential: build arguments and secrets are left out.
    Min,
    /// Everything.
    Max,
}

/// The version of the predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlsaVersion {
    /// `https://slsa.dev/provenance/v0.2`
    V02,
    /// `https://slsa.dev/provenance/v1`
    V1,
}

impl SlsaVersion {
    /// The predicate type of the in-toto statement.
    pub fn predicate_type(self) -> &'static str {
        match self {
            Self::V02 => "https://slsa.dev/provenance/v0.2",
            Self::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

/// Facts of the run that a capture doesn't have.
#[derive(Debug, Clone)]
pub struct Run {
    /// `builder.id`, empty where the client gave none.
    pub builder_id: String,
    /// The build's ref.
    pub invocation_id: String,
    /// When it began.
    pub started: SystemTime,
    /// When it ended.
    pub finished: SystemTime,
    /// `linux/amd64`.
    pub platform: String,
    /// The client says that the build is reproducible.
    pub reproducible: bool,
    /// Files of `provenanceEnvDir`, merged into the environment.
    pub environment: Map<String, Value>,
    /// `buildConfig`, `source` and `layers` for [`Level::Max`]; absent keys are left out.
    pub max: MaxDetails,
}

/// What only the largest predicate has, as JSON made by the engine.
#[derive(Debug, Clone, Default)]
pub struct MaxDetails {
    /// The graph: `llbDefinition` and `digestMapping`.
    pub build_config: Option<Value>,
    /// The source files with locations by step.
    pub source: Option<Value>,
    /// Layers by step.
    pub layers: Option<Value>,
}

/// Attributes that say something of the host and not of the result.
const HOST_ARGS: [&str; 4] = [
    "cgroup-parent",
    "image-resolve-mode",
    "platform",
    "cache-imports",
];

struct Request {
    config_uri: String,
    config_digest: Value,
    config_path: String,
    parameters: Value,
    vcs: Map<String, Value>,
    /// Arguments were left out.
    scrubbed: bool,
}

/// The predicate, as JSON.
pub fn predicate(capture: &Capture, run: &Run, level: Level, version: SlsaVersion) -> Value {
    let request = request(capture, level);
    let complete_materials = !capture.incomplete_materials && capture.locals.is_empty();
    let hermetic = complete_materials && !capture.network_access;
    let complete_request = !capture.frontend.is_empty() && !request.scrubbed;
    let mut metadata = Map::new();
    if !request.vcs.is_empty() {
        metadata.insert("vcs".into(), Value::Object(request.vcs));
    }
    if level == Level::Max {
        insert(&mut metadata, "source", run.max.source.clone());
        insert(&mut metadata, "layers", run.max.layers.clone());
    }
    let build_config = run.max.build_config.clone().filter(|_| level == Level::Max);
    let mut config_source = Map::new();
    insert_text(&mut config_source, "uri", &request.config_uri);
    if !request.config_digest.is_null() {
        config_source.insert("digest".into(), request.config_digest);
    }
    match version {
        SlsaVersion::V1 => {
            insert_text(&mut config_source, "path", &request.config_path);
            let mut internal = Map::new();
            insert(&mut internal, "buildConfig", build_config);
            internal.insert("builderPlatform".into(), json!(run.platform));
            internal.extend(run.environment.clone());
            let mut details = Map::from_iter([
                ("invocationID".to_owned(), json!(run.invocation_id)),
                ("startedOn".to_owned(), json!(timestamp(run.started))),
                ("finishedOn".to_owned(), json!(timestamp(run.finished))),
                ("buildkit_metadata".to_owned(), Value::Object(metadata)),
            ]);
            insert_true(&mut details, "buildkit_hermetic", hermetic);
            details.insert(
                "buildkit_completeness".into(),
                json!({ "request": complete_request, "resolvedDependencies": complete_materials }),
            );
            insert_true(&mut details, "buildkit_reproducible", run.reproducible);
            json!({
                "buildDefinition": {
                    "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                    "externalParameters": { "configSource": config_source, "request": request.parameters },
                    "internalParameters": internal,
                    "resolvedDependencies": materials(capture),
                },
                "runDetails": { "builder": { "id": run.builder_id }, "metadata": details },
            })
        }
        SlsaVersion::V02 => {
            insert_text(&mut config_source, "entryPoint", &request.config_path);
            let mut environment = Map::from_iter([("platform".to_owned(), json!(run.platform))]);
            environment.extend(run.environment.clone());
            let mut details = Map::from_iter([
                ("buildInvocationID".to_owned(), json!(run.invocation_id)),
                ("buildStartedOn".to_owned(), json!(timestamp(run.started))),
                ("buildFinishedOn".to_owned(), json!(timestamp(run.finished))),
                (
                    "completeness".to_owned(),
                    json!({ "parameters": complete_request, "environment": true, "materials": complete_materials }),
                ),
                ("reproducible".to_owned(), json!(run.reproducible)),
                (
                    "https://mobyproject.org/buildkit@v1#metadata".to_owned(),
                    Value::Object(metadata),
                ),
            ]);
            insert_true(
                &mut details,
                "https://mobyproject.org/buildkit@v1#hermetic",
                hermetic,
            );
            let mut predicate = Map::from_iter([
                ("builder".to_owned(), json!({ "id": run.builder_id })),
                (
                    "buildType".to_owned(),
                    json!("https://mobyproject.org/buildkit@v1"),
                ),
                ("materials".to_owned(), Value::Array(materials(capture))),
                (
                    "invocation".to_owned(),
                    json!({
                        "configSource": config_source,
                        "parameters": request.parameters,
                        "environment": environment,
                    }),
                ),
            ]);
            insert(&mut predicate, "buildConfig", build_config);
            predicate.insert("metadata".into(), Value::Object(details));
            Value::Object(predicate)
        }
    }
}

fn request(capture: &Capture, level: Level) -> Request {
    let mut args: BTreeMap<String, String> = capture
        .args
        .iter()
        .filter(|(key, _)| !HOST_ARGS.contains(&key.as_str()) && !key.starts_with("attest:"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let context_key = args
        .get("contextkey")
        .filter(|key| !key.is_empty())
        .cloned()
        .or_else(|| {
            args.contains_key("input:context")
                .then(|| "input:context".to_owned())
        })
        .unwrap_or_else(|| "context".to_owned());
    for (key, value) in &mut args {
        if *key == context_key || key.starts_with("context:") || key == "vcs:source" {
            *value = redact(value).into_owned();
        }
    }
    let config_uri = args.remove(&context_key).unwrap_or_default();
    let config_digest = config_digest(capture, &config_uri);
    let config_path = args.remove("filename").unwrap_or_default();
    let mut vcs = Map::new();
    args.retain(|key, value| {
        let Some(name) = key.strip_prefix("vcs:") else {
            return true;
        };
        if !value.is_empty() {
            vcs.insert(name.to_owned(), json!(value));
        }
        false
    });
    let all = args.len();
    if level == Level::Min {
        args.retain(|key, _| !key.starts_with("build-arg:") && !key.starts_with("label:"));
    }
    let scrubbed = args.len() < all;
    let mut parameters = Map::new();
    insert_text(&mut parameters, "frontend", &capture.frontend);
    if !args.is_empty() {
        parameters.insert("args".into(), json!(args));
    }
    if level == Level::Max {
        for (key, named) in [("secrets", &capture.secrets), ("ssh", &capture.ssh)] {
            let list: Vec<Value> = named
                .iter()
                .map(|(id, named)| {
                    let mut entry = Map::from_iter([("id".to_owned(), json!(id))]);
                    insert_true(&mut entry, "optional", named.optional);
                    Value::Object(entry)
                })
                .collect();
            insert(
                &mut parameters,
                key,
                (!list.is_empty()).then_some(Value::Array(list)),
            );
        }
    }
    if !capture.locals.is_empty() {
        let locals: Vec<Value> = capture
            .locals
            .iter()
            .map(|name| json!({ "name": name }))
            .collect();
        parameters.insert("locals".into(), Value::Array(locals));
    }
    Request {
        config_uri,
        config_digest,
        config_path,
        parameters: Value::Object(parameters),
        vcs,
        scrubbed,
    }
}

/// The digest of the context, where it is one of the materials. A git context names its repository
/// before the `#`.
fn config_digest(capture: &Capture, uri: &str) -> Value {
    let repository = uri.split('#').next().unwrap_or(uri);
    if let Some(git) = capture.git.get(repository).or_else(|| capture.git.get(uri)) {
        return commit_digest(&git.commit);
    }
    capture
        .http
        .get(uri)
        .map_or(Value::Null, |http| json!({ "sha256": http.digest.hex() }))
}

fn materials(capture: &Capture) -> Vec<Value> {
    let images = capture.distinct_images().map(|image| {
        let mut entry = Map::from_iter([("uri".to_owned(), json!(package_url(image)))]);
        insert(
            &mut entry,
            "digest",
            image.digest.map(|digest| json!({ "sha256": digest.hex() })),
        );
        Value::Object(entry)
    });
    let git = capture
        .git
        .iter()
        .map(|(url, git)| json!({ "uri": url, "digest": commit_digest(&git.commit) }));
    let http = capture
        .http
        .iter()
        .map(|(url, http)| json!({ "uri": url, "digest": { "sha256": http.digest.hex() } }));
    images.chain(git).chain(http).collect()
}

fn commit_digest(commit: &str) -> Value {
    if commit.len() == 64 {
        json!({ "sha256": commit })
    } else {
        json!({ "sha1": commit })
    }
}

/// The package URL under which statements name an image of this name and platform.
pub fn image_url(image: &Reference, platform: Option<&Platform>) -> String {
    let image = image.clone().with_default_tag();
    package_url(&ImageMaterial {
        name: image.familiar_name(),
        tag: image.tag().map(str::to_owned),
        pinned: image.digest(),
        platform: platform.map(|platform| platform.normalized().to_string()),
        digest: None,
        local: false,
    })
}

/// The package URL of an image: `pkg:docker/busybox@latest?platform=linux%2Famd64`.
fn package_url(image: &ImageMaterial) -> String {
    let kind = if image.local { "oci" } else { "docker" };
    let name: Vec<String> = image.name.split('/').map(percent_encode).collect();
    let mut url = format!("pkg:{kind}/{}", name.join("/"));
    if let Some(tag) = &image.tag {
        url.push('@');
        url.push_str(&percent_encode(tag));
    }
    let mut separator = '?';
    let mut qualify = |key: &str, value: &str| {
        url.push(separator);
        separator = '&';
        url.extend([key, "=", &percent_encode(value)]);
    };
    if let Some(digest) = &image.pinned {
        qualify("digest", &digest.to_string());
    }
    if let Some(platform) = &image.platform {
        qualify("platform", platform);
    }
    url
}

fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(['%', hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        encoded
    })
}

fn hex_digit(nibble: u8) -> char {
    char::from(b"0123456789ABCDEF"[usize::from(nibble)])
}

fn timestamp(at: SystemTime) -> String {
    OffsetDateTime::from(at)
        .format(&Rfc3339)
        .unwrap_or_default()
}

fn insert(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value);
    }
}

fn insert_text(map: &mut Map<String, Value>, key: &str, text: &str) {
    insert(map, key, (!text.is_empty()).then(|| json!(text)));
}

fn insert_true(map: &mut Map<String, Value>, key: &str, flag: bool) {
    insert(map, key, flag.then_some(Value::Bool(true)));
}

#[cfg(test)]
mod tests {
    use kiln_oci::Digest;

    use super::*;

    fn capture() -> Capture {
        let mut capture = Capture {
            frontend: "dockerfile.v0".into(),
            args: BTreeMap::from(
                [
                    ("build-arg:TOKEN", "hush"),
                    ("context", "https://user:tok@example.com/repo.git#main:sub"),
                    ("filename", "Dockerfile"),
                    ("platform", "linux/amd64"),
                    ("target", "app"),
                    ("vcs:revision", "abc"),
                ]
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
            ),
            ..Capture::default()
        };
        capture.add_git("https://user:tok@example.com/repo.git", "f".repeat(40));
        capture.add_secret("npm", true);
        capture.add_secret("npm", false);
        let image = ImageMaterial {
            name: "127.0.0.1:5000/busybox".into(),
            tag: Some("latest".into()),
            pinned: None,
            platform: Some("linux/amd64".into()),
            digest: Some(Digest::of("x")),
            local: false,
        };
        capture.add_image(ImageMaterial {
            pinned: image.digest,
            tag: None,
            ..image.clone()
        });
        capture.add_image(image);
        capture
    }

    fn run() -> Run {
        Run {
            builder_id: String::new(),
            invocation_id: "ref".into(),
            started: SystemTime::UNIX_EPOCH,
            finished: SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1500),
            platform: "linux/amd64".into(),
            reproducible: false,
            environment: Map::new(),
            max: MaxDetails::default(),
        }
    }

    #[test]
    fn min_hides_what_could_be_confidential() {
        let predicate = predicate(&capture(), &run(), Level::Min, SlsaVersion::V1);
        let text = predicate.to_string();
        for hidden in ["hush", "npm", "user:tok"] {
            assert!(!text.contains(hidden), "{hidden} is in {text}");
        }
        let metadata = &predicate["runDetails"]["metadata"];
        assert_eq!(metadata["buildkit_completeness"]["request"], false);
        assert_eq!(metadata["finishedOn"], "1970-01-01T00:00:01.5Z");
        assert_eq!(metadata["buildkit_metadata"]["vcs"]["revision"], "abc");
    }

    #[test]
    fn max_names_arguments_secrets_and_the_context() {
        let predicate = predicate(&capture(), &run(), Level::Max, SlsaVersion::V1);
        let parameters = &predicate["buildDefinition"]["externalParameters"];
        assert_eq!(
            parameters["configSource"],
            json!({
                "uri": "https://xxxxx:xxxxx@example.com/repo.git#main:sub",
                "digest": { "sha1": "f".repeat(40) },
                "path": "Dockerfile",
            })
        );
        assert_eq!(
            parameters["request"],
            json!({
                "frontend": "dockerfile.v0",
                "args": { "build-arg:TOKEN": "hush", "target": "app" },
                "secrets": [{ "id": "npm" }],
            })
        );
    }

    #[test]
    fn an_image_named_by_tag_and_by_digest_is_one_material() {
        let predicate = predicate(&capture(), &run(), Level::Min, SlsaVersion::V02);
        assert_eq!(
            predicate["materials"][0],
            json!({
                "uri": "pkg:docker/127.0.0.1%3A5000/busybox@latest?platform=linux%2Famd64",
                "digest": { "sha256": Digest::of("x").hex() },
            })
        );
        assert_eq!(predicate["materials"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn a_local_context_is_not_hermetic() {
        let mut capture = capture();
        let hermetic = |capture: &Capture| {
            predicate(capture, &run(), Level::Max, SlsaVersion::V1)["runDetails"]["metadata"]["buildkit_hermetic"]
                == true
        };
        assert!(hermetic(&capture));
        capture.locals.insert("context".into());
        assert!(!hermetic(&capture));
    }
}
