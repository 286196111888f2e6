//! Definitions, good and hostile.

use kiln_llb::{
    CUSTOM_NAME, DecodeError, Edge, Exec, FileChain, InvalidOp, Location, MAX_DEPTH, Mount,
    Replacements, VertexOptions, decode, decode_replacing, definition, op_bytes,
};
use kiln_oci::Digest;
use kiln_proto::pb;
use std::sync::Arc;

fn source(identifier: &str) -> Edge {
    let op = pb::SourceOp {
        identifier: identifier.into(),
        ..Default::default()
    };
    kiln_llb::source(op, None, VertexOptions::default())
}

fn mkdir(base: Option<Edge>, path: &str) -> Edge {
    let mut chain = FileChain::new(base);
    chain.act(pb::file_action::Action::Mkdir(pb::FileActionMkDir {
        path: path.into(),
        timestamp: -1,
        ..Default::default()
    }));
    chain.build(VertexOptions::default())
}

fn exec(root: Option<Edge>, args: &[&str]) -> Edge {
    let exec = Exec {
        meta: pb::Meta {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            cwd: "/".into(),
            ..Default::default()
        },
        mounts: vec![Mount {
            dest: "/".into(),
            source: root,
            ..Default::default()
        }],
        ..Default::default()
    };
    let outputs = exec.build(None, VertexOptions::named("run it"));
    outputs
        .root()
        .unwrap_or_else(|| unreachable!("it has a root"))
}

/// Appends the op that names the result.
fn finished(mut ops: Vec<Vec<u8>>, input: &str, index: i64) -> pb::Definition {
    ops.push(op_bytes(&pb::Op {
        inputs: vec![pb::Input {
            digest: input.into(),
            index,
        }],
        ..Default::default()
    }));
    pb::Definition {
        def: ops,
        ..Default::default()
    }
}

#[test]
fn a_graph_survives_the_round_trip() {
    let base = source("docker-image://docker.io/library/busybox:latest");
    let left = mkdir(Some(base.clone()), "/a");
    let right = exec(Some(base.clone()), &["sh", "-c", "echo"]);
    let both = kiln_llb::merge(
        vec![Some(left), None, Some(right)],
        VertexOptions::default(),
    )
    .expect("two inputs");
    let first = definition(Some(&both));
    let read = decode(first.clone()).expect("valid");
    assert_eq!(read.vertex.digest, both.vertex.digest);
    assert_eq!(read.vertex.inputs[1].vertex.name(), "run it");
    assert_eq!(
        read.vertex.name(),
        "merge (mkdir /a, run it)",
        "names of merges are made of names"
    );
    assert!(Arc::ptr_eq(
        &read.vertex.inputs[0].vertex.inputs[0].vertex,
        &read.vertex.inputs[1].vertex.inputs[0].vertex
    ));
    assert_eq!(definition(Some(&read)), first);
}

#[test]
fn order_of_ops_does_not_matter() {
    let result = mkdir(Some(mkdir(Some(source("local://context")), "/a")), "/b");
    let mut definition = definition(Some(&result));
    let end = definition.def.len() - 1;
    definition.def[..end].reverse();
    assert_eq!(
        decode(definition).expect("valid").vertex.digest,
        result.vertex.digest
    );
}

#[test]
fn vertices_of_one_digest_are_written_once() {
    let info = |name: &str| {
        Arc::new(pb::SourceInfo {
            filename: name.into(),
            ..Default::default()
        })
    };
    let at = |name: &str, line| VertexOptions {
        locations: vec![Location {
            info: info(name),
            ranges: vec![pb::Range {
                start: Some(pb::Position { line, character: 0 }),
                end: None,
            }],
        }],
        ..VertexOptions::named(name)
    };
    let op = || pb::SourceOp {
        identifier: "https://example.com/x".into(),
        ..Default::default()
    };
    let one = kiln_llb::source(op(), None, at("f", 1));
    let two = kiln_llb::source(op(), None, at("f", 2));
    let mut chain = FileChain::new(Some(one));
    chain.copy(Some(&two), pb::FileActionCopy::default());
    let edge = chain.build(VertexOptions::default());
    assert_eq!(edge.vertex.inputs.len(), 1, "equal inputs are one");
    let merged = kiln_llb::merge(
        vec![Some(kiln_llb::source(op(), None, at("f", 3))), Some(two)],
        VertexOptions::default(),
    );
    let definition = definition(merged.as_ref());
    assert_eq!(definition.def.len(), 3);
    let source = definition.source.expect("a source map");
    assert_eq!(source.infos.len(), 1);
    let digest = Digest::of(&definition.def[0]).to_string();
    assert_eq!(source.locations[&digest].locations.len(), 2);
    assert_eq!(
        definition.metadata[&digest].description[CUSTOM_NAME],
        "f".to_owned()
    );
}

