//! Options, platforms and subrequests.

use std::collections::BTreeMap;

use kiln_errdefs::{Detail, details, text};
use kiln_llb::Vertex;
use kiln_proto::pb;
use serde_json::{Value, json};

use crate::bridge::{BUSYBOX, FakeEngine};

/// The ops of the graph that was solved last.
pub(crate) fn ops(engine: &FakeEngine) -> Vec<std::sync::Arc<Vertex>> {
    let edge = kiln_llb::decode(engine.definition()).unwrap();
    kiln_llb::post_order(&edge.vertex)
}

pub(crate) fn names(engine: &FakeEngine) -> Vec<String> {
    ops(engine).iter().map(|vertex| vertex.name()).collect()
}

pub(crate) fn sources(engine: &FakeEngine) -> Vec<pb::SourceOp> {
    let ops = ops(engine);
    let sources = ops.iter().filter_map(|vertex| match &vertex.op.op {
        Some(pb::op::Op::Source(source)) => Some(source.clone()),
        _ => None,
    });
    sources.collect()
}

pub(crate) fn metadata(solved: &kiln_frontend::Solved, key: &str) -> Value {
    serde_json::from_slice(&solved.metadata[key]).unwrap()
}

#[tokio::test]
async fn steps_have_the_names_that_buildx_shows() {
    let dockerfile = format!(
        "FROM {BUSYBOX} AS base\nARG V=1\nWORKDIR /w\nRUN echo $V $HOME\nFROM base\nCOPY --link a b /d/\nRUN --mount=type=secret,id=t,env=TOKEN x $TOKEN <<E\nhi\nE\n"
    );
    let engine = FakeEngine::new(dockerfile.as_bytes());
    engine.build(&[]).await.unwrap();
    let names = names(&engine);
    let want = [
        "[base 1/3] FROM 127.0.0.1:5000/busybox:latest@sha256:b1d96093b72dd92208432bf3b33bfbb92a40c8cdcc9ddbcb72323ea1e226c36e",
        "[base 2/3] WORKDIR /w",
        "[base 3/3] RUN echo 1 $HOME",
        "[internal] load build context",
        "[stage-1 1/2] COPY --link a b /d/",
        "[stage-1 1/2] LINK COPY --link a b /d/",
        "[stage-1 2/2] RUN --mount=type=secret,id=t,env=TOKEN x **** <<E",
    ];
    assert_eq!(names, want);
}

#[tokio::test]
async fn only_needed_stages_are_looked_up() {
    let dockerfile = format!(
        "FROM nowhere AS unused\nRUN x\nFROM {BUSYBOX} AS used\nRUN y\nFROM {BUSYBOX}\nCOPY --from=used /y /\n"
    );
    let engine = FakeEngine::new(dockerfile.as_bytes());
    engine.build(&[]).await.unwrap();
    let resolved = engine.resolved.lock().unwrap();
    let resolved: Vec<&str> = resolved.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(resolved, ["docker-image://127.0.0.1:5000/busybox:latest"]);
}

#[tokio::test]
async fn platforms_are_built_side_by_side() {
    let dockerfile =
        format!("FROM --platform=$BUILDPLATFORM {BUSYBOX}\nARG TARGETARCH\nRUN make $TARGETARCH\n");
    let engine = FakeEngine::new(dockerfile.as_bytes());
    let solved = engine
        .build(&["platform=linux/amd64,linux/arm64/v8"])
        .await
        .unwrap();
    let keys: Vec<&String> = solved.refs.keys().collect();
    assert_eq!(keys, ["linux/amd64", "linux/arm64"]);
    let config = metadata(&solved, "containerimage.config/linux/arm64");
    assert_eq!(config["architecture"], "arm64");
    assert_eq!(
        metadata(&solved, "refs.platforms"),
        json!({"Platforms": [
            {"ID": "linux/amd64", "Platform": {"architecture": "amd64", "os": "linux"}},
            {"ID": "linux/arm64", "Platform": {"architecture": "arm64", "os": "linux"}},
        ]})
    );
    let name = names(&engine).pop().unwrap();
    assert_eq!(name, "[linux/amd64->arm64 2/2] RUN make arm64");
}

