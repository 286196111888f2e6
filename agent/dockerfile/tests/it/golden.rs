//! Every op has the digest that a BuildKit daemon gave it, and every image config its text.
//!
//! A local source holds the client's session, so its digest is another one each time. It is compared
//! by its attributes; the ops that read it are compared with the recorded digest in its place.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_llb::Vertex;
use kiln_oci::Digest;
use kiln_proto::pb;
use serde_json::Value;

use crate::bridge::FakeEngine;

fn cases(dir: &str) -> Vec<(String, Value)> {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let dir = golden.join(dir);
    let mut cases: Vec<(String, Value)> = std::fs::read_dir(dir)
        .expect("the golden data")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into();
            let text = std::fs::read(&path).expect("a readable file");
            (name, serde_json::from_slice(&text).expect("JSON"))
        })
        .collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

struct Steps<'a> {
    by_id: HashMap<&'a str, &'a Value>,
    digests: HashMap<&'a str, &'a str>,
}

impl<'a> Steps<'a> {
    fn new(llb: &'a Value) -> Self {
        let steps = llb["llbDefinition"].as_array().expect("steps");
        let mapping = llb["digestMapping"].as_object().expect("digests");
        Self {
            by_id: steps
                .iter()
                .map(|step| (step["id"].as_str().expect("an id"), step))
                .collect(),
            digests: mapping
                .iter()
                .map(|(digest, id)| (id.as_str().expect("an id"), digest.as_str()))
                .collect(),
        }
    }

    fn inputs(&self, id: &str) -> Vec<(&'a str, i64)> {
        let inputs = self.by_id[id]["inputs"].as_array();
        let inputs = inputs.into_iter().flatten().map(|input| {
            let (id, index) = input.as_str().expect("text").split_once(':').expect("x:y");
            (id, index.parse().expect("a number"))
        });
        inputs.collect()
    }

    /// What differs between a vertex, and all under it, and what was recorded.
    fn compare(&self, vertex: &Arc<Vertex>, id: &'a str, wrong: &mut Vec<String>) {
        let inputs = self.inputs(id);
        let mut op = vertex.op.clone();
        if op.inputs.len() != inputs.len() {
            wrong.push(format!("{id}: {} inputs", op.inputs.len()));
            return;
        }
        for (i, (input, index)) in inputs.iter().enumerate() {
            op.inputs[i] = pb::Input {
                digest: self.digests[input].to_owned(),
                index: *index,
            };
            if vertex.inputs[i].index as i64 != *index {
                wrong.push(format!("{id}: output of input {i}"));
            }
            self.compare(&vertex.inputs[i].vertex, input, wrong);
        }
        let recorded = &self.by_id[id]["op"]["Op"];
        if let Some(pb::op::Op::Source(source)) = &op.op
            && source.identifier.starts_with("local://")
        {
            let mut attrs = source.attrs.clone();
            let session = attrs.remove("local.session");
            assert_eq!(session.as_deref(), Some("the-session"));
            let attrs = serde_json::to_value(attrs).expect("JSON");
            if attrs != recorded["source"]["attrs"] {
                wrong.push(format!("{id}: {attrs} is not {recorded}"));
            }
            return;
        }
        let digest = Digest::of(kiln_llb::op_bytes(&op)).to_string();
        if digest != self.digests[id] {
            wrong.push(format!("{id}: {:?}\n  is not {recorded}", op.op));
        }
    }
}

/// The parts of a config that the frontend writes.
fn compare_config(ours: &Value, theirs: &Value, wrong: &mut Vec<String>) {
    for key in [
        "architecture",
        "os",
        "variant",
        "config",
        "history",
        "author",
    ] {
        if ours[key] != theirs[key] {
            wrong.push(format!("{key}: {}\n  is not {}", ours[key], theirs[key]));
        }
    }
}

/// Recorded from a BuildKit with the frontend 1.26.
#[tokio::test]
async fn ops_and_configs_are_those_of_buildkit() {
    compare("dockerfiles", 58).await;
}

/// Recorded from the BuildKit of Docker 28.5, whose frontend is older; the instructions used here
/// didn't change.
#[tokio::test]
async fn ops_and_configs_are_those_of_docker() {
    compare("docker-28.5", 19).await;
}

async fn compare(dir: &str, count: usize) {
    let cases = cases(dir);
    assert_eq!(cases.len(), count);
    let mut failures = Vec::new();
    for (name, case) in &cases {
        let text = |key: &str| case[key].as_str().map(str::as_bytes);
        let engine = FakeEngine::new(text("dockerfile").expect("a Dockerfile"));
        if let Some(ignore) = text("dockerignore") {
            engine.file("context", ".dockerignore", ignore);
        }
        let options = case["opts"].as_array().expect("options");
        let options = options.iter().map(|o| o.as_str().expect("text"));
        let options: Vec<&str> = options.chain(["build-arg:SOURCE_DATE_EPOCH=1"]).collect();
        let solved = match engine.build(&options).await {
            Ok(solved) => solved,
            Err(error) => {
                failures.push(format!("{name}: {}", kiln_errdefs::text(error.as_ref())));
                continue;
            }
        };
        let mut wrong = Vec::new();
        let steps = Steps::new(&case["llb"]);
        let last = format!("step{}", steps.by_id.len() - 1);
        let (last, _) = steps.by_id.get_key_value(last.as_str()).expect("a step");
        let edge = kiln_llb::decode(engine.definition()).expect("a valid graph");
        steps.compare(&edge.vertex, steps.inputs(last)[0].0, &mut wrong);
        let config = &solved.metadata["containerimage.config"];
        let config = serde_json::from_slice(config).expect("JSON");
        compare_config(&config, &case["config"], &mut wrong);
        failures.extend(wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
