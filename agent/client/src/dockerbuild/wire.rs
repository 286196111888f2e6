//! A record in the JSON that Go makes of its protobuf: the fields' names as in the `.proto`, empty ones left out.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kiln_oci::Platform;
use kiln_proto::google::{protobuf, rpc};
use kiln_proto::moby::buildkit::v1 as control;
use kiln_proto::pb;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a build's files were, which only its client knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LocalState {
    /// The stage that was asked for.
    pub target: String,
    /// The context's folder.
    pub local_path: String,
    /// The Dockerfile.
    pub dockerfile_path: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Record {
    #[serde(skip_serializing_if = "String::is_empty")]
    r#ref: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    frontend: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    frontend_attrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exporters: Vec<Exporter>,
    #[serde(rename = "error", skip_serializing_if = "Option::is_none")]
    error: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<Moment>,
    #[serde(rename = "logs", skip_serializing_if = "Option::is_none")]
    logs: Option<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exporter_response: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<ResultInfo>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    results: BTreeMap<String, ResultInfo>,
    #[serde(skip_serializing_if = "is_zero")]
    generation: i32,
    #[serde(rename = "trace", skip_serializing_if = "Option::is_none")]
    trace: Option<Descriptor>,
    #[serde(rename = "pinned", skip_serializing_if = "std::ops::Not::not")]
    pinned: bool,
    #[serde(rename = "numCachedSteps", skip_serializing_if = "is_zero")]
    cached_steps: i32,
    #[serde(rename = "numTotalSteps", skip_serializing_if = "is_zero")]
    total_steps: i32,
    #[serde(rename = "numCompletedSteps", skip_serializing_if = "is_zero")]
    completed_steps: i32,
    #[serde(rename = "externalError", skip_serializing_if = "Option::is_none")]
    external_error: Option<Descriptor>,
    #[serde(rename = "numWarnings", skip_serializing_if = "is_zero")]
    warnings: i32,
    default_platform: String,
    #[serde(rename = "localState", skip_serializing_if = "Option::is_none")]
    local_state: Option<LocalState>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Exporter {
    #[serde(skip_serializing_if = "String::is_empty")]
    r#type: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attrs: BTreeMap<String, String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(skip_serializing_if = "is_zero")]
    code: i32,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Any>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Any {
    #[serde(skip_serializing_if = "String::is_empty")]
    type_url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    value: String,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
struct Moment {
    #[serde(skip_serializing_if = "is_zero")]
    seconds: i64,
    #[serde(skip_serializing_if = "is_zero")]
    nanos: i32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Descriptor {
    #[serde(skip_serializing_if = "String::is_empty")]
    media_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    size: i64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ResultInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    result_deprecated: Option<Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attestations: Vec<Descriptor>,
    /// Go writes the numbers of a map as texts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    results: BTreeMap<String, Descriptor>,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// `linux/amd64`, as buildx names a worker's platform.
pub(super) fn platform(platform: &pb::Platform) -> String {
    let name = |extra: &str| format!("{}/{}{extra}", platform.os, platform.architecture);
    let text = match platform.variant.as_str() {
        "" => name(""),
        variant => name(&format!("/{variant}")),
    };
    text.parse::<Platform>()
        .map_or(text, |platform| platform.normalized().format_all())
}

/// What buildx writes of a record.
pub(super) fn record(
    wire: &control::BuildHistoryRecord,
    platform: &str,
    local: Option<&LocalState>,
) -> Value {
    let record = Record {
        r#ref: wire.r#ref.clone(),
        frontend: wire.frontend.clone(),
        frontend_attrs: wire.frontend_attrs.clone().into_iter().collect(),
        exporters: wire
            .exporters
            .iter()
            .map(|exporter| Exporter {
                r#type: exporter.r#type.clone(),
                attrs: exporter.attrs.clone().into_iter().collect(),
            })
            .collect(),
        error: wire.error.as_ref().map(Status::of),
        created_at: wire.created_at.as_ref().map(Moment::of),
        completed_at: wire.completed_at.as_ref().map(Moment::of),
        logs: wire.logs.as_ref().map(Descriptor::of),
        exporter_response: wire.exporter_response.clone().into_iter().collect(),
        result: wire.result.as_ref().map(ResultInfo::of),
        results: wire
            .results
            .iter()
            .map(|(key, info)| (key.clone(), ResultInfo::of(info)))
            .collect(),
        generation: wire.generation,
        trace: wire.trace.as_ref().map(Descriptor::of),
        pinned: wire.pinned,
        cached_steps: wire.num_cached_steps,
        total_steps: wire.num_total_steps,
        completed_steps: wire.num_completed_steps,
        external_error: wire.external_error.as_ref().map(Descriptor::of),
        warnings: wire.num_warnings,
        default_platform: platform.to_owned(),
        local_state: local.cloned(),
    };
    // Texts and numbers can't fail to be written.
    serde_json::to_value(record).unwrap_or_default()
}

/// The record that such JSON is of, with what its client knew.
pub(super) fn read(
    json: &[u8],
) -> Result<(control::BuildHistoryRecord, Option<LocalState>), serde_json::Error> {
    let read: Record = serde_json::from_slice(json)?;
    let record = control::BuildHistoryRecord {
        r#ref: read.r#ref,
        frontend: read.frontend,
        frontend_attrs: read.frontend_attrs.into_iter().collect(),
        exporters: read
            .exporters
            .into_iter()
            .map(|exporter| control::Exporter {
                r#type: exporter.r#type,
                attrs: exporter.attrs.into_iter().collect(),
            })
            .collect(),
        error: read.error.map(Status::wire),
        created_at: read.created_at.map(Moment::wire),
        completed_at: read.completed_at.map(Moment::wire),
        logs: read.logs.map(Descriptor::wire),
        exporter_response: read.exporter_response.into_iter().collect(),
        result: read.result.map(ResultInfo::wire),
        results: read
            .results
            .into_iter()
            .map(|(key, info)| (key, info.wire()))
            .collect(),
        generation: read.generation,
        trace: read.trace.map(Descriptor::wire),
        pinned: read.pinned,
        num_cached_steps: read.cached_steps,
        num_total_steps: read.total_steps,
        num_completed_steps: read.completed_steps,
        external_error: read.external_error.map(Descriptor::wire),
        num_warnings: read.warnings,
    };
    Ok((record, read.local_state))
}

impl Status {
    fn of(wire: &rpc::Status) -> Self {
        let any = |any: &protobuf::Any| Any {
            type_url: any.type_url.clone(),
            value: BASE64.encode(&any.value),
        };
        Self {
            code: wire.code,
            message: wire.message.clone(),
            details: wire.details.iter().map(any).collect(),
        }
    }

    fn wire(self) -> rpc::Status {
        let any = |any: Any| protobuf::Any {
            type_url: any.type_url,
            // A detail that can't be read is one less.
            value: BASE64.decode(any.value).unwrap_or_default(),
        };
        rpc::Status {
            code: self.code,
            message: self.message,
            details: self.details.into_iter().map(any).collect(),
        }
    }
}

impl Moment {
    fn of(wire: &protobuf::Timestamp) -> Self {
        Self {
            seconds: wire.seconds,
            nanos: wire.nanos,
        }
    }

    fn wire(self) -> protobuf::Timestamp {
        protobuf::Timestamp {
            seconds: self.seconds,
            nanos: self.nanos,
        }
    }
}

impl Descriptor {
    fn of(wire: &control::Descriptor) -> Self {
        Self {
            media_type: wire.media_type.clone(),
            digest: wire.digest.clone(),
            size: wire.size,
            annotations: wire.annotations.clone().into_iter().collect(),
        }
    }

    fn wire(self) -> control::Descriptor {
        control::Descriptor {
            media_type: self.media_type,
            digest: self.digest,
            size: self.size,
            annotations: self.annotations.into_iter().collect(),
        }
    }
}

impl ResultInfo {
    fn of(wire: &control::BuildResultInfo) -> Self {
        Self {
            result_deprecated: wire.result_deprecated.as_ref().map(Descriptor::of),
            attestations: wire.attestations.iter().map(Descriptor::of).collect(),
            results: wire
                .results
                .iter()
                .map(|(key, descriptor)| (key.to_string(), Descriptor::of(descriptor)))
                .collect(),
        }
    }

    fn wire(self) -> control::BuildResultInfo {
        control::BuildResultInfo {
            result_deprecated: self.result_deprecated.map(Descriptor::wire),
            attestations: self
                .attestations
                .into_iter()
                .map(Descriptor::wire)
                .collect(),
            results: self
                .results
                .into_iter()
                .filter_map(|(key, descriptor)| Some((key.parse().ok()?, descriptor.wire())))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_went() {
        let descriptor = |digest: &str| control::Descriptor {
            media_type: "text/plain".into(),
            digest: digest.into(),
            size: 3,
            annotations: [("a".to_owned(), "b".to_owned())].into(),
        };
        let wire = control::BuildHistoryRecord {
            r#ref: "r1".into(),
            frontend: "dockerfile.v0".into(),
            frontend_attrs: [("target".to_owned(), "app".to_owned())].into(),
            exporters: vec![control::Exporter {
                r#type: "image".into(),
                attrs: [("name".to_owned(), "a:1".to_owned())].into(),
            }],
            error: Some(rpc::Status {
                code: 2,
                message: "exit code: 1".into(),
                details: vec![protobuf::Any {
                    type_url: "t".into(),
                    value: vec![0, 255],
                }],
            }),
            created_at: Some(protobuf::Timestamp {
                seconds: 5,
                nanos: 0,
            }),
            logs: Some(descriptor("sha256:1")),
            results: [(
                "linux/amd64".to_owned(),
                control::BuildResultInfo {
                    attestations: vec![descriptor("sha256:2")],
                    results: [(0, descriptor("sha256:3"))].into(),
                    ..Default::default()
                },
            )]
            .into(),
            num_total_steps: 7,
            ..Default::default()
        };
        let local = LocalState {
            local_path: "/src".into(),
            ..LocalState::default()
        };
        let json = record(&wire, "linux/amd64", Some(&local));
        assert_eq!(json["FrontendAttrs"]["target"], "app");
        assert_eq!(json["CreatedAt"], serde_json::json!({"seconds": 5}));
        assert_eq!(
            json["Results"]["linux/amd64"]["Results"]["0"]["digest"],
            "sha256:3"
        );
        assert_eq!(json["numTotalSteps"], 7);
        assert_eq!(json["localState"]["LocalPath"], "/src");
        assert!(json.get("pinned").is_none());
        let (again, state) = read(json.to_string().as_bytes()).unwrap();
        assert_eq!(again, wire);
        assert_eq!(state, Some(local));
    }
}
