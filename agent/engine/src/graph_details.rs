//! What only the largest provenance has: the graph (`buildConfig`), the source files with the places that
//! steps come from (`source`), and the layers that steps made (`layers`).
//!
//! Steps are numbered inputs first, `step0` and so on; an input is `stepN:OUTPUT`. Ops are in the JSON of
//! BuildKit's own types. What tells sessions apart (`local.session`, `local.unique`) is left out.

use std::collections::{BTreeMap, HashMap};

use kiln_cache::OpResult;
use kiln_content::CompressionSpec;
use kiln_llb::gojson::{self, Object, ops};
use kiln_oci::Digest;
use kiln_progress::VertexProgress;
use kiln_proto::pb;
use kiln_provenance::MaxDetails;
use kiln_solver::VertexFacts;
use prost::Message as _;
use serde_json::{Map, Value, json};

/// Attributes of sources that are of one session.
const OF_SESSION: [&str; 2] = ["local.session", "local.unique"];

/// The graph and the source files of a definition, and the layers that exist of its steps.
pub(crate) async fn details(
    definition: &pb::Definition,
    facts: &[VertexFacts<OpResult>],
) -> MaxDetails {
    let Some(graph) = Graph::of(definition) else {
        return MaxDetails::default();
    };
    MaxDetails {
        build_config: Some(graph.config()),
        source: definition
            .source
            .as_ref()
            .and_then(|source| graph.source(source)),
        layers: graph.layers(facts).await,
    }
}

/// A definition's ops, inputs first.
struct Graph {
    steps: Vec<(pb::Op, Vec<String>)>,
    numbers: HashMap<Digest, usize>,
}

impl Graph {
    /// `None` where the definition is empty or has no proper end.
    fn of(definition: &pb::Definition) -> Option<Self> {
        let mut ops = HashMap::new();
        let mut last = None;
        for bytes in &definition.def {
            let digest = Digest::of(bytes);
            ops.insert(digest, pb::Op::decode(bytes.as_slice()).ok()?);
            last = Some(digest);
        }
        let mut graph = Self {
            steps: Vec::new(),
            numbers: HashMap::new(),
        };
        let mut pending = vec![(last?, false)];
        while let Some((digest, inputs_done)) = pending.pop() {
            if graph.numbers.contains_key(&digest) {
                continue;
            }
            let op = ops.get(&digest)?;
            let inputs: Vec<(Digest, i64)> = op
                .inputs
                .iter()
                .map(|input| Some((input.digest.parse().ok()?, input.index)))
                .collect::<Option<_>>()?;
            if !inputs_done {
                pending.push((digest, true));
                // The first input is numbered first.
                pending.extend(inputs.iter().rev().map(|(input, _)| (*input, false)));
                continue;
            }
            let names = inputs
                .iter()
                .map(|(input, output)| Some(format!("step{}:{output}", graph.numbers.get(input)?)))
                .collect::<Option<_>>()?;
            graph.numbers.insert(digest, graph.steps.len());
            graph.steps.push((op.clone(), names));
        }
        Some(graph)
    }

    fn definition(&self) -> Value {
        let steps = self.steps.iter().enumerate().map(|(number, (op, inputs))| {
            let mut step = Map::from_iter([
                ("id".to_owned(), json!(format!("step{number}"))),
                ("op".to_owned(), op_json(op)),
            ]);
            if !inputs.is_empty() {
                step.insert("inputs".into(), json!(inputs));
            }
            Value::Object(step)
        });
        steps.collect()
    }

    fn mapping(&self) -> Value {
        let sorted: BTreeMap<String, String> = self
            .numbers
            .iter()
            .map(|(digest, number)| (digest.to_string(), format!("step{number}")))
            .collect();
        json!(sorted)
    }

    fn config(&self) -> Value {
        json!({ "llbDefinition": self.definition(), "digestMapping": self.mapping() })
    }