#[tokio::test]
async fn triggers_of_base_images_run_first() {
    let config = r#"{"architecture":"amd64","os":"linux","config":{"OnBuild":["COPY a /","LABEL t=1"],"Env":["X=1"]},"rootfs":{"type":"layers","diff_ids":["sha256:557b6c06ad0086954771d64b41ebc9dc1bb566fc995d0ed38398556296431185"]}}"#;
    let engine = FakeEngine::new(b"FROM trigger\nRUN own\n");
    engine.image("docker.io/library/trigger:latest", config);
    let solved = engine.build(&[]).await.unwrap();
    let names = names(&engine);
    assert_eq!(names[2..], ["[2/4] ONBUILD COPY a /", "[3/4] RUN own"]);
    let config = metadata(&solved, "containerimage.config");
    assert_eq!(config["config"]["Labels"], json!({"t": "1"}));
    assert_eq!(config["config"].get("OnBuild"), None);
    let env = config["config"]["Env"].as_array().unwrap();
    assert_eq!(env[0], "X=1");
    assert!(env[1].as_str().unwrap().starts_with("PATH="));
}

#[tokio::test]
async fn another_syntax_is_another_frontend() {
    let engine = FakeEngine::new(b"# syntax=someone/frontend:2 --x\nwhatever\n");
    engine.build(&["target=t"]).await.unwrap();
    let solved = engine.solved.lock().unwrap();
    let last = solved.last().unwrap();
    assert_eq!(last.frontend, "gateway.v0");
    let options: BTreeMap<&str, &str> = last
        .options
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert_eq!(options["source"], "someone/frontend:2");
    assert_eq!(options["cmdline"], "someone/frontend:2 --x");
    assert_eq!(options["target"], "t");
}

#[tokio::test]
async fn options_with_mistakes_are_refused() {
    for (option, want) in [
        (
            "platform=a/b/c/d/e",
            "failed to parse target platform a/b/c/d/e",
        ),
        ("image-resolve-mode=x", "invalid image-resolve-mode: x"),
        (
            "add-hosts=a",
            "failed to parse additional hosts: invalid key-value pair a",
        ),
        (
            "add-hosts=a=b",
            "failed to parse additional hosts: failed to parse IP b",
        ),
        ("shm-size=x", "failed to parse shm size"),
        (
            "ulimit=nofile=2:1",
            "failed to parse ulimit: ulimit soft limit",
        ),
        (
            "ulimit=x=1",
            "failed to parse ulimit: invalid ulimit type: x",
        ),
        ("force-network-mode=x", "invalid netmode x"),
        (
            "multi-platform=x",
            "invalid boolean value for multi-platform: x",
        ),
        ("cache-imports=x", "failed to unmarshal cache-imports"),
        ("frontend.caps=x", "unsupported frontend capability x"),
        ("requestid=frontend.x", "unsupported request frontend.x"),
        (
            "build-arg:BUILDKIT_DOCKERFILE_CHECK=x",
            "failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK",
        ),
        ("target=x", "target stage \"x\" could not be found"),
        (
            "attest:sbom=",
            "the Dockerfile frontend can't make an SBOM yet",
        ),
    ] {
        let engine = FakeEngine::new(b"FROM scratch\n");
        let error = engine.build(&[option]).await.unwrap_err();
        let text = text(error.as_ref());
        assert!(text.starts_with(want), "{option}: {text}");
    }
    let engine = FakeEngine::new(b"FROM scratch\n");
    let error = engine.build(&["requestid=frontend.x"]).await.unwrap_err();
    let name = "frontend.x".to_owned();
    assert_eq!(details(error.as_ref()), [Detail::Subrequest { name }]);
}

#[tokio::test]
async fn a_missing_dockerfile_is_named() {
    let engine = FakeEngine::new(b"");
    let error = engine
        .build(&["filename=sub/Dockerfile"])
        .await
        .unwrap_err();
    assert_eq!(
        text(error.as_ref()),
        "failed to read dockerfile: open sub/Dockerfile: no such file or directory"
    );
    engine.file("dockerfile", "sub/dockerfile", b"FROM scratch\n");
    engine.build(&["filename=sub/Dockerfile"]).await.unwrap();
}

