//! What instructions become of their statements.

use super::*;
use crate::lint::LintConfig;
use crate::parse::parse;

fn commands(text: &str) -> Result<Vec<Command>, String> {
    let text = format!("FROM scratch\n{text}");
    let parsed = parse(text.as_bytes()).map_err(|(error, _)| error.to_string())?;
    let lint = Linter::new(LintConfig::default());
    let mut stages = stages(&parsed.statements, &lint).map_err(|(error, _)| {
        let source = std::error::Error::source(&error);
        source.map_or_else(|| error.to_string(), ToString::to_string)
    })?;
    Ok(stages.stages.remove(0).commands)
}

#[test]
fn mistakes_are_named() {
    for (text, want) in [
        (
            "COPPY a /",
            "unknown instruction: COPPY (did you mean COPY?)",
        ),
        ("cpy a /", "unknown instruction: cpy (did you mean copy?)"),
        (
            "COPY a",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        (
            "COPY a <<E\nE",
            "COPY cannot accept a heredoc as a destination",
        ),
        ("COPY --checksum=x a /", "unknown flag: --checksum"),
        (
            "COPY --frm=x a /",
            "unknown flag: --frm (did you mean from?)",
        ),
        (
            "COPY --link=maybe a /",
            "expecting boolean value for flag --link, not: maybe",
        ),
        ("COPY --link --link a /", "duplicate flag specified: --link"),
        ("COPY --from a /", "missing a value on flag: --from"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV =a", "ENV names can not be blank"),
        ("ARG =a", "ARG names can not be blank"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        (
            "SHELL sh -c",
            "SHELL requires the arguments to be in JSON form",
        ),
        ("SHELL []", "SHELL requires at least one argument"),
        (
            "VOLUME [\" \"]",
            "VOLUME specified can not be an empty string",
        ),
        ("ONBUILD FROM a", "FROM isn't allowed as an ONBUILD trigger"),
        (
            "ONBUILD onbuild RUN a",
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        (
            "HEALTHCHECK X",
            "Unknown type \"X\" in HEALTHCHECK (try CMD)",
        ),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK NONE a", "HEALTHCHECK NONE takes no arguments"),
        (
            "HEALTHCHECK --interval=x CMD a",
            "time: invalid duration \"x\"",
        ),
        (
            "HEALTHCHECK --timeout=1us CMD a",
            "Interval \"timeout\" cannot be less than 1ms",
        ),
        (
            "HEALTHCHECK --retries=-1 CMD a",
            "--retries cannot be negative (-1)",
        ),
        ("RUN --network=x a", "invalid network mode \"x\""),
        ("RUN --security=x a", "security \"x\" is not valid"),
        (
            "RUN --mount=from=$x,target=/ a",
            "'from' doesn't support variable expansion, define alias stage instead",
        ),
        (
            "RUN --device=a,b a",
            "invalid field 'b' must be a key=value pair",
        ),
    ] {
        assert_eq!(commands(text), Err(want.to_owned()), "{text}");
    }
}

#[test]
fn mounts_are_read() {
    let mut same = |value: &str| Ok(value.to_owned());
    let mut mount = |text: &str| parse_mount(text, &mut same).map_err(|e| e.to_string());
    let cache = mount("type=cache,target=/c,sharing=locked,mode=0700,uid=1").unwrap();
    assert_eq!((cache.kind, cache.readonly), (MountKind::Cache, false));
    assert_eq!(
        (cache.sharing, cache.mode, cache.uid),
        (Some(Sharing::Locked), Some(0o700), Some(1))
    );
    assert!(mount("target=/x").unwrap().readonly);
    assert!(!mount("target=/x,rw").unwrap().readonly);
    assert_eq!(
        mount("type=tmpfs,target=/t,size=64m").unwrap().size,
        64 << 20
    );
    assert!(mount("type=secret,id=x,required").unwrap().required);
    for (text, want) in [
        ("type=foo", "unsupported mount type \"foo\""),
        (
            "type=cach",
            "unsupported mount type \"cach\" (did you mean cache?)",
        ),
        (
            "foo=1",
            "unexpected key 'foo' in 'foo=1' (did you mean from?)",
        ),
        ("x", "invalid field 'x' must be a key=value pair"),
        (
            "type=cache,required",
            "unexpected key 'required' for mount type 'cache'",
        ),
        (
            "type=bind,mode=0700",
            "mode not allowed for \"bind\" type mounts",
        ),
        (
            "type=secret",
            "invalid secret mount. one of source, target required",
        ),
        (
            "type=secret,id=a,from=b",
            "secret mount should not have a from",
        ),
        (
            "type=secret,id=a,source=b",
            "both source and id can't be set",
        ),
        (
            "type=bind,sharing=shared",
            "invalid cache sharing set for bind mount",
        ),
        ("type=cache,mode=9", "invalid value 9 for mode"),
        ("type=tmpfs,size=x", "invalid value for size: x"),
        ("ro=maybe", "invalid value for ro: maybe"),
    ] {
        assert_eq!(mount(text), Err(want.to_owned()), "{text}");
    }
}

#[test]
fn triggers_keep_their_heredocs() {
    let commands = commands("onbuild  RUN <<A\nx\nA\n").unwrap();
    let want = Instruction::Onbuild("RUN <<A\nx\nA".to_owned());
    assert_eq!(commands[0].instruction, want);
}

#[test]
fn inline_files_are_sources() {
    let commands = commands("COPY a <<-'B' /d\n\tx\nB\n").unwrap();
    let Instruction::Copy(copy) = &commands[0].instruction else {
        panic!("not a copy")
    };
    assert_eq!(copy.sources, ["a"]);
    let file = InlineFile {
        path: "B".into(),
        data: "x\n".into(),
        expand: false,
    };
    assert_eq!(copy.inline, [file]);
}
