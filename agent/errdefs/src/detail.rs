//! The details that BuildKit's clients know, and their JSON.
//!
//! Shapes follow BuildKit's `solver/errdefs/errdefs.proto` as Go's `encoding/json` writes it (fields
//! that are empty are absent), except `Solve`, which is protobuf's own JSON mapping.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kiln_proto::pb;
use serde_json::{Map, Value, json};

const PREFIX: &str = "github.com/moby/buildkit/";

/// One typed detail.
#[derive(Debug, Clone, PartialEq)]
pub enum Detail {
    /// The vertex that failed.
    Vertex {
        /// Its digest, `sha256:…`.
        digest: String,
    },
    /// The place in a source file that it came from.
    Source(Source),
    /// The frontend that failed.
    Frontend {
        /// `dockerfile.v0`, `gateway.v0`.
        name: String,
        /// The image, for `gateway.v0`.
        source: String,
    },
    /// A capability that the frontend lacks.
    FrontendCap {
        /// Its name.
        name: String,
    },
    /// A subrequest that the frontend doesn't have.
    Subrequest {
        /// Its name.
        name: String,
    },
    /// What a failed exec leaves for a debugger.
    Solve {
        /// Results of the inputs, by gateway ids.
        input_ids: Vec<String>,
        /// Results of the mounts as the process left them.
        mount_ids: Vec<String>,
    },
    /// How a process ended.
    Exit {
        /// Its exit code.
        code: u32,
    },
}

/// A file with the ranges that an error is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The file and its text.
    pub info: pb::SourceInfo,
    /// Lines count from 1, characters from 0.
    pub ranges: Vec<pb::Range>,
}

impl Detail {
    /// The type URL of its `Any`.
    pub fn type_url(&self) -> String {
        let name = match self {
            Self::Vertex { .. } => "errdefs.Vertex+json",
            Self::Source(_) => "errdefs.Source+json",
            Self::Frontend { .. } => "errdefs.Frontend+json",
            Self::FrontendCap { .. } => "errdefs.FrontendCap+json",
            Self::Subrequest { .. } => "errdefs.Subrequest+json",
            Self::Solve { .. } => "errdefs.Solve+json",
            Self::Exit { .. } => "gatewayapi.ExitMessage+json",
        };
        format!("{PREFIX}{name}")
    }

    /// The value of its `Any`.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Vertex { digest } => present([("digest", json!(digest))]),
            Self::Source(source) => source.to_json(),
            Self::Frontend { name, source } => {
                present([("name", json!(name)), ("source", json!(source))])
            }
            Self::FrontendCap { name } | Self::Subrequest { name } => {
                present([("name", json!(name))])
            }
            Self::Solve {
                input_ids,
                mount_ids,
            } => present([
                ("inputIDs", json!(input_ids)),
                ("mountIDs", json!(mount_ids)),
            ]),
            Self::Exit { code } => present([("Code", json!(code))]),
        }
    }

    /// Reads an `Any`; `None` where the type isn't one of ours or the JSON isn't its shape.
    pub fn parse(type_url: &str, value: &[u8]) -> Option<Self> {
        let name = type_url.strip_prefix(PREFIX)?;
        let value: Value = serde_json::from_slice(value).ok()?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let texts = |key: &str| {
            let list = value[key].as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter()
                .filter_map(|text| text.as_str().map(str::to_owned))
                .collect()
        };
        Some(match name {
            "errdefs.Vertex+json" => Self::Vertex {
                digest: text("digest"),
            },
            "errdefs.Source+json" => Self::Source(Source::parse(&value)?),
            "errdefs.Frontend+json" => Self::Frontend {
                name: text("name"),
                source: text("source"),
            },
            "errdefs.FrontendCap+json" => Self::FrontendCap { name: text("name") },
            "errdefs.Subrequest+json" => Self::Subrequest { name: text("name") },
            "errdefs.Solve+json" => Self::Solve {
                input_ids: texts("inputIDs"),
                mount_ids: texts("mountIDs"),
            },
            "gatewayapi.ExitMessage+json" => Self::Exit {
                code: value["Code"]
                    .as_u64()
                    .and_then(|code| code.try_into().ok())?,
            },
            _ => return None,
        })
    }
}