#[tokio::test]
async fn targets_and_outline_are_listed() {
    let dockerfile = format!(
        "ARG TAG=1\n# base is the base\nFROM {BUSYBOX} AS base\n# V is the version\nARG V=$TAG\nRUN --mount=type=secret,id=s,required --mount=type=ssh x\nFROM base\n"
    );
    let engine = FakeEngine::new(dockerfile.as_bytes());
    let solved = engine.build(&["requestid=frontend.targets"]).await.unwrap();
    let targets = metadata(&solved, "result.json");
    assert_eq!(targets["targets"][0]["name"], "base");
    assert_eq!(targets["targets"][0]["description"], "is the base");
    assert_eq!(
        targets["targets"][1],
        json!({"default": true, "base": "base", "location": {"ranges": [{"start": {"line": 7}, "end": {"line": 7}}]}})
    );
    let text = String::from_utf8(solved.metadata["result.txt"].to_vec()).unwrap();
    assert_eq!(
        text,
        "TARGET    DESCRIPTION\nbase      is the base\n(default) \n"
    );

    let options = ["requestid=frontend.outline", "build-arg:V=7", "target=base"];
    let solved = engine.build(&options).await.unwrap();
    let text = String::from_utf8(solved.metadata["result.txt"].to_vec()).unwrap();
    assert_eq!(
        text,
        "TARGET:      base\nDESCRIPTION: is the base\n\nBUILD ARG   VALUE   DESCRIPTION\nV           7       is the version\n\nSECRET   REQUIRED\ns        true\n\nSSH       REQUIRED\ndefault   \n\n"
    );
    let solved = engine
        .build(&["requestid=frontend.subrequests.describe"])
        .await
        .unwrap();
    let names = metadata(&solved, "result.json");
    assert_eq!(names.as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn check_rules_are_listed() {
    let engine = FakeEngine::new(b"FROM scratch\nMAINTAINER me\nFROM broken!\n");
    let solved = engine.build(&["requestid=frontend.lint"]).await.unwrap();
    let results = metadata(&solved, "result.json");
    let rules = results["warnings"].as_array().unwrap().iter();
    let rules: Vec<&str> = rules.map(|w| w["ruleName"].as_str().unwrap()).collect();
    assert_eq!(rules, ["MaintainerDeprecated", "InvalidDefaultArgInFrom"]);
    assert_eq!(
        results["buildError"]["location"]["ranges"][0]["start"]["line"],
        3
    );
    assert_eq!(&solved.metadata["result.statuscode"][..], b"1");
    let text = String::from_utf8(solved.metadata["result.txt"].to_vec()).unwrap();
    assert!(text.contains("WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/\nMaintainer instruction is deprecated in favor of using label\nDockerfile:2\n--------------------\n   1 |     FROM scratch\n   2 | >>> MAINTAINER me\n"), "{text}");
}

#[tokio::test]
async fn variables_of_all_kinds_reach_the_step() {
    let dockerfile = format!(
        "ARG GLOBAL=g\nFROM {BUSYBOX}\nARG GLOBAL\nARG DEFAULT=d\nARG GIVEN=x\nARG UNSET\nENV A=$DEFAULT B=${{GIVEN}}-$GLOBAL\nENV A=${{A}}2\nRUN true\n"
    );
    let engine = FakeEngine::new(dockerfile.as_bytes());
    let solved = engine.build(&["build-arg:GIVEN=given"]).await.unwrap();
    let ops = ops(&engine);
    let Some(pb::op::Op::Exec(exec)) = &ops[1].op.op else {
        panic!("not a step")
    };
    let env = &exec.meta.as_ref().unwrap().env;
    assert_eq!(
        env[1..],
        ["GLOBAL=g", "DEFAULT=d", "GIVEN=given", "B=given-g", "A=d2"]
    );
    let config = metadata(&solved, "containerimage.config");
    let history = config["history"].as_array().unwrap().last().unwrap();
    assert_eq!(
        history["created_by"],
        "RUN |4 GLOBAL=g DEFAULT=d GIVEN=given UNSET= /bin/sh -c true # buildkit"
    );
}

#[tokio::test]
async fn the_time_of_a_build_can_be_that_of_a_commit() {
    let commit = b"tree 1\nauthor A <a@b> 5 +0100\ncommitter C <c@d> 1700000000 +0000\n\nmessage\n";
    let with_stage = "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD https://host/r.git#v1 /\nFROM scratch\nWORKDIR /w\n";
    for (dockerfile, options, source) in [
        (
            "FROM scratch\nWORKDIR /w\n",
            vec![
                "context=https://host/r.git",
                "build-arg:SOURCE_DATE_EPOCH=context",
            ],
            "git://host/r.git",
        ),
        (with_stage, vec![], "git://host/r.git#v1"),
        (
            "FROM scratch\nWORKDIR /w\n",
            vec![
                "context:named=https://host/n.git",
                "build-arg:SOURCE_DATE_EPOCH=named",
            ],
            "git://host/n.git",
        ),
    ] {
        let engine = FakeEngine::new(dockerfile.as_bytes());
        engine.file("git://host/r.git", "Dockerfile", dockerfile.as_bytes());
        engine.commit(source, commit);
        let solved = engine.build(&options).await.unwrap();
        assert_eq!(&solved.metadata["source.date.epoch"][..], b"1700000000");
        let config = metadata(&solved, "containerimage.config");
        assert_eq!(config["history"][0]["created"], "2023-11-14T22:13:20Z");
    }
    for (value, want) in [
        ("nowhere", "invalid SOURCE_DATE_EPOCH: nowhere"),
        (
            "other",
            "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD",
        ),
        (
            "copy",
            "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported COPY instruction",
        ),
        ("base", "SOURCE_DATE_EPOCH stage must use FROM scratch"),
    ] {
        let engine = FakeEngine::new(b"FROM scratch AS other\nFROM x AS base\nFROM scratch AS copy\nCOPY a /\nFROM scratch\n");
        let option = format!("build-arg:SOURCE_DATE_EPOCH={value}");
        let error = engine.build(&[&option]).await.unwrap_err();
        assert_eq!(text(error.as_ref()), want);
    }
}

#[tokio::test]
async fn copies_with_mistakes_are_refused() {
    for (line, want) in [
        ("COPY https://h/x /", "source can't be a URL for COPY"),
        (
            "COPY https://h/r.git /",
            "source can't be a git ref for COPY",
        ),
        (
            "ADD --checksum=sha256:00 a /",
            "checksum requires HTTP(S) or Git sources",
        ),
        (
            "ADD --checksum=sha256:00 https://h/a https://h/b /",
            "checksum can't be specified for multiple sources",
        ),
        (
            "ADD --checksum=x https://h/a /",
            "x is no checksum: unsupported digest algorithm in \"x\": only sha256 is supported",
        ),
        (
            "ADD --keep-git-dir=false https://h/r.git?keep-git-dir=1 /",
            "inconsistent keep-git-dir configuration",
        ),
        (
            "ADD --checksum=a https://h/r.git?checksum=b /",
            "checksum mismatch \"a\" != \"b\"",
        ),
        ("ADD https://h/r.git?x=1 /", "unexpected query \"x\""),
        (
            "COPY --from=later a /",
            "cannot copy from stage \"later\", it needs to be defined before current stage \"stage-0\"",
        ),
        ("COPY --from=9 a /", "invalid stage index 9"),
        (
            "COPY --from=$X a /",
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
        ),
        (
            "COPY --chmod=888 a /",
            "invalid chmod parameter: '888'. it should be octal string and between 0 and 07777",
        ),
        (
            "RUN --mount=from=later,target=/x true",
            "cannot mount from stage \"later\" to \"/x\", stage needs to be defined before current command",
        ),
        (
            "RUN --mount=type=ssh,source=x true",
            "ssh does not support source",
        ),
        ("STOPSIGNAL nothing", "invalid signal: nothing"),
        (
            "VOLUME $NONE",
            "VOLUME specified can not be an empty string",
        ),
    ] {
        let dockerfile = format!("FROM scratch AS stage-0\n{line}\nFROM scratch AS later\n");
        let engine = FakeEngine::new(dockerfile.as_bytes());
        let error = engine.build(&["target=stage-0"]).await.unwrap_err();
        assert_eq!(text(error.as_ref()), want, "{line}");
    }
}

#[tokio::test]
async fn steps_are_confined_as_they_ask() {
    let dockerfile = format!(
        "FROM {BUSYBOX}\nRUN --network=none --security=insecure --device=vendor.com/gpu=all,required true\n"
    );
    let engine = FakeEngine::new(dockerfile.as_bytes());
    engine.build(&[]).await.unwrap();
    let ops = ops(&engine);
    let Some(pb::op::Op::Exec(exec)) = &ops[1].op.op else {
        panic!("not a step")
    };
    assert_eq!(exec.network(), pb::NetMode::None);
    assert_eq!(exec.security(), pb::SecurityMode::Insecure);
    assert_eq!(exec.cdi_devices[0].name, "vendor.com/gpu=all");
    assert!(!exec.cdi_devices[0].optional);
    let caps = &ops[1].options.caps;
    for cap in ["exec.meta.network", "exec.meta.security", "exec.meta.cdi"] {
        assert!(caps.contains(cap), "{cap}");
    }
}
