//! What statements become of the text.

use proptest::prelude::*;

use super::*;

fn statements(text: &str) -> Vec<(String, Vec<String>, Vec<String>)> {
    let parsed = parse(text.as_bytes()).unwrap();
    let parts = parsed.statements.into_iter();
    parts.map(|s| (s.keyword, s.flags, s.args)).collect()
}

fn one(text: &str) -> Statement {
    parse(text.as_bytes()).unwrap().statements.remove(0)
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|item| (*item).to_owned()).collect()
}

#[test]
fn words_of_each_instruction() {
    for (line, args) in [
        ("FROM a  AS b", vec!["a", "AS", "b"]),
        ("RUN echo  a   b", vec!["echo  a   b"]),
        (r#"RUN ["a", "b c"]"#, vec!["a", "b c"]),
        (r#"RUN ["a", b]"#, vec![r#"["a", b]"#]),
        ("COPY a b /c", vec!["a", "b", "/c"]),
        (r#"COPY ["a b", "/c"]"#, vec!["a b", "/c"]),
        ("ENV a b c", vec!["a", "b c", ""]),
        (
            r#"ENV a=b c="d e" f=g\ h"#,
            vec!["a", "b", "=", "c", "\"d e\"", "=", "f", "g\\ h", "="],
        ),
        ("ARG a b=c", vec!["a", "b=c"]),
        ("WORKDIR /a b ", vec!["/a b"]),
        ("HEALTHCHECK --interval=1s CMD  a b", vec!["CMD", "a b"]),
        (r#"HEALTHCHECK CMD ["a"]"#, vec!["CMD", "a"]),
        ("ONBUILD RUN a b", vec!["RUN", "a b"]),
        ("ONBUILD ONBUILD ONBUILD RUN a", vec!["ONBUILD"]),
        ("CMD []", vec![]),
        ("USER", vec![]),
    ] {
        assert_eq!(one(line).args, strings(&args), "{line}");
    }
}

#[test]
fn flags_end_at_the_first_word_without_dashes() {
    for (line, flags, args) in [
        ("RUN --a=b --c d --e", vec!["--a=b", "--c"], "d --e"),
        (r#"RUN --a="b c" x"#, vec!["--a=b c"], "x"),
        (r"RUN --a=b\ c x", vec!["--a=b c"], "x"),
        ("RUN -- --x", vec![], "--x"),
        ("RUN -a", vec![], "-a"),
        ("RUN --é=ü x", vec!["--é=ü"], "x"),
    ] {
        let statement = one(line);
        assert_eq!(statement.flags, strings(&flags), "{line}");
        assert_eq!(statement.args, [args], "{line}");
    }
}

#[test]
fn lines_are_joined() {
    let text = "# c\nFROM a\\\n # comment\n\n  b\nRUN x \\  \n y\\\\\nRUN z\n";
    let parsed = parse(text.as_bytes()).unwrap();
    let lines: Vec<_> = parsed
        .statements
        .iter()
        .map(|s| (s.original.as_str(), s.lines.start, s.lines.end))
        .collect();
    assert_eq!(
        lines,
        [("FROM a  b", 2, 5), ("RUN x  y\\\\", 6, 7), ("RUN z", 8, 8)]
    );
    assert_eq!(parsed.empty_continuations, [Lines::one(5)]);
    assert_eq!(parsed.statements[0].comments, ["c"]);
}

#[test]
fn the_escape_can_be_changed() {
    let text = "# escape=`\nRUN a `\n b\nCOPY c:\\ d\\\n";
    let got = statements(text);
    assert_eq!(got[0].2, ["a  b"]);
    assert_eq!(got[1].2, ["c:\\", "d\\"]);
    assert_eq!(parse(text.as_bytes()).unwrap().escape, '`');
}

#[test]
fn heredocs_follow_their_line() {
    let text = "RUN <<A <<-'B'\na\n\tA\nA\n\tb\n\tB\nCOPY <<X <<\"Y\" /d\n1\nX\n2\nY\nRUN a << EOF\nq\nEOF\nRUN 3<<< x\n";
    let parsed = parse(text.as_bytes()).unwrap();
    let docs = |i: usize| {
        let docs = parsed.statements[i].heredocs.iter();
        docs.map(|d| (d.name.as_str(), d.content.as_str(), d.expand, d.chomp))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        docs(0),
        [("A", "a\n\tA\n", true, false), ("B", "\tb\n", false, true)]
    );
    assert_eq!(
        docs(1),
        [("X", "1\n", true, false), ("Y", "2\n", false, false)]
    );
    assert_eq!(docs(2), [("EOF", "q\n", true, false)]);
    assert!(docs(3).is_empty());
    assert_eq!(parsed.statements[0].lines, Lines::new(1, 6));
    assert_eq!(chomp("\t\ta\n\tb"), "a\nb");
    assert_eq!(one("ONBUILD RUN <<E\nx\nE\n").heredocs.len(), 1);
    assert!(one("RUN [\"<<E\"]\n").heredocs.is_empty());
}

#[test]
fn syntax_is_found_in_many_forms() {
    for (text, want) in [
        (
            "# syntax = docker/dockerfile:1 x\nFROM a",
            Some("docker/dockerfile:1"),
        ),
        ("#!/usr/bin/env x\n#syntax=a", Some("a")),
        ("# escape=`\n# syntax=a", Some("a")),
        ("# hello\n# syntax=a", None),
        ("\n# syntax=a", None),
        ("// syntax=a\n", Some("a")),
        (r#"{"syntax": "a", "b": 1}"#, Some("a")),
        ("\u{feff}# syntax=a", Some("a")),
        ("", None),
    ] {
        let got = detect_syntax(text.as_bytes());
        assert_eq!(got.as_ref().map(Directive::first_word), want, "{text:?}");
    }
}

#[test]
fn errors_have_lines() {
    for (text, error, lines) in [
        (
            "FROM a\nRUN <<E\nx",
            ParseError::UnterminatedHeredoc,
            (2, 3),
        ),
        ("", ParseError::NoInstructions, (0, 0)),
        ("# a\n", ParseError::NoInstructions, (1, 1)),
        (
            "# escape=`\n# escape=`\nFROM a",
            ParseError::DuplicateDirective("escape".into()),
            (1, 1),
        ),
        (
            "# escape=x\nFROM a",
            ParseError::EscapeToken("x".into()),
            (0, 0),
        ),
        ("FROM a\nENV x", ParseError::TwoArguments("ENV"), (2, 2)),
        (
            "FROM a\nENV x=1 \\\ny",
            ParseError::NoEquals("y".into()),
            (2, 3),
        ),
        ("FROM a\nRUN [1]", ParseError::NotStrings, (2, 2)),
    ] {
        let want = Lines::new(lines.0, lines.1);
        assert_eq!(
            parse(text.as_bytes()).unwrap_err(),
            (error, want),
            "{text:?}"
        );
    }
    assert_eq!(
        parse(b"# \xff\nFROM a\nRUN \xff").unwrap_err(),
        (ParseError::NotUtf8(3), Lines::one(3))
    );
    let long = format!("FROM a\nRUN {}", "x".repeat(MAX_LINE));
    assert_eq!(
        parse(long.as_bytes()).unwrap_err().0,
        ParseError::LineTooLong
    );
}

#[test]
fn hostile_files_are_parsed_in_bounded_time_and_stack() {
    let deep = format!("FROM a\nRUN {}\n", "[".repeat(60_000));
    assert_eq!(parse(deep.as_bytes()).unwrap().statements.len(), 2);
    let onbuild = format!("FROM a\n{} RUN x\n", "ONBUILD ".repeat(8_000));
    assert_eq!(parse(onbuild.as_bytes()).unwrap().statements.len(), 2);
    let line = "x".repeat(1000);
    let heredoc = format!("FROM a\nRUN <<E\n{}E\n", format!("{line}\n").repeat(10_000));
    let parsed = parse(heredoc.as_bytes()).unwrap();
    assert_eq!(parsed.statements[1].heredocs[0].content.len(), 10_010_000);
    let stages = "FROM a AS b\n".repeat(10_000);
    assert_eq!(parse(stages.as_bytes()).unwrap().statements.len(), 10_000);
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&data);
        let _ = detect_syntax(&data);
    }

    #[test]
    fn any_lines_are_parsed_or_refused(
        lines in proptest::collection::vec(
            "(FROM|RUN|COPY|ENV|ARG|ONBUILD|HEALTHCHECK|# escape=|# syntax=|LABEL)?[ -~\\\\\"'<\\[${}é\t]{0,40}(\\\\|<<E|\n|EOF)?",
            0..20,
        )
    ) {
        let text = lines.join("\n");
        if let Ok(parsed) = parse(text.as_bytes()) {
            for statement in parsed.statements {
                prop_assert!(statement.lines.start >= 1 && statement.lines.end >= statement.lines.start);
            }
        }
    }
}
