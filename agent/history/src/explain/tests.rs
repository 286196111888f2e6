//! Tables of two builds and what the difference is called.

use kiln_oci::Digest;

use super::*;

/// `vertex | name | kind | definition | arguments | pin | inputs`, the inputs as `0` or `0:path=content`.
fn build(steps: &[(&str, &str)]) -> Ingredients {
    let salt = Salt(vec![1]);
    let steps = steps.iter().map(|(name, facts)| {
        let mut step = Step {
            name: (*name).to_owned(),
            outcome: Outcome::Ran,
            kind: StepKind::Exec,
            definition: salt.digest("", name.as_bytes()),
            ..Step::default()
        };
        for fact in facts.split_whitespace() {
            let (key, value) = fact.split_once('=').expect("key=value");
            match key {
                "kind" if value == "source" => step.kind = StepKind::Source,
                "kind" => step.kind = StepKind::File,
                "cached" => step.outcome = Outcome::Cached,
                "failed" => step.outcome = Outcome::Failed,
                "nocache" => step.no_cache = true,
                "definition" => value.clone_into(&mut step.definition),
                "arg" => {
                    let (name, value) = value.split_once(':').expect("name:value");
                    step.arguments
                        .insert(name.to_owned(), salt.digest(name, value.as_bytes()));
                }
                "pin" => step.pin = Some(value.to_owned()),
                "files" => step.files = Some(Digest::of(value)),
                "in" => step.inputs.push(input(value)),
                other => panic!("no such fact: {other}"),
            }
        }
        step.vertex = Digest::of(format!("{step:?}")).to_string();
        step
    });
    Ingredients {
        steps: steps.collect(),
    }
}

fn input(text: &str) -> Input {
    let Some((step, reads)) = text.split_once(':') else {
        return Input {
            step: text.parse().expect("a number"),
            reads: None,
        };
    };
    let (path, content) = reads.split_once('@').expect("path@content");
    Input {
        step: step.parse().expect("a number"),
        reads: Some(Reads {
            patterns: vec![Pattern {
                path: path.to_owned(),
                wildcard: path.contains('*'),
            }],
            content: Some(Digest::of(content)),
        }),
    }
}

fn lists(all: &[(&str, &[(&str, &str)])]) -> FileLists {
    all.iter()
        .map(|(name, files)| {
            let digests: Vec<Digest> = files
                .iter()
                .map(|(_, content)| Digest::of(content))
                .collect();
            let blob = encode_files(files.iter().map(|(path, _)| *path).zip(&digests));
            (Digest::of(name), FileList::decode(&blob))
        })
        .collect()
}

const FROM: (&str, &str) = (
    "[1/3] FROM docker.io/library/busybox:latest@sha256:aa",
    "kind=source definition=busybox pin=aa",
);

/// Cause and summary of the last step.
fn check(
    before: Option<&[(&str, &str)]>,
    now: &[(&str, &str)],
    cause: Cause,
    summary: &str,
) -> Explanation {
    let files = lists(&[
        ("one", &[("src/a", "1"), ("src/b", "1"), ("doc", "1")]),
        ("two", &[("src/a", "2"), ("src/b", "1"), ("doc", "2")]),
    ]);
    let before = before.map(build);
    let now = build(now);
    let last = now.steps.last().expect("a step").vertex.clone();
    let mut found = explain(before.as_ref(), &now, &files, Some(&last));
    let found = found.pop().expect("an explanation");
    assert_eq!((found.cause, found.summary.as_str()), (cause, summary));
    found
}

#[test]
fn the_first_difference_is_named() {
    let run = ("[2/3] RUN make", "arg=WORD:one in=0");
    for (before, now, cause, summary) in [
        (
            vec![FROM, run],
            vec![FROM, ("[2/3] RUN make", "arg=WORD:two in=0")],
            Cause::Argument,
            "argument WORD has another value",
        ),
        (
            vec![FROM, run],
            vec![FROM, ("[2/3] RUN make all", "arg=WORD:one in=0")],
            Cause::Instruction,
            "the instruction was RUN make",
        ),
        (
            vec![FROM, run],
            vec![
                FROM,
                ("[2/3] RUN make", "arg=WORD:one definition=other in=0"),
            ],
            Cause::Instruction,
            "the options of the instruction changed",
        ),
        (
            vec![FROM, run],
            vec![
                (
                    "[1/3] FROM docker.io/library/busybox:latest@sha256:bb",
                    "kind=source definition=busybox pin=bb",
                ),
                run,
            ],
            Cause::Base,
            "docker.io/library/busybox:latest is another one now",
        ),
        (
            vec![FROM, run],
            vec![
                (
                    "[1/3] FROM docker.io/library/debian@sha256:bb",
                    "kind=source definition=debian pin=bb",
                ),
                run,
            ],
            Cause::Base,
            "docker.io/library/debian instead of docker.io/library/busybox:latest",
        ),
        (
            vec![FROM, run],
            vec![FROM, run],
            Cause::Evicted,
            "nothing of it changed: the cache no longer has the result",
        ),
        (
            vec![FROM, run],
            vec![FROM, ("[2/3] RUN make", "arg=WORD:one in=0 nocache=1")],
            Cause::NoCache,
            "the client asked to run it anew",
        ),
        (
            vec![FROM, ("[2/3] RUN make", "arg=WORD:one in=0 failed=1")],
            vec![FROM, run],
            Cause::FirstBuild,
            "it failed in the build before",
        ),
        (
            vec![FROM],
            vec![FROM, run],
            Cause::Instruction,
            "the build before had no such step",
        ),
        (
            vec![FROM, run, ("[3/3] RUN more", "in=1")],
            vec![
                FROM,
                ("[2/3] RUN make", "arg=WORD:two in=0"),
                ("[3/3] RUN more", "in=1"),
            ],
            Cause::Parent,
            "[2/3] RUN make changed: argument WORD has another value",
        ),
        (
            vec![FROM, run, ("[3/3] RUN more", "in=1")],
            vec![
                FROM,
                ("[2/3] RUN make", "arg=WORD:one in=0 nocache=1"),
                ("[3/3] RUN more", "in=1"),
            ],
            Cause::Parent,
            "[2/3] RUN make was run anew because the client asked for it",
        ),
    ] {
        check(Some(&before), &now, cause, summary);
    }
    check(
        None,
        &[FROM, run],
        Cause::FirstBuild,
        "there is no earlier build of this project",
    );
    check(
        Some(&[FROM, run]),
        &[FROM, ("[2/3] RUN make", "in=0 cached=1")],
        Cause::Cached,
        "its result was in the cache",
    );
}

