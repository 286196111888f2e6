//! What a build used, from its graph, and the attestations made of it.
//!
//! Every result has its own capture: the request that made it, and the sources, secrets and agents of the
//! graph behind it. A predicate goes into the image where a client asks for it (`attest:provenance`), and
//! the largest one into the history record.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use kiln_cache::OpResult;
use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_exporter::{Attestation, Predicate};
use kiln_llb::{Edge, Vertex};
use kiln_oci::{Digest, Platform, Reference};
use kiln_proto::pb;
use kiln_provenance::{Capture, ImageMaterial, Level, MaxDetails, Run, SlsaVersion, predicate};
use kiln_solver::op::Op;

use crate::bridge::EngineBridge;

/// What clients ask for with `attest:provenance`.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    level: Level,
    version: SlsaVersion,
    inline_only: bool,
    builder_id: String,
    reproducible: bool,
    file_name: String,
}

/// The facts of a run that every predicate of it shares.
#[derive(Debug, Clone)]
pub(crate) struct RunFacts {
    pub(crate) build: String,
    pub(crate) started: SystemTime,
    pub(crate) platform: Platform,
    pub(crate) environment: serde_json::Map<String, serde_json::Value>,
}

fn invalid(text: String) -> SharedError {
    WithDetail::message(Kind::User, text).shared()
}

/// What the client asks for; `None` where it wants no attestation.
pub(crate) fn asked(options: &BTreeMap<String, String>) -> Result<Option<Asked>, SharedError> {
    let text = options
        .get("attest:provenance")
        .or_else(|| options.get("build-arg:BUILDKIT_ATTEST_PROVENANCE"));
    let Some(text) = text else {
        return Ok(None);
    };
    let mut asked = Asked {
        level: Level::Max,
        version: SlsaVersion::V1,
        inline_only: false,
        builder_id: String::new(),
        reproducible: false,
        file_name: "provenance.json".to_owned(),
    };
    for field in text.split(',').filter(|field| !field.is_empty()) {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let is_true = matches!(value, "" | "1" | "t" | "true" | "True" | "TRUE");
        match key.trim() {
            "mode" => {
                asked.level = match value {
                    "min" => Level::Min,
                    "max" | "full" => Level::Max,
                    _ => return Err(invalid(format!("invalid mode {value:?}"))),
                }
            }
            "version" => {
                asked.version = match value {
                    "v0.2" => SlsaVersion::V02,
                    "v1" => SlsaVersion::V1,
                    _ => return Err(invalid(format!("invalid SLSA version {value:?}"))),
                }
            }
            "inline-only" => asked.inline_only = is_true,
            "builder-id" => value.clone_into(&mut asked.builder_id),
            "reproducible" => asked.reproducible = is_true,
            "filename" => value.clone_into(&mut asked.file_name),
            "disabled" if is_true => return Ok(None),
            _ => {}
        }
    }
    Ok(Some(asked))
}

/// What the graph behind `edge` used.
pub(crate) fn capture(
    bridge: &EngineBridge,
    edge: &Edge,
    frontend: String,
    args: BTreeMap<String, String>,
) -> Capture {
    let mut capture = Capture {
        frontend,
        args,
        ..Capture::default()
    };
    for (vertex, op) in bridge.job().ops(edge) {
        add_vertex(&mut capture, &vertex, op.as_ref());
    }
    capture
}

fn add_vertex(capture: &mut Capture, vertex: &Vertex, op: &dyn Op<OpResult>) {
    match &vertex.op.op {
        Some(pb::op::Op::Source(source)) => {
            let pin = op.pin();
            if !add_source(capture, source, vertex.op.platform.as_ref(), pin.as_deref()) {
                capture.incomplete_materials = true;
            }
        }
        Some(pb::op::Op::Exec(exec)) => {
            capture.network_access |= exec.network != pb::NetMode::None as i32;
            for mount in &exec.mounts {
                if let Some(secret) = &mount.secret_opt {
                    capture.add_secret(&secret.id, secret.optional);
                }
                if let Some(agent) = &mount.ssh_opt {
                    capture.add_ssh(&agent.id, agent.optional);
                }
            }
            for secret in &exec.secretenv {
                capture.add_secret(&secret.id, secret.optional);
            }
        }
        _ => {}
    }
}