    fn source(&self, source: &pb::Source) -> Option<Value> {
        if source.infos.is_empty() {
            return None;
        }
        let locations: BTreeMap<String, Value> = source
            .locations
            .iter()
            .filter_map(|(digest, locations)| {
                let number = self.numbers.get(&digest.parse::<Digest>().ok()?)?;
                Some((format!("step{number}"), locations_json(locations)))
            })
            .collect();
        let infos: Vec<Value> = source.infos.iter().map(info_json).collect();
        let mut all = Map::new();
        if !locations.is_empty() {
            all.insert("locations".into(), json!(locations));
        }
        all.insert("infos".into(), Value::Array(infos));
        Some(Value::Object(all))
    }

    /// Layers that exist as blobs; none are made for this.
    async fn layers(&self, facts: &[VertexFacts<OpResult>]) -> Option<Value> {
        let mut layers = BTreeMap::new();
        for facts in facts {
            let (Some(number), Some((output, Some(state)))) =
                (self.numbers.get(&facts.vertex.digest), &facts.result)
            else {
                continue;
            };
            let silent = VertexProgress::silent();
            let blobs = state
                .blobs(&CompressionSpec::default(), false, &[], &silent)
                .await;
            let chain: Vec<Value> = blobs
                .unwrap_or_default()
                .iter()
                .map(|blob| {
                    json!({
                        "mediaType": blob.descriptor.media_type,
                        "digest": blob.descriptor.digest.to_string(),
                        "size": blob.descriptor.size,
                    })
                })
                .collect();
            if !chain.is_empty() {
                layers.insert(format!("step{number}:{output}"), json!([chain]));
            }
        }
        (!layers.is_empty()).then(|| json!(layers))
    }
}

fn info_json(info: &pb::SourceInfo) -> Value {
    let mut all = Map::from_iter([("filename".to_owned(), json!(info.filename))]);
    if !info.language.is_empty() {
        all.insert("language".into(), json!(info.language));
    }
    if !info.data.is_empty() {
        let mut data = String::new();
        gojson::bytes(&mut data, &info.data);
        all.insert("data".into(), parsed(&data));
    }
    if let Some(graph) = info.definition.as_ref().and_then(Graph::of) {
        all.insert("llbDefinition".into(), graph.definition());
        all.insert("digestMapping".into(), graph.mapping());
    }
    Value::Object(all)
}

fn locations_json(locations: &pb::Locations) -> Value {
    let position = |position: Option<&pb::Position>| {
        let mut all = Map::new();
        let position = position.copied().unwrap_or_default();
        for (name, value) in [("line", position.line), ("character", position.character)] {
            if value != 0 {
                all.insert(name.into(), json!(value));
            }
        }
        Value::Object(all)
    };
    let all = locations.locations.iter().map(|location| {
        let ranges = location.ranges.iter().map(|range| {
            json!({ "start": position(range.start.as_ref()), "end": position(range.end.as_ref()) })
        });
        let mut one = Map::new();
        if location.source_index != 0 {
            one.insert("sourceIndex".into(), json!(location.source_index));
        }
        one.insert("ranges".into(), ranges.collect());
        Value::Object(one)
    });
    json!({ "locations": all.collect::<Vec<_>>() })
}

/// What a writer of JSON wrote is JSON.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn op_json(op: &pb::Op) -> Value {
    parsed(&gojson::object(|json| {
        json.object("Op", |json| variant(json, op.op.as_ref()));
        json.object_or_none("platform", op.platform.as_ref(), |json, platform| {
            json.text_or_none("Architecture", &platform.architecture);
            json.text_or_none("OS", &platform.os);
            json.text_or_none("Variant", &platform.variant);
            json.text_or_none("OSVersion", &platform.os_version);
            json.texts_or_none("OSFeatures", &platform.os_features);
        });
        json.object_or_none(
            "constraints",
            op.constraints.as_ref(),
            |json, constraints| {
                json.texts_or_none("filter", &constraints.filter);
            },
        );
    }))
}

