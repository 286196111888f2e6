//! Dockerfiles that mean harm: each gives a clear error or a build, in bounded time and memory.

use std::fmt::Write as _;

use kiln_errdefs::text;
use proptest::prelude::*;

use crate::bridge::{BUSYBOX, FakeEngine};

/// Builds on a small stack and returns the error's text.
fn outcome(dockerfile: String) -> Option<String> {
    let build = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let engine = FakeEngine::new(dockerfile.as_bytes());
        let result = runtime.block_on(engine.build(&[]));
        result.err().map(|error| text(error.as_ref()))
    };
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(build);
    thread.unwrap().join().expect("no panic and no overflow")
}

#[test]
fn ten_thousand_stages() {
    let chain: String = (0..10_000)
        .map(|i| match i {
            0 => "FROM scratch AS s0\n".to_owned(),
            i => format!("FROM s{} AS s{i}\nLABEL n{i}={i}\n", i - 1),
        })
        .collect();
    assert_eq!(outcome(chain), None);
    let copies: String = (0..5_000)
        .map(|i| match i {
            0 => "FROM scratch AS s0\nCOPY a /\n".to_owned(),
            i => format!("FROM scratch AS s{i}\nCOPY --from=s{} /a /a\n", i - 1),
        })
        .collect();
    assert_eq!(outcome(copies), None);
}

#[test]
fn an_image_whose_trigger_copies_from_itself() {
    let config = r#"{"architecture":"amd64","os":"linux","config":{"OnBuild":["COPY --from=loop /a /"]},"rootfs":{"type":"layers","diff_ids":["sha256:557b6c06ad0086954771d64b41ebc9dc1bb566fc995d0ed38398556296431185"]}}"#;
    let engine = FakeEngine::new(b"FROM loop\n");
    engine.image("docker.io/library/loop:latest", config);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(engine.build(&[])).unwrap();
}

#[test]
fn arguments_that_double_each_other() {
    let mut text = "ARG A0=0123456789\n".to_owned();
    for i in 1..60 {
        let before = i - 1;
        writeln!(text, "ARG A{i}=$A{before}$A{before}").unwrap();
    }
    text.push_str("FROM scratch\n");
    let error = outcome(text).expect("an error");
    assert!(error.contains("the expansion is larger than"), "{error}");

    let mut text = format!("FROM {BUSYBOX}\nENV A0=0123456789\n");
    for i in 1..60 {
        let before = i - 1;
        writeln!(text, "ENV A{i}=$A{before}$A{before}").unwrap();
    }
    let error = outcome(text).expect("an error");
    assert!(error.contains("the expansion is larger than"), "{error}");
}

#[test]
fn nested_variables() {
    let text = format!("FROM scratch\nENV a={}\n", "${b:-".repeat(10_000));
    let error = outcome(text).expect("an error");
    assert!(error.contains("nested deeper"), "{error}");
    let text = format!("FROM scratch\nLABEL a=\"{}\"\n", "${b:-\"".repeat(10_000));
    assert!(outcome(text).is_some());
}

#[test]
fn bytes_that_are_no_text() {
    let engine = FakeEngine::new(b"FROM scratch\nLABEL a=\xff\xfe\n");
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let error = runtime.unwrap().block_on(engine.build(&[])).unwrap_err();
    assert_eq!(text(error.as_ref()), "line 2 is not valid UTF-8");
}

#[test]
fn huge_heredocs() {
    let line = "x".repeat(4000);
    let text = format!(
        "FROM {BUSYBOX}\nRUN <<E\n{}E\n",
        format!("{line}\n").repeat(2_000)
    );
    assert_eq!(outcome(text), None);
}

#[test]
fn triggers_of_triggers() {
    let text = format!(
        "FROM scratch AS a\nONBUILD {} RUN x\nFROM a\n",
        "ONBUILD ".repeat(5_000)
    );
    let error = outcome(text).expect("an error");
    assert!(error.contains("Chaining ONBUILD"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_instructions_are_built_or_refused(
        lines in proptest::collection::vec(
            "(FROM scratch( AS [ab])?|FROM [ab]|RUN( --mount=(type=(cache|bind|tmpfs|secret|ssh)|target=/?[a-c]|from=[ab]|id=x|,){0,5})?|COPY( --from=[ab0-2]| --link| --parents| --chmod=[0-7u+x]{1,4}){0,2}|ADD|ENV|ARG|LABEL|WORKDIR|USER|EXPOSE|VOLUME|HEALTHCHECK|ONBUILD RUN|SHELL|STOPSIGNAL|CMD|ENTRYPOINT) [ -~]{0,30}",
            1..12,
        )
    ) {
        let text = format!("FROM scratch AS a\n{}\n", lines.join("\n"));
        let _ = outcome(text);
    }
}