/// Adds a source; `false` where it can't be said what it was.
fn add_source(
    capture: &mut Capture,
    source: &pb::SourceOp,
    platform: Option<&pb::Platform>,
    pin: Option<&str>,
) -> bool {
    let Some((scheme, name)) = source.identifier.split_once("://") else {
        return false;
    };
    let digest = pin.and_then(|pin| pin.parse::<Digest>().ok());
    match scheme {
        "docker-image" | "oci-layout" => {
            let Ok(reference) = name.parse::<Reference>() else {
                return false;
            };
            let pinned = reference.digest();
            let tag = match (reference.tag(), &pinned) {
                (Some(tag), _) => Some(tag.to_owned()),
                (None, None) => Some("latest".to_owned()),
                (None, Some(_)) => None,
            };
            capture.add_image(ImageMaterial {
                name: reference.familiar_name(),
                tag,
                pinned,
                platform: platform.map(platform_text),
                digest: digest.or(pinned),
                local: scheme == "oci-layout",
            });
            digest.is_some()
        }
        "git" => {
            if let Some(commit) = pin {
                let url = source
                    .attrs
                    .get("git.fullurl")
                    .map_or(source.identifier.as_str(), String::as_str);
                capture.add_git(url, commit);
            }
            pin.is_some()
        }
        "http" | "https" => match digest {
            Some(digest) => {
                capture.add_http(&source.identifier, digest);
                true
            }
            None => false,
        },
        "local" => {
            capture.locals.insert(name.to_owned());
            true
        }
        _ => false,
    }
}

fn platform_text(platform: &pb::Platform) -> String {
    let mut text = format!("{}/{}", platform.os, platform.architecture);
    if !platform.variant.is_empty() {
        text.push('/');
        text.push_str(&platform.variant);
    }
    text
}

fn run(facts: &RunFacts, builder_id: &str, reproducible: bool, max: MaxDetails) -> Run {
    Run {
        builder_id: builder_id.to_owned(),
        invocation_id: facts.build.clone(),
        started: facts.started,
        finished: SystemTime::now(),
        platform: facts.platform.to_string(),
        reproducible,
        environment: facts.environment.clone(),
        max,
    }
}

/// The attestation for an image.
pub(crate) fn attestation(
    capture: &Capture,
    facts: &RunFacts,
    asked: &Asked,
    max: MaxDetails,
) -> Attestation {
    let run = run(facts, &asked.builder_id, asked.reproducible, max);
    let json = predicate(capture, &run, asked.level, asked.version);
    let flag = if asked.inline_only { "true" } else { "false" };
    Attestation {
        bundle: false,
        metadata: [
            ("reason".to_owned(), Bytes::from_static(b"provenance")),
            (
                "inline-only".to_owned(),
                Bytes::from_static(flag.as_bytes()),
            ),
        ]
        .into(),
        path: asked.file_name.clone(),
        predicate: Predicate::Bytes(format!("{json:#}").into()),
        predicate_type: asked.version.predicate_type().to_owned(),
        subjects: Vec::new(),
    }
}

impl Asked {
    /// Whether the largest predicate is asked for.
    pub(crate) fn is_max(&self) -> bool {
        self.level == Level::Max
    }
}

/// The largest predicate, for the history record: its type and its bytes.
pub(crate) fn for_history(
    capture: &Capture,
    facts: &RunFacts,
    asked: Option<&Asked>,
    max: MaxDetails,
) -> (&'static str, Bytes) {
    let builder_id = asked.map_or("", |asked| &asked.builder_id);
    let json = predicate(
        capture,
        &run(facts, builder_id, false, max),
        Level::Max,
        SlsaVersion::V1,
    );
    (SlsaVersion::V1.predicate_type(), format!("{json:#}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_ask_for() {
        let parse = |text: &str| asked(&[("attest:provenance".to_owned(), text.to_owned())].into());
        let default = parse("mode=min,inline-only=true")
            .expect("valid")
            .expect("asked");
        assert!(default.inline_only);
        assert_eq!(default.level, Level::Min);
        assert!(parse("disabled=true").expect("valid").is_none());
        assert_eq!(parse("").expect("valid").expect("asked").level, Level::Max);
        assert!(parse("mode=huge").is_err());
        assert!(parse("version=v9").is_err());
        assert!(asked(&BTreeMap::new()).expect("valid").is_none());
    }

    #[test]
    fn sources_become_materials() {
        let mut capture = Capture::default();
        let digest = Digest::of("x").to_string();
        let source = |identifier: &str| pb::SourceOp {
            identifier: identifier.to_owned(),
            ..Default::default()
        };
        for (identifier, pin, known) in [
            (
                "docker-image://docker.io/library/busybox:latest",
                Some(&*digest),
                true,
            ),
            ("docker-image://docker.io/library/alpine:3", None, false),
            ("git://example.com/a.git#main", Some("0123"), true),
            ("https://user:word@example.com/f", Some(&*digest), true),
            ("local://context", None, true),
            ("other://x", None, false),
        ] {
            assert_eq!(
                add_source(&mut capture, &source(identifier), None, pin),
                known,
                "{identifier}"
            );
        }
        assert_eq!(capture.images.len(), 2);
        assert_eq!(capture.git.len(), 1);
        assert!(capture.http.keys().all(|url| !url.contains("word")));
        assert!(capture.locals.contains("context"));
    }
}
