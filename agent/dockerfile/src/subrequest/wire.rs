//! The JSON of answers, in the field order of BuildKit's Go types.

use base64::Engine as _;
use kiln_proto::pb;
use serde::Serialize;

use crate::parse::Lines;

/// Bytes as Go writes them.
pub(super) fn base64(data: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(data)
}

#[derive(Debug, Serialize)]
pub(super) struct RequestInfo {
    pub name: &'static str,
    pub version: &'static str,
    r#type: &'static str,
    pub description: &'static str,
    opts: Option<Vec<Named>>,
    inputs: Option<Vec<Named>>,
    metadata: Vec<Named>,
    refs: Option<Vec<Named>>,
}

#[derive(Debug, Serialize)]
struct Named {
    name: &'static str,
    description: &'static str,
}

/// The requests that are answered.
pub(super) fn requests() -> Vec<RequestInfo> {
    let named = |name, description| Named { name, description };
    let request = |name, description, opts| RequestInfo {
        name,
        version: "1.0.0",
        r#type: "rpc",
        description,
        opts,
        inputs: None,
        metadata: vec![named("result.json", ""), named("result.txt", "")],
        refs: None,
    };
    let mut lint = request(super::LINT, "Lint a Dockerfile", Some(Vec::new()));
    lint.metadata.push(named("result.statuscode", ""));
    vec![
        request(
            super::OUTLINE,
            "List all parameters current build target supports",
            Some(vec![named("target", "Target build stage")]),
        ),
        request(
            super::TARGETS,
            "List all targets current build supports",
            Some(Vec::new()),
        ),
        lint,
        request(super::DESCRIBE, "List available subrequest types", None),
    ]
}

/// Lines in one file.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Location {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Position {
    line: u32,
}

impl Location {
    /// One range for each line.
    pub(super) fn of(lines: Lines) -> Self {
        let ranges = (lines.start..=lines.end).map(|line| Range {
            start: Position { line },
            end: Position { line },
        });
        Self {
            ranges: ranges.collect(),
        }
    }

    /// Adds lines as one range; joins them with the last one if they touch.
    pub(super) fn add(&mut self, lines: Lines) {
        match self.ranges.last_mut() {
            Some(last) if lines.start <= last.end.line => {
                last.end.line = last.end.line.max(lines.end);
            }
            _ => self.ranges.push(Range {
                start: Position { line: lines.start },
                end: Position { line: lines.end },
            }),
        }
    }

    pub(super) fn first_line(&self) -> u32 {
        self.ranges.first().map_or(0, |range| range.start.line)
    }

    pub(super) fn lines(&self) -> Vec<Lines> {
        let ranges = self.ranges.iter();
        ranges
            .map(|range| Lines::new(range.start.line, range.end.line))
            .collect()
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Targets {
    pub targets: Vec<Target>,
    pub sources: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Target {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

#[derive(Debug, Serialize)]
pub(super) struct OutlineResult {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Arg>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Secret>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<Secret>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Arg {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

/// A secret or an agent.
#[derive(Debug, Serialize)]
pub(super) struct Secret {
    pub name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

#[derive(Debug, Serialize)]
pub(super) struct LintResults {
    /// Go writes `null` where there are none.
    pub warnings: Option<Vec<LintWarning>>,
    pub sources: Vec<SourceInfo>,
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    pub error: Option<BuildError>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct LintWarning {
    #[serde(rename = "ruleName")]
    pub rule_name: &'static str,
    pub description: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    pub location: Location,
}

#[derive(Debug, Serialize)]
pub(super) struct BuildError {
    pub message: String,
    pub location: Location,
}

#[derive(Debug, Serialize)]
pub(super) struct SourceInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    filename: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<Definition>,
    #[serde(skip_serializing_if = "String::is_empty")]
    language: String,
}

/// The ops that the file came from; their metadata says nothing here.
#[derive(Debug, Serialize)]
struct Definition {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    def: Vec<String>,
}

impl SourceInfo {
    pub(super) fn of(info: &pb::SourceInfo) -> Self {
        Self {
            filename: info.filename.clone(),
            data: base64(&info.data),
            definition: info.definition.as_ref().map(|definition| Definition {
                def: definition.def.iter().map(|op| base64(op)).collect(),
            }),
            language: info.language.clone(),
        }
    }
}