impl Source {
    fn to_json(&self) -> Value {
        let info = present([
            ("filename", json!(self.info.filename)),
            ("data", json!(BASE64.encode(&self.info.data))),
            ("language", json!(self.info.language)),
        ]);
        let ranges: Vec<Value> = self
            .ranges
            .iter()
            .map(|range| {
                present([
                    ("start", position_json(range.start.as_ref())),
                    ("end", position_json(range.end.as_ref())),
                ])
            })
            .collect();
        // An empty position is an object, not an absence: a range always has both ends.
        json!({ "info": info, "ranges": ranges })
    }

    fn parse(value: &Value) -> Option<Self> {
        let info = &value["info"];
        let position = |value: &Value| {
            let number = |key: &str| value[key].as_i64().and_then(|n| i32::try_from(n).ok());
            pb::Position {
                line: number("line").unwrap_or(0),
                character: number("character").unwrap_or(0),
            }
        };
        let ranges = value["ranges"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        Some(Self {
            info: pb::SourceInfo {
                filename: info["filename"].as_str()?.to_owned(),
                data: BASE64
                    .decode(info["data"].as_str().unwrap_or_default())
                    .ok()?,
                language: info["language"].as_str().unwrap_or_default().to_owned(),
                ..Default::default()
            },
            ranges: ranges
                .iter()
                .map(|range| pb::Range {
                    start: Some(position(&range["start"])),
                    end: Some(position(&range["end"])),
                })
                .collect(),
        })
    }
}

fn position_json(position: Option<&pb::Position>) -> Value {
    let position = position.copied().unwrap_or_default();
    present([
        ("line", json!(position.line)),
        ("character", json!(position.character)),
    ])
}

/// An object of the fields that Go's `omitempty` would write.
fn present<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let written = fields.into_iter().filter(|(_, value)| match value {
        Value::Number(number) => number.as_i64() != Some(0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    });
    Value::Object(
        written
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<Map<_, _>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: i32, character: i32) -> pb::Position {
        pb::Position { line, character }
    }

    #[test]
    fn json_is_what_gos_encoder_writes() {
        let source = Detail::Source(Source {
            info: pb::SourceInfo {
                filename: "Dockerfile".into(),
                data: b"FROM scratch\n".to_vec(),
                language: "Dockerfile".into(),
                ..Default::default()
            },
            ranges: vec![pb::Range {
                start: Some(at(1, 0)),
                end: Some(at(1, 12)),
            }],
        });
        for (detail, json) in [
            (
                Detail::Vertex {
                    digest: "sha256:ab".into(),
                },
                r#"{"digest":"sha256:ab"}"#,
            ),
            (Detail::Exit { code: 7 }, r#"{"Code":7}"#),
            (
                Detail::Frontend {
                    name: "dockerfile.v0".into(),
                    source: String::new(),
                },
                r#"{"name":"dockerfile.v0"}"#,
            ),
            (
                source,
                concat!(
                    r#"{"info":{"filename":"Dockerfile","data":"RlJPTSBzY3JhdGNoCg==","#,
                    r#""language":"Dockerfile"},"ranges":[{"start":{"line":1},"#,
                    r#""end":{"line":1,"character":12}}]}"#
                ),
            ),
        ] {
            assert_eq!(detail.to_json().to_string(), json);
            assert_eq!(
                Detail::parse(&detail.type_url(), json.as_bytes()),
                Some(detail)
            );
        }
    }

    #[test]
    fn other_types_and_shapes_are_passed_over() {
        assert_eq!(
            Detail::parse("github.com/moby/buildkit/stack.Stack+json", b"{}"),
            None
        );
        assert_eq!(Detail::parse("type.googleapis.com/x", b"{}"), None);
        assert_eq!(
            Detail::parse("github.com/moby/buildkit/errdefs.Vertex+json", b"{"),
            None
        );
    }
}