#[test]
fn hostile_definitions_are_refused_by_name() {
    let ok = source("a://b").vertex;
    let ok_digest = ok.digest.to_string();
    let raw = ok.raw.to_vec();
    let with_input = |digest: &str, index| {
        op_bytes(&pb::Op {
            inputs: vec![pb::Input {
                digest: digest.into(),
                index,
            }],
            op: Some(pb::op::Op::Source(pb::SourceOp::default())),
            ..Default::default()
        })
    };
    let empty_op = op_bytes(&pb::Op {
        platform: Some(pb::Platform::default()),
        ..Default::default()
    });
    let gone = Digest::of(b"gone").to_string();
    let exec = |exec: pb::ExecOp| {
        op_bytes(&pb::Op {
            op: Some(pb::op::Op::Exec(exec)),
            ..Default::default()
        })
    };
    let wild_mount = exec(pb::ExecOp {
        meta: Some(pb::Meta {
            args: vec!["x".into()],
            ..Default::default()
        }),
        mounts: vec![pb::Mount {
            dest: "/".into(),
            input: 7,
            ..Default::default()
        }],
        ..Default::default()
    });
    let finish_with = |op: Vec<u8>| {
        let digest = Digest::of(&op).to_string();
        finished(vec![raw.clone(), op], &digest, 0)
    };
    type Check = fn(&DecodeError) -> bool;
    let cases: Vec<(&str, pb::Definition, Check)> = vec![
        ("no ops", pb::Definition::default(), |e| {
            matches!(e, DecodeError::Empty)
        }),
        ("no vertex", finished(Vec::new(), &ok_digest, 0), |e| {
            matches!(e, DecodeError::TooFew(1))
        }),
        (
            "bytes that are no message",
            finished(vec![vec![0xff; 9]], &ok_digest, 0),
            |e| matches!(e, DecodeError::Malformed { index: 0, .. }),
        ),
        (
            "no result",
            pb::Definition {
                def: vec![with_input(&ok_digest, 0), raw.clone()],
                ..Default::default()
            },
            |e| matches!(e, DecodeError::NoResult),
        ),
        ("empty op", finish_with(empty_op), |e| {
            matches!(e, DecodeError::EmptyOp(_))
        }),
        (
            "an input that isn't there",
            finish_with(with_input(&gone, 0)),
            |e| matches!(e, DecodeError::MissingInput(_)),
        ),
        (
            "an input that is no digest",
            finish_with(with_input("sha256:zz", 0)),
            |e| matches!(e, DecodeError::InputName { .. }),
        ),
        (
            "a negative output",
            finish_with(with_input(&ok_digest, -1)),
            |e| matches!(e, DecodeError::OutputIndex { index: -1, .. }),
        ),
        (
            "an output out of range",
            finish_with(with_input(&ok_digest, 1)),
            |e| matches!(e, DecodeError::OutputIndex { index: 1, .. }),
        ),
        (
            "a result out of range",
            finished(vec![raw.clone()], &ok_digest, i64::MAX),
            |e| matches!(e, DecodeError::OutputIndex { .. }),
        ),
        (
            "an exec without meta",
            finish_with(exec(pb::ExecOp::default())),
            |e| {
                matches!(
                    e,
                    DecodeError::Op {
                        source: InvalidOp::ExecMeta,
                        ..
                    }
                )
            },
        ),
        ("a mount of no input", finish_with(wild_mount), |e| {
            matches!(
                e,
                DecodeError::Op {
                    source: InvalidOp::Input { input: 7, .. },
                    ..
                }
            )
        }),
        (
            "a location in no file",
            pb::Definition {
                source: Some(pb::Source {
                    locations: [(
                        ok_digest.clone(),
                        pb::Locations {
                            locations: vec![pb::Location {
                                source_index: 3,
                                ranges: Vec::new(),
                            }],
                        },
                    )]
                    .into(),
                    infos: Vec::new(),
                }),
                ..finished(vec![raw.clone()], &ok_digest, 0)
            },
            |e| matches!(e, DecodeError::SourceIndex(3)),
        ),
    ];
    for (name, definition, check) in cases {
        let error = decode(definition).expect_err(name);
        assert!(check(&error), "{name}: {error:?}");
    }
}

