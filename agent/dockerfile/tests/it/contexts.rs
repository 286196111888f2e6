//! What a build is given to read: directories, images, repositories, archives, graphs.

use std::collections::BTreeMap;

use kiln_errdefs::text;
use kiln_proto::pb;
use serde_json::json;

use crate::bridge::{BUSYBOX, FakeEngine};
use crate::frontend::{metadata, ops, sources};

#[tokio::test]
async fn the_context_is_asked_for_what_is_read() {
    let dockerfile = "FROM scratch AS a\nCOPY unused /\nFROM scratch\nADD x/../y z/*.txt https://h/f /d/\nCOPY --from=a /q /\n";
    let engine = FakeEngine::new(dockerfile.as_bytes());
    engine.file("context", ".dockerignore", b"*.md\n!/keep.md\n");
    engine.build(&[]).await.unwrap();
    let sources = sources(&engine);
    let local = sources.iter().find(|s| s.identifier == "local://context");
    let attrs = &local.unwrap().attrs;
    assert_eq!(attrs["local.followpaths"], r#"["unused","y","z/*.txt"]"#);
    assert_eq!(attrs["local.excludepatterns"], r#"["*.md","!keep.md"]"#);
    let http = sources.iter().find(|s| s.identifier == "https://h/f");
    assert_eq!(http.unwrap().attrs["http.filename"], "f");
}

#[tokio::test]
async fn an_ignore_file_of_the_dockerfile_wins() {
    let engine = FakeEngine::new(b"FROM scratch\nCOPY . /\n");
    engine.file("dockerfile", "Dockerfile.dockerignore", b"own\n");
    engine.file("context", ".dockerignore", b"other\n");
    engine.build(&[]).await.unwrap();
    assert_eq!(
        sources(&engine)[0].attrs["local.excludepatterns"],
        r#"["own"]"#
    );
    assert!(!sources(&engine)[0].attrs.contains_key("local.followpaths"));
}

#[tokio::test]
async fn named_contexts_stand_for_stages_and_images() {
    let dockerfile = "FROM nothing AS stage\nRUN x\nFROM elsewhere\nCOPY --from=stage /a /\nCOPY --from=files sub /\n";
    let engine = FakeEngine::new(dockerfile.as_bytes());
    engine.file("files", ".dockerignore", b"skip\n");
    let options = [
        &format!("context:stage=docker-image://{BUSYBOX}") as &str,
        &format!("context:elsewhere=docker-image://{BUSYBOX}"),
        "context:files=local:files",
        "local-sessionid:files=other-session",
        "sharedkey:localdir:files=k",
    ];
    engine.build(&options).await.unwrap();
    let sources = sources(&engine);
    let local = sources
        .iter()
        .find(|s| s.identifier == "local://files")
        .unwrap();
    assert_eq!(local.attrs["local.session"], "other-session");
    assert_eq!(local.attrs["local.sharedkeyhint"], "context:files-k");
    assert_eq!(local.attrs["local.followpaths"], r#"["sub"]"#);
    assert_eq!(local.attrs["local.excludepatterns"], r#"["skip"]"#);
    assert_eq!(sources.len(), 2, "both images are one");
}

#[tokio::test]
async fn git_and_archives_are_contexts() {
    let engine = FakeEngine::new(b"");
    engine.file(
        "git://host/o/r.git#main:sub",
        "Dockerfile",
        b"FROM scratch\nCOPY a /\n",
    );
    engine
        .build(&["context=https://host/o/r.git#main:sub"])
        .await
        .unwrap();
    let git = &sources(&engine)[0];
    assert_eq!(git.identifier, "git://host/o/r.git#main:sub");
    assert_eq!(git.attrs["git.fullurl"], "https://host/o/r.git");

    let engine = FakeEngine::new(b"");
    engine.file(
        "https://host/Dockerfile",
        "context",
        b"FROM scratch\nLABEL a=b\n",
    );
    let solved = engine
        .build(&["context=https://host/Dockerfile"])
        .await
        .unwrap();
    let config = metadata(&solved, "containerimage.config");
    assert_eq!(config["config"]["Labels"], json!({"a": "b"}));
}

#[tokio::test]
async fn graphs_of_the_client_are_contexts() {
    let graph = |identifier: &str| {
        let source = pb::SourceOp {
            identifier: identifier.to_owned(),
            ..pb::SourceOp::default()
        };
        let edge = kiln_llb::source(source, None, kiln_llb::VertexOptions::default());
        kiln_llb::definition(Some(&edge))
    };
    let engine = FakeEngine::new(b"");
    engine.file(
        "https://h/df",
        "Dockerfile",
        b"FROM base\nCOPY a /\nCOPY --from=more b /\n",
    );
    let inputs = BTreeMap::from([
        ("dockerfile".to_owned(), graph("https://h/df")),
        ("context".to_owned(), graph("https://h/ctx")),
        ("i1".to_owned(), graph("https://h/base")),
        ("i2".to_owned(), graph("https://h/more")),
    ]);
    // {"containerimage.config": base64 of {"architecture":"amd64","os":"linux","config":{"Env":["X=1"]}}}
    let config =
        "eyJhcmNoaXRlY3R1cmUiOiJhbWQ2NCIsIm9zIjoibGludXgiLCJjb25maWciOnsiRW52IjpbIlg9MSJdfX0=";
    let metadata_option = format!(r#"input-metadata:i1={{"containerimage.config":"{config}"}}"#);
    let options = [
        "context:base=input:i1",
        "context:more=input:i2",
        metadata_option.as_str(),
    ];
    let solved = engine.build_with(&options, inputs.clone()).await.unwrap();
    let identifiers: Vec<String> = sources(&engine).into_iter().map(|s| s.identifier).collect();
    assert_eq!(
        identifiers,
        ["https://h/base", "https://h/ctx", "https://h/more"]
    );
    let config = metadata(&solved, "containerimage.config");
    assert_eq!(config["config"]["Env"][0], "X=1");

    let options = ["context:base=input:gone"];
    let error = engine.build_with(&options, inputs).await.unwrap_err();
    assert_eq!(text(error.as_ref()), "invalid input gone for base");
}

#[tokio::test]
async fn an_archive_at_an_address_is_unpacked() {
    let mut header = [0_u8; 512];
    header[..10].copy_from_slice(b"Dockerfile");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for head in [&header[..], b"\x1f\x8b\x08...", b"\x42\x5a\x68..."] {
        let engine = FakeEngine::new(b"");
        engine.file("https://h/x", "context", head);
        // The unpacked archive has no identifier of its own.
        engine.file("", "Dockerfile", b"FROM scratch\nCOPY . /\n");
        engine.build(&["context=https://h/x"]).await.unwrap();
        let ops = ops(&engine);
        let Some(pb::op::Op::File(file)) = &ops[1].op.op else {
            panic!("not a file op")
        };
        let Some(pb::file_action::Action::Copy(copy)) = &file.actions[0].action else {
            panic!("not a copy")
        };
        assert!(copy.attempt_unpack_docker_compatibility);
        assert_eq!(copy.src, "/context");
    }
}
