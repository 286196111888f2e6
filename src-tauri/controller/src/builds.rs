//! Builds: the list, one build's record and progress, cancel, pin, delete, explain, start.

use kiln_client::Detail;
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::pb;
use prost::Message as _;

use crate::provenance::facts;
use crate::view::{
    BuildDetail, BuildFailure, BuildResult, BuildSummary, BuildUpdate, LogChunk, NameValue,
    Progress, ResultAttestation, SourceFile, Vertex, Warning, millis,
};

/// The code of gRPC for "cancelled".
const CANCELLED: i32 = 1;

pub(crate) fn summary(record: &control::BuildHistoryRecord) -> BuildSummary {
    let attr = |key: &str| record.frontend_attrs.get(key).cloned().unwrap_or_default();
    let context = first(&[
        attr("context"),
        attr("vcs:localdir:context"),
        attr("vcs:source"),
    ]);
    let dockerfile = first(&[attr("filename"), "Dockerfile".into()]);
    let project = first(&[
        attr("vcs:localdir:dockerfile"),
        context.clone(),
        dockerfile.clone(),
    ]);
    let completed = record.completed_at.map(millis);
    let status = match (&record.error, completed) {
        (_, None) => "running",
        (None, Some(_)) => "done",
        (Some(error), _) if error.code == CANCELLED => "cancelled",
        (Some(error), _) if error.message.contains("context canceled") => "cancelled",
        (Some(_), _) => "failed",
    };
    let tags = record
        .exporters
        .iter()
        .filter_map(|exporter| exporter.attrs.get("name"))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    BuildSummary {
        r#ref: record.r#ref.clone(),
        name: name_of(&context, &dockerfile),
        project,
        status: status.into(),
        created: record.created_at.map_or(0, millis),
        completed,
        dockerfile,
        context,
        target: attr("target"),
        platforms: attr("platform")
            .split(',')
            .filter(|p| !p.is_empty())
            .map(str::to_owned)
            .collect(),
        tags,
        outputs: record
            .exporters
            .iter()
            .map(|exporter| exporter.r#type.clone())
            .collect(),
        total_steps: record.num_total_steps,
        cached_steps: record.num_cached_steps,
        completed_steps: record.num_completed_steps,
        warnings: record.num_warnings,
        pinned: record.pinned,
        imported: false,
        client: String::new(),
        error: record
            .error
            .as_ref()
            .map(|error| error.message.clone())
            .unwrap_or_default(),
    }
}

fn first(candidates: &[String]) -> String {
    candidates
        .iter()
        .find(|text| !text.is_empty())
        .cloned()
        .unwrap_or_default()
}

/// The last part of the context's path or address; without one, of the Dockerfile.
pub(crate) fn name_of(context: &str, dockerfile: &str) -> String {
    let last = |text: &str| {
        let text = text
            .split(['?', '#'])
            .next()
            .unwrap_or_default()
            .trim_end_matches('/');
        let name = text
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .trim_end_matches(".git");
        (!name.is_empty() && name != ".").then(|| name.to_owned())
    };
    last(context)
        .or_else(|| last(dockerfile))
        .unwrap_or_else(|| "build".into())
}

pub(crate) fn detail(
    summary: BuildSummary,
    record: &control::BuildHistoryRecord,
    provenance: Option<&[u8]>,
) -> BuildDetail {
    let with = |prefix: &str| {
        let mut list: Vec<NameValue> = record
            .frontend_attrs
            .iter()
            .filter_map(|(key, value)| {
                let name = key.strip_prefix(prefix)?;
                Some(NameValue {
                    name: name.into(),
                    value: value.clone(),
                })
            })
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    };
    const SHOWN: [&str; 8] = [
        "build-arg:",
        "label:",
        "context",
        "filename",
        "target",
        "platform",
        "vcs:",
        "attest:",
    ];
    let mut options: Vec<NameValue> = record
        .frontend_attrs
        .iter()
        .filter(|(key, _)| !SHOWN.iter().any(|prefix| key.starts_with(prefix)))
        .map(|(key, value)| NameValue {
            name: key.clone(),
            value: value.clone(),
        })
        .collect();
    options.sort_by(|a, b| a.name.cmp(&b.name));
    let mut results: Vec<BuildResult> = record
        .results
        .iter()
        .flat_map(|(platform, info)| one_result(platform, info))
        .chain(record.result.iter().flat_map(|info| one_result("", info)))
        .collect();
    results.sort_by(|a, b| a.platform.cmp(&b.platform));
    results.dedup_by(|a, b| a.digest == b.digest && a.platform == b.platform);
    let mut response: Vec<NameValue> = record
        .exporter_response
        .iter()
        .map(|(name, value)| NameValue {
            name: name.clone(),
            value: value.clone(),
        })
        .collect();
    response.sort_by(|a, b| a.name.cmp(&b.name));
    let failure = record.error.as_ref().map(failure_of);
    let facts = provenance.map(facts).unwrap_or_default();
    BuildDetail {
        summary,
        args: with("build-arg:"),
        labels: with("label:"),
        contexts: with("context:"),
        secrets: facts.secrets,
        ssh: facts.ssh,
        options,
        materials: facts.materials,
        results,
        response,
        source: facts
            .source
            .or_else(|| failure.as_ref().and_then(|failure| failure.source.clone())),
        failure,
    }
}

fn one_result(platform: &str, info: &control::BuildResultInfo) -> Vec<BuildResult> {
    let attestations: Vec<ResultAttestation> = info
        .attestations
        .iter()
        .map(|attestation| ResultAttestation {
            r#type: attestation
                .annotations
                .get("in-toto.io/predicate-type")
                .cloned()
                .unwrap_or_else(|| attestation.media_type.clone()),
            digest: attestation.digest.clone(),
            bytes: attestation.size,
        })
        .collect();
    info.results
        .values()
        .chain(&info.result_deprecated)
        .map(|descriptor| BuildResult {
            platform: platform.into(),
            digest: descriptor.digest.clone(),
            media_type: descriptor.media_type.clone(),
            bytes: None,
            previous: None,
            attestations: attestations.clone(),
        })
        .collect()
}

fn failure_of(error: &kiln_proto::google::rpc::Status) -> BuildFailure {
    let status = tonic::Status::with_details(
        error.code.into(),
        &error.message,
        error.encode_to_vec().into(),
    );
    let mut failure = BuildFailure {
        message: error.message.clone(),
        ..BuildFailure::default()
    };
    for detail in kiln_client::Error::from(status).details() {
        match detail {
            Detail::Vertex { digest } => failure.vertex = digest,
            Detail::Exit { code } => failure.exit_code = Some(code),
            Detail::Source(source) => {
                failure.lines = ranges(&source.ranges);
                failure.source = Some(source_file(&source.info));
            }
            _ => {}
        }
    }
    if failure.exit_code.is_none() {
        let code = error.message.rsplit_once("exit code: ");
        failure.exit_code = code.and_then(|(_, code)| code.trim().parse().ok());
    }
    failure
}

pub(crate) fn ranges(ranges: &[pb::Range]) -> Vec<(i32, i32)> {
    ranges
        .iter()
        .map(|range| {
            let first = range.start.map_or(0, |at| at.line);
            (first, range.end.map_or(first, |at| at.line).max(first))
        })
        .collect()
}

fn source_file(info: &pb::SourceInfo) -> SourceFile {
    SourceFile {
        filename: info.filename.clone(),
        text: String::from_utf8_lossy(&info.data).into_owned(),
    }
}

pub(crate) fn update(wire: control::StatusResponse) -> BuildUpdate {
    // Fractions matter: most steps take less than a millisecond to be found in the cache.
    fn fine(at: Option<&kiln_proto::google::protobuf::Timestamp>) -> Option<f64> {
        at.map(|at| at.seconds as f64 * 1000.0 + f64::from(at.nanos) / 1e6)
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    BuildUpdate {
        vertices: wire
            .vertexes
            .into_iter()
            .map(|vertex| Vertex {
                started: fine(vertex.started.as_ref()),
                completed: fine(vertex.completed.as_ref()),
                digest: vertex.digest,
                inputs: vertex.inputs,
                name: vertex.name,
                cached: vertex.cached,
                error: vertex.error,
            })
            .collect(),
        progress: wire
            .statuses
            .into_iter()
            .map(|status| Progress {
                started: fine(status.started.as_ref()),
                completed: fine(status.completed.as_ref()),
                vertex: status.vertex,
                id: status.id,
                current: status.current,
                total: status.total,
            })
            .collect(),
        logs: wire
            .logs
            .into_iter()
            .map(|log| LogChunk {
                time: fine(log.timestamp.as_ref()).unwrap_or_default(),
                vertex: log.vertex,
                stream: log.stream,
                text: text(log.msg),
            })
            .collect(),
        warnings: wire
            .warnings
            .into_iter()
            .map(|warning| Warning {
                lines: ranges(&warning.ranges),
                source: warning.info.as_ref().map(source_file),
                vertex: warning.vertex,
                level: warning.level,
                short: text(warning.short),
                detail: warning.detail.into_iter().map(text).collect(),
                url: warning.url,
            })
            .collect(),
        end: false,
    }
}

/// An update, with what was printed or without.
pub(crate) fn part(mut update: BuildUpdate, logs: bool) -> BuildUpdate {
    if !logs {
        update.logs.clear();
    }
    update
}

/// Whether it is as much as the window should get at once: a few thousand lines.
pub(crate) fn is_large(update: &BuildUpdate) -> bool {
    const BYTES: usize = 128 << 10;
    let printed: usize = update.logs.iter().map(|log| log.text.len()).sum();
    printed >= BYTES
}

/// Joins updates, so that the window gets few large messages. What a step prints in a row is one piece.
pub(crate) fn merge(into: &mut BuildUpdate, more: BuildUpdate) {
    into.vertices.extend(more.vertices);
    into.progress.extend(more.progress);
    for log in more.logs {
        match into.logs.last_mut() {
            Some(last) if last.vertex == log.vertex && last.stream == log.stream => {
                last.text.push_str(&log.text);
            }
            _ => into.logs.push(log),
        }
    }
    into.warnings.extend(more.warnings);
    into.end |= more.end;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(attrs: &[(&str, &str)]) -> control::BuildHistoryRecord {
        control::BuildHistoryRecord {
            r#ref: "r1".into(),
            frontend_attrs: attrs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            created_at: Some(kiln_proto::google::protobuf::Timestamp {
                seconds: 10,
                nanos: 500_000_000,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn names_come_from_what_was_built() {
        for (attrs, name) in [
            (&[("vcs:localdir:context", "src/api")][..], "api"),
            (&[("context", "https://example.com/x/web.git#main")], "web"),
            (
                &[("filename", "deploy/Dockerfile.worker")],
                "Dockerfile.worker",
            ),
            (&[], "Dockerfile"),
        ] {
            assert_eq!(summary(&record(attrs)).name, name, "{attrs:?}");
        }
    }

    #[test]
    fn what_a_step_prints_in_a_row_crosses_as_one_piece() {
        let printed = |list: &[(&str, &str)]| BuildUpdate {
            logs: list
                .iter()
                .map(|(vertex, text)| LogChunk {
                    vertex: (*vertex).into(),
                    text: (*text).into(),
                    ..LogChunk::default()
                })
                .collect(),
            ..BuildUpdate::default()
        };
        let mut all = printed(&[]);
        merge(&mut all, printed(&[("a", "1\n"), ("a", "2\n3")]));
        merge(
            &mut all,
            printed(&[("a", "\n"), ("b", "x\n"), ("a", "4\n")]),
        );
        let expected = printed(&[("a", "1\n2\n3\n"), ("b", "x\n"), ("a", "4\n")]);
        assert_eq!(all, expected);
        assert_eq!(part(all, false), printed(&[]));
    }

    #[test]
    fn the_status_is_what_the_record_says() {
        let mut one = record(&[]);
        assert_eq!(summary(&one).status, "running");
        one.completed_at = Some(kiln_proto::google::protobuf::Timestamp {
            seconds: 11,
            nanos: 0,
        });
        assert_eq!(summary(&one).status, "done");
        for (code, message, status) in [
            (2, "exit code: 3", "failed"),
            (1, "x", "cancelled"),
            (2, "context canceled", "cancelled"),
        ] {
            one.error = Some(kiln_proto::google::rpc::Status {
                code,
                message: message.into(),
                details: Vec::new(),
            });
            assert_eq!(summary(&one).status, status);
        }
        one.error.as_mut().unwrap().message = "did not complete: exit code: 3".into();
        assert_eq!(
            detail(summary(&one), &one, None).failure.unwrap().exit_code,
            Some(3)
        );
    }
}