#[test]
fn files_are_named_by_path() {
    let step = |list: &'static str, copy: &'static str| {
        let context = if list == "one" {
            ("[internal] load build context", "kind=source files=one")
        } else {
            ("[internal] load build context", "kind=source files=two")
        };
        vec![FROM, context, ("[2/3] COPY src /", copy)]
    };
    let found = check(
        Some(&step("one", "kind=file in=0 in=1:/src@1")),
        &step("two", "kind=file in=0 in=1:/src@2"),
        Cause::Files,
        "src/a changed",
    );
    assert_eq!(found.differences.len(), 1);
    assert_eq!(found.differences[0].name, "src/a");
    assert_ne!(found.differences[0].before, found.differences[0].after);
    check(
        Some(&step("one", "kind=file in=0 in=1:/@1")),
        &step("two", "kind=file in=0 in=1:/@2"),
        Cause::Files,
        "doc and one more file changed",
    );
    // What another step reads of the directory isn't this step's concern.
    check(
        Some(&step("one", "kind=file in=0 in=1:/src/b@1")),
        &step("two", "kind=file in=0 in=1:/src/b@1"),
        Cause::Evicted,
        "nothing of it changed: the cache no longer has the result",
    );
}

#[test]
fn an_inserted_step_leaves_the_others_their_pairs() {
    let before = [FROM, ("[2/3] RUN a", "in=0"), ("[3/3] RUN b", "in=1")];
    let now = [
        FROM,
        ("[2/4] RUN a", "in=0"),
        ("[3/4] RUN new", "in=1"),
        ("[4/4] RUN b", "definition=b in=2"),
    ];
    let (mut before, mut now) = (build(&before), build(&now));
    for build in [&mut before, &mut now] {
        for step in &mut build.steps {
            step.definition = align::words(step).to_owned();
        }
    }
    let found: Vec<_> = explain(Some(&before), &now, &FileLists::new(), None)
        .into_iter()
        .map(|one| (one.name, one.cause))
        .collect();
    assert_eq!(
        found,
        [
            ("[2/4] RUN a".to_owned(), Cause::Evicted),
            ("[3/4] RUN new".to_owned(), Cause::Instruction),
            ("[4/4] RUN b".to_owned(), Cause::Parent),
        ]
    );
}

#[test]
fn ingredients_come_back_as_they_went() {
    let all = build(&[
        FROM,
        ("[2/3] COPY a* /", "kind=file in=0 in=0:a*@1 arg=A:b"),
    ]);
    assert_eq!(Ingredients::decode(&all.encode()), Some(all.clone()));
    let text = String::from_utf8(all.encode().to_vec()).expect("text");
    assert!(!text.contains("\"b\""), "a value is in {text}");
    let mut knot = all;
    knot.steps[0].inputs.push(Input {
        step: 1,
        reads: None,
    });
    assert_eq!(Ingredients::decode(&knot.encode()), None);
}

#[test]
fn patterns_name_what_they_match_and_what_is_below() {
    let files = lists(&[
        (
            "a",
            &[("a/x.c", "1"), ("ab", "1"), ("b/", "1"), ("b/y.c", "1")],
        ),
        (
            "b",
            &[("a/x.c", "2"), ("ab", "2"), ("b/", "2"), ("b/y.c", "2")],
        ),
    ]);
    let (one, two) = (&files[&Digest::of("a")], &files[&Digest::of("b")]);
    for (path, wildcard, want) in [
        ("/a", false, vec!["a/x.c"]),
        ("a*", true, vec!["a/x.c", "ab"]),
        ("b", false, vec!["b/y.c", "b/"]),
        ("*/?.c", true, vec!["a/x.c", "b/y.c"]),
        ("", false, vec!["a/x.c", "ab", "b/y.c", "b/"]),
        // Nothing of it differs: it was a link to something that does.
        ("link", false, vec!["a/x.c", "ab", "b/y.c", "b/"]),
    ] {
        let pattern = Pattern {
            path: path.to_owned(),
            wildcard,
        };
        let found = one.differences(two, &[pattern]);
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, want, "{path}");
    }
}
