//! The form for programs: each update as a line of JSON, as buildx's `rawjson` has it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kiln_proto::google::protobuf::Timestamp;
use kiln_proto::moby::buildkit::v1 as wire;
use kiln_proto::pb;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One update as a line.
pub(crate) fn line(status: &wire::StatusResponse) -> String {
    let mut update = Map::new();
    let mut put = |key: &str, list: Vec<Value>| {
        if !list.is_empty() {
            update.insert(key.to_owned(), Value::Array(list));
        }
    };
    put("vertexes", status.vertexes.iter().map(vertex).collect());
    put("statuses", status.statuses.iter().map(part).collect());
    put("logs", status.logs.iter().map(log).collect());
    put("warnings", status.warnings.iter().map(warning).collect());
    format!("{}\n", Value::Object(update))
}

fn time(at: Option<&Timestamp>) -> Value {
    let at = at.map_or(0, |at| {
        i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos)
    });
    let at = OffsetDateTime::from_unix_timestamp_nanos(at);
    at.ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .map_or(Value::Null, Value::String)
}

/// Without what is empty, as Go's `omitempty` leaves it out.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let filled = fields.into_iter().filter(|(_, value)| match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Number(number) => number.as_i64() != Some(0),
        Value::Object(_) => true,
    });
    Value::Object(filled.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn with(object: Value, always: &str, value: Value) -> Value {
    match object {
        Value::Object(mut map) => {
            map.insert(always.to_owned(), value);
            Value::Object(map)
        }
        other => other,
    }
}

fn optional(at: Option<&Timestamp>) -> Value {
    at.map_or(Value::Null, |at| time(Some(at)))
}

fn vertex(vertex: &wire::Vertex) -> Value {
    let group = vertex.progress_group.as_ref().map_or(Value::Null, |group| {
        object([
            ("id", json!(group.id)),
            ("name", json!(group.name)),
            ("weak", json!(group.weak)),
        ])
    });
    object([
        ("digest", json!(vertex.digest)),
        ("inputs", json!(vertex.inputs)),
        ("name", json!(vertex.name)),
        ("started", optional(vertex.started.as_ref())),
        ("completed", optional(vertex.completed.as_ref())),
        ("cached", json!(vertex.cached)),
        ("error", json!(vertex.error)),
        ("progressGroup", group),
    ])
}

fn part(status: &wire::VertexStatus) -> Value {
    let optional = object([
        ("vertex", json!(status.vertex)),
        ("name", json!(status.name)),
        ("total", json!(status.total)),
        ("started", optional(status.started.as_ref())),
        ("completed", optional(status.completed.as_ref())),
    ]);
    let all = with(optional, "id", json!(status.id));
    let all = with(all, "current", json!(status.current));
    with(all, "timestamp", time(status.timestamp.as_ref()))
}

fn log(log: &wire::VertexLog) -> Value {
    let optional = object([("vertex", json!(log.vertex)), ("stream", json!(log.stream))]);
    let all = with(optional, "data", json!(BASE64.encode(&log.msg)));
    with(all, "timestamp", time(log.timestamp.as_ref()))
}

pub(crate) fn warning(warning: &wire::VertexWarning) -> Value {
    let details: Vec<String> = warning
        .detail
        .iter()
        .map(|text| BASE64.encode(text))
        .collect();
    object([
        ("vertex", json!(warning.vertex)),
        ("level", json!(warning.level)),
        ("short", json!(BASE64.encode(&warning.short))),
        ("detail", json!(details)),
        ("url", json!(warning.url)),
        (
            "sourceInfo",
            warning.info.as_ref().map_or(Value::Null, source),
        ),
        (
            "range",
            Value::Array(warning.ranges.iter().map(range).collect()),
        ),
    ])
}

fn source(info: &pb::SourceInfo) -> Value {
    object([
        ("filename", json!(info.filename)),
        ("data", json!(BASE64.encode(&info.data))),
        ("language", json!(info.language)),
    ])
}

fn range(range: &pb::Range) -> Value {
    let position = |at: Option<pb::Position>| {
        let at = at.unwrap_or_default();
        object([("line", json!(at.line)), ("character", json!(at.character))])
    };
    json!({"start": position(range.start), "end": position(range.end)})
}
