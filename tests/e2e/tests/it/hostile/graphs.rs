//! Graphs that are none.

use anyhow::Result;
use kiln_client::SolveOptions;
use kiln_harness::Stage;
use kiln_proto::pb;
use prost::Message as _;

use super::is_refused;
use crate::client::{connect, run};

pub(super) fn op(kind: pb::op::Op, inputs: &[(&str, i64)]) -> Vec<u8> {
    let inputs = inputs.iter().map(|(digest, index)| pb::Input {
        digest: (*digest).to_owned(),
        index: *index,
    });
    pb::Op {
        inputs: inputs.collect(),
        op: Some(kind),
        ..pb::Op::default()
    }
    .encode_to_vec()
}

pub(super) fn source(identifier: &str) -> Vec<u8> {
    let source = pb::SourceOp {
        identifier: identifier.to_owned(),
        ..pb::SourceOp::default()
    };
    op(pb::op::Op::Source(source), &[])
}

/// The op that names the result.
pub(super) fn result(of: &str, index: i64) -> Vec<u8> {
    pb::Op {
        inputs: vec![pb::Input {
            digest: of.to_owned(),
            index,
        }],
        ..pb::Op::default()
    }
    .encode_to_vec()
}

pub(super) fn graph(ops: Vec<Vec<u8>>) -> pb::Definition {
    pb::Definition {
        def: ops,
        ..pb::Definition::default()
    }
}

pub(super) fn digest(bytes: &[u8]) -> String {
    kiln_oci::Digest::of(bytes).to_string()
}

/// A graph of one op.
pub(super) fn single(op: Vec<u8>) -> pb::Definition {
    let end = result(&digest(&op), 0);
    graph(vec![op, end])
}

/// Graphs that aren't, and a word of the reason.
pub(super) fn malformed() -> Vec<(&'static str, pb::Definition, &'static str)> {
    let image = || source("docker-image://docker.io/library/busybox:latest");
    let nowhere = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let exec = pb::ExecOp {
        meta: None,
        mounts: Vec::new(),
        ..pb::ExecOp::default()
    };
    let mount = pb::ExecOp {
        meta: Some(pb::Meta {
            args: vec!["true".to_owned()],
            cwd: "/".to_owned(),
            ..pb::Meta::default()
        }),
        mounts: vec![pb::Mount {
            input: 7,
            dest: "/".to_owned(),
            ..pb::Mount::default()
        }],
        ..pb::ExecOp::default()
    };
    let file = pb::FileOp {
        actions: vec![pb::FileAction {
            input: 3,
            secondary_input: -1,
            output: 0,
            action: None,
        }],
    };
    vec![
        (
            "bytes that are no op",
            graph(vec![vec![0xff; 40], result(nowhere, 0)]),
            "parse",
        ),
        ("one vertex", graph(vec![image()]), "invalid LLB"),
        (
            "an end without an input",
            graph(vec![image(), Vec::new()]),
            "invalid LLB",
        ),
        (
            "an input that isn't there",
            graph(vec![image(), result(nowhere, 0)]),
            "digest",
        ),
        (
            "a name that is no digest",
            graph(vec![image(), result("sha256:../../x", 0)]),
            "digest",
        ),
        (
            "an output that isn't there",
            graph(vec![image(), result(&digest(&image()), 9)]),
            "output",
        ),
        (
            "no output",
            graph(vec![image(), result(&digest(&image()), -1)]),
            "output",
        ),
        (
            "an op of no kind",
            single(pb::Op::default().encode_to_vec()),
            "op",
        ),
        (
            "an exec without a command",
            single(op(pb::op::Op::Exec(exec), &[])),
            "exec",
        ),
        (
            "a mount of an input that isn't there",
            single(op(pb::op::Op::Exec(mount), &[])),
            "input",
        ),
        (
            "an action of no kind",
            single(op(pb::op::Op::File(file), &[])),
            "",
        ),
        (
            "a source of no scheme",
            single(source("nonsense")),
            "nonsense",
        ),
        (
            "a source of an unknown scheme",
            single(source("nonsense://x")),
            "nonsense",
        ),
    ]
}

pub(super) fn malformed_graphs_are_refused(stage: &mut Stage<'_>) -> Result<()> {
    run(async {
        let client = connect(stage).await?;
        for (what, definition, word) in malformed() {
            let options = SolveOptions {
                definition: Some(definition),
                ..SolveOptions::default()
            };
            is_refused(&client, what, options, word).await?;
        }
        Ok(())
    })
}