fn variant(json: &mut Object<'_>, op: Option<&pb::op::Op>) {
    match op {
        Some(pb::op::Op::Exec(exec)) => json.object("exec", |json| ops::exec(json, exec)),
        Some(pb::op::Op::Source(source)) => json.object("source", |json| {
            json.text_or_none("identifier", &source.identifier);
            let attrs = source
                .attrs
                .iter()
                .filter(|(name, _)| !OF_SESSION.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            json.text_map_or_none("attrs", &attrs);
        }),
        Some(pb::op::Op::File(file)) => json.object("file", |json| {
            json.objects_or_none("actions", &file.actions, action);
        }),
        Some(pb::op::Op::Build(build)) => json.object("build", |json| ops::build(json, build)),
        Some(pb::op::Op::Merge(merge)) => json.object("merge", |json| ops::merge(json, merge)),
        Some(pb::op::Op::Diff(diff)) => json.object("diff", |json| ops::diff(json, diff)),
        None => {}
    }
}

fn action(json: &mut Object<'_>, action: &pb::FileAction) {
    use pb::file_action::Action;
    json.number("input", action.input);
    json.number("secondaryInput", action.secondary_input);
    json.number("output", action.output);
    json.object("Action", |json| match &action.action {
        Some(Action::Copy(copy)) => json.object("copy", |json| ops::copy(json, copy)),
        Some(Action::Mkfile(file)) => json.object("mkfile", |json| ops::mkfile(json, file)),
        Some(Action::Mkdir(dir)) => json.object("mkdir", |json| ops::mkdir(json, dir)),
        Some(Action::Symlink(link)) => json.object("symlink", |json| ops::symlink(json, link)),
        Some(Action::Rm(rm)) => json.object("rm", |json| ops::rm(json, rm)),
        None => {}
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_inputs_first() {
        let source = |identifier: &str| pb::Op {
            op: Some(pb::op::Op::Source(pb::SourceOp {
                identifier: identifier.to_owned(),
                attrs: [
                    ("local.session".to_owned(), "s".to_owned()),
                    ("local.differ".to_owned(), "none".to_owned()),
                ]
                .into(),
            })),
            ..Default::default()
        };
        let input = |of: &[u8], index| pb::Input {
            digest: Digest::of(of).to_string(),
            index,
        };
        let (one, two) = (
            source("local://a").encode_to_vec(),
            source("local://b").encode_to_vec(),
        );
        let merge = pb::Op {
            inputs: vec![input(&one, 0), input(&two, 0)],
            op: Some(pb::op::Op::Merge(pb::MergeOp { inputs: Vec::new() })),
            ..Default::default()
        }
        .encode_to_vec();
        let end = pb::Op {
            inputs: vec![input(&merge, 0)],
            ..Default::default()
        };
        let definition = pb::Definition {
            def: vec![two, one.clone(), merge, end.encode_to_vec()],
            source: Some(pb::Source {
                locations: [(
                    Digest::of(&one).to_string(),
                    pb::Locations {
                        locations: vec![pb::Location {
                            source_index: 0,
                            ranges: vec![pb::Range {
                                start: Some(pb::Position {
                                    line: 2,
                                    character: 0,
                                }),
                                end: Some(pb::Position {
                                    line: 3,
                                    character: 0,
                                }),
                            }],
                        }],
                    },
                )]
                .into(),
                infos: vec![pb::SourceInfo {
                    filename: "Dockerfile".into(),
                    data: b"FROM x".to_vec(),
                    ..Default::default()
                }],
            }),
            ..Default::default()
        };
        let graph = Graph::of(&definition).expect("a graph");
        let config = graph.config();
        let steps = &config["llbDefinition"];
        assert_eq!(
            steps[0],
            json!({
                "id": "step0",
                "op": { "Op": { "source": {
                    "identifier": "local://a",
                    "attrs": { "local.differ": "none" },
                } } },
            })
        );
        assert_eq!(steps[2]["inputs"], json!(["step0:0", "step1:0"]));
        assert_eq!(
            steps[3],
            json!({ "id": "step3", "op": { "Op": {} }, "inputs": ["step2:0"] })
        );
        assert_eq!(
            config["digestMapping"][Digest::of(&one).to_string()],
            "step0"
        );
        let source = graph
            .source(definition.source.as_ref().expect("one"))
            .expect("a source");
        assert_eq!(
            source["locations"]["step0"]["locations"][0]["ranges"][0],
            json!({ "start": { "line": 2 }, "end": { "line": 3 } })
        );
        assert_eq!(source["infos"][0]["data"], "RlJPTSB4");
        assert!(Graph::of(&pb::Definition::default()).is_none());
    }
}