#[test]
fn depth_is_limited_and_takes_no_stack() {
    let chain = |length: usize| {
        let mut edge = source("local://context");
        for i in 1..length {
            edge = mkdir(Some(edge), &i.to_string());
        }
        edge
    };
    let deepest = definition(Some(&chain(MAX_DEPTH)));
    // A small stack shows that neither reading, writing nor dropping recurses.
    std::thread::Builder::new()
        .stack_size(128 * 1024)
        .spawn(move || {
            let edge = decode(deepest).expect("as deep as allowed");
            assert_eq!(definition(Some(&edge)).def.len(), MAX_DEPTH + 1);
        })
        .expect("a thread")
        .join()
        .expect("no overflow");
    let too_deep = definition(Some(&chain(MAX_DEPTH + 1)));
    assert!(matches!(decode(too_deep), Err(DecodeError::TooDeep)));
}

#[test]
fn a_replaced_source_renames_what_depends_on_it() {
    let kept = source("local://context");
    let moved = source("docker-image://docker.io/library/a:1");
    let user = exec(Some(moved.clone()), &["true"]);
    let result = kiln_llb::merge(
        vec![Some(user.clone()), Some(mkdir(Some(kept.clone()), "/k"))],
        VertexOptions::default(),
    )
    .expect("two inputs");
    let mut op = moved.vertex.op.clone();
    if let Some(pb::op::Op::Source(source)) = &mut op.op {
        source.identifier = "docker-image://docker.io/library/b:2".into();
    }
    let replacements = Replacements::from([(moved.vertex.digest, op)]);
    let read = decode_replacing(definition(Some(&result)), &replacements).expect("valid");
    let run = &read.vertex.inputs[0].vertex;
    assert_ne!(run.digest, user.vertex.digest);
    assert_eq!(run.digest, Digest::of(&run.raw));
    assert_eq!(
        run.op.inputs[0].digest,
        run.inputs[0].vertex.digest.to_string()
    );
    assert_eq!(run.name(), "run it", "options follow the op");
    assert_eq!(
        read.vertex.inputs[1].vertex.digest, result.vertex.inputs[1].vertex.digest,
        "what doesn't depend on it keeps its digest"
    );
}

#[test]
fn a_definition_of_sixteen_mebibytes_is_read() {
    // As many ops as fit: each reads the one before it and the first one, in a tree that is wide.
    let first = source("local://context");
    let mut ops: Vec<Edge> = vec![first.clone()];
    let mut size = 0;
    while size < 16 << 20 {
        let parent = ops[ops.len() / 16].clone();
        let mut chain = FileChain::new(Some(parent));
        chain.copy(
            Some(&first),
            pb::FileActionCopy {
                src: format!("/{}", ops.len()),
                dest: "/".into(),
                mode: -1,
                timestamp: -1,
                ..Default::default()
            },
        );
        let edge = chain.build(VertexOptions::default());
        size += edge.vertex.raw.len();
        ops.push(edge);
    }
    let last = ops.last().expect("an op").clone();
    let mut definition = definition(Some(&last));
    let head = definition.def.pop().expect("a head");
    definition.def = ops.iter().map(|op| op.vertex.raw.to_vec()).collect();
    definition.def.push(head);
    let count = definition.def.len();
    assert!(count > 50_000, "{count}");
    let edge = decode(definition).expect("valid");
    assert_eq!(edge.vertex.digest, last.vertex.digest);
}
