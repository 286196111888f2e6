//! Streams of statuses, shown in each form at chosen moments.

use super::*;
use kiln_proto::google::protobuf::Timestamp;
use kiln_proto::pb;

const SECOND: i64 = 1_000_000_000;

#[expect(
    clippy::unnecessary_wraps,
    reason = "the fields that it fills are optional"
)]
fn at(milliseconds: i64) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: 1000 + milliseconds / 1000,
        nanos: (milliseconds % 1000 * 1_000_000) as i32,
    })
}

/// Our clock is an hour ahead of the daemon's.
fn ours(milliseconds: i64) -> Moment {
    (1000 + 3600) * SECOND + milliseconds * 1_000_000
}

fn vertex(digest: &str, name: &str, from: i64, to: Option<i64>) -> wire::Vertex {
    wire::Vertex {
        digest: digest.into(),
        name: name.into(),
        started: at(from),
        completed: to.and_then(at),
        ..wire::Vertex::default()
    }
}

fn vertices(all: Vec<wire::Vertex>) -> wire::StatusResponse {
    wire::StatusResponse {
        vertexes: all,
        ..wire::StatusResponse::default()
    }
}

fn log(digest: &str, when: i64, text: &str) -> wire::StatusResponse {
    wire::StatusResponse {
        logs: vec![wire::VertexLog {
            vertex: digest.into(),
            timestamp: at(when),
            stream: 1,
            msg: text.into(),
        }],
        ..wire::StatusResponse::default()
    }
}

fn part(digest: &str, current: i64, total: i64, now: i64, done: bool) -> wire::StatusResponse {
    wire::StatusResponse {
        statuses: vec![wire::VertexStatus {
            id: "transferring context:".into(),
            vertex: digest.into(),
            current,
            total,
            timestamp: at(now),
            started: at(10),
            completed: if done { at(now) } else { None },
            ..wire::VertexStatus::default()
        }],
        ..wire::StatusResponse::default()
    }
}

/// A build whose third step fails: each update with the moment that it comes.
fn failing() -> Vec<(i64, wire::StatusResponse)> {
    let mut cached = vertex("b", "[1/3] FROM busybox", 20, Some(20));
    cached.cached = true;
    let mut failed = vertex("c", "[2/3] RUN make", 100, Some(1600));
    failed.error = "process \"/bin/sh -c make\" did not complete successfully: exit code: 2".into();
    let warned = wire::StatusResponse {
        warnings: vec![wire::VertexWarning {
            vertex: "a".into(),
            short: b"LegacyKeyValueFormat: use ENV key=value (line 2)".to_vec(),
            url: "https://docs.example/rule".into(),
            info: Some(pb::SourceInfo {
                filename: "Dockerfile".into(),
                data: b"FROM busybox\nENV a b".to_vec(),
                ..pb::SourceInfo::default()
            }),
            ranges: vec![pb::Range {
                start: Some(pb::Position {
                    line: 2,
                    character: 0,
                }),
                end: Some(pb::Position {
                    line: 2,
                    character: 0,
                }),
            }],
            ..wire::VertexWarning::default()
        }],
        ..wire::StatusResponse::default()
    };
    vec![
        (
            0,
            vertices(vec![vertex("a", "[internal] load context", 0, None)]),
        ),
        (10, part("a", 1000, 0, 10, false)),
        (60, part("a", 2_410_000, 0, 60, true)),
        (
            70,
            vertices(vec![
                vertex("a", "[internal] load context", 0, Some(70)),
                cached,
            ]),
        ),
        (80, warned),
        (
            100,
            vertices(vec![vertex("c", "[2/3] RUN make", 100, None)]),
        ),
        (220, log("c", 220, "cc -c ma")),
        (300, log("c", 300, "in.c\nlinking\r\n")),
        (
            900,
            vertices(vec![vertex("d", "[3/3] RUN other", 900, None)]),
        ),
        (950, log("d", 950, "side\n")),
        (1600, vertices(vec![failed])),
    ]
}

fn plain(updates: Vec<(i64, wire::StatusResponse)>, end: i64) -> String {
    let (mut trace, mut plain) = (Trace::default(), Plain::default());
    let mut text = Plain::heading("building with tests");
    for (when, status) in updates {
        let touched = trace.update(&status, ours(when));
        plain.note(touched, ours(when));
        text.push_str(&plain.print(&mut trace, ours(when)));
    }
    text.push_str(&plain.finish(&mut trace, ours(end)));
    text
}

#[test]
fn logs_have_one_step_a_line() {
    let want = "\
#0 building with tests

#1 [internal] load context
#1 transferring context: 1.00kB
#1 transferring context: 2.41MB 0.1s done
#1 DONE 0.1s

#2 [1/3] FROM busybox
#2 CACHED

#1 [internal] load context
#1 WARN: LegacyKeyValueFormat: use ENV key=value (line 2)
#1 DONE 0.1s

#3 [2/3] RUN make
#3 0.120 cc -c main.c
#3 0.200 linking\r
#3 ERROR: process \"/bin/sh -c make\" did not complete successfully: exit code: 2

#4 [3/3] RUN other
#4 0.050 side
------
 > [2/3] RUN make:
0.120 cc -c main.c
0.200 linking\r
------
";
    assert_eq!(plain(failing(), 2000), want);
}

#[test]
fn a_step_that_talks_yields_to_those_who_wait() {
    let mut updates = vec![
        (
            0,
            vertices(vec![
                vertex("a", "loud", 0, None),
                vertex("b", "quiet", 0, None),
            ]),
        ),
        (10, log("b", 10, "waiting\n")),
    ];
    updates.extend((1..80).map(|tenth| (tenth * 100, log("a", tenth * 100, "x\n"))));
    let text = plain(updates, 8000);
    let lines: Vec<&str> = text.lines().filter(|line| !line.ends_with(" x")).collect();
    let want = [
        "#0 building with tests",
        "",
        "#1 loud",
        "#1 ...",
        "",
        "#2 quiet",
        "#2 0.010 waiting",
    ];
    assert_eq!(&lines[..7], want, "{text}");
    assert!(text.matches("#1 loud").count() >= 2, "{text}");
}

fn screen(
    updates: Vec<(i64, wire::StatusResponse)>,
    until: i64,
    terminal: Terminal,
    last: bool,
) -> String {
    let (mut trace, mut tty) = (Trace::default(), Tty::default());
    for (when, status) in updates {
        if when <= until {
            trace.update(&status, ours(when));
        }
    }
    let frame = tty.frame(&trace, ours(until), terminal, "kiln", last);
    let frame = frame.replace("\x1b[K", "").replace("\x1b[J", "");
    frame.replace("\x1b[?25l\r", "").replace("\x1b[?25h", "")
}

const TERMINAL: Terminal = Terminal {
    width: 61,
    height: 24,
    colors: false,
    breaks_lines: true,
};

#[test]
fn terminals_show_what_goes_on() {
    let want = "\
[+] Building 1.0s (2/4)                                 kiln
 => [internal] load context                             0.1s
 => => transferring context: 2.41MB                     0.1s
 => WARN: LegacyKeyValueFormat: use ENV key=value (line 0.0s
 => CACHED [1/3] FROM busybox                           0.0s
 => [2/3] RUN make                                      0.9s
 => => # cc -c main.c
 => => # linking
 => [3/3] RUN other                                     0.1s
 => => # side
";
    assert_eq!(screen(failing(), 1000, TERMINAL, false), want);
    let ended = screen(failing(), 2000, TERMINAL, true);
    assert!(ended.contains(" => ERROR [2/3] RUN make"), "{ended}");
    assert!(!ended.contains("=> => # cc"), "{ended}");
    // What hadn't ended when all was over never will.
    assert!(ended.contains(" => CANCELED [3/3] RUN other"), "{ended}");
}

#[test]
fn frames_fit_the_terminal() {
    for (width, height) in [(60, 5), (30, 8), (20, 24), (8, 2), (200, 6)] {
        let terminal = Terminal {
            width,
            height,
            ..TERMINAL
        };
        for until in [0, 65, 500, 1000, 2000] {
            let frame = screen(failing(), until, terminal, false);
            let lines: Vec<&str> = frame.lines().collect();
            assert!(
                lines.len() <= height.max(1),
                "{width}x{height} {until}:\n{frame}"
            );
            assert!(
                lines.iter().all(|line| line.chars().count() < width),
                "{frame}"
            );
        }
    }
    // Work that goes on stays in sight.
    let frame = screen(
        failing(),
        1000,
        Terminal {
            height: 6,
            ..TERMINAL
        },
        false,
    );
    assert!(
        frame.contains("RUN make") && frame.contains("RUN other"),
        "{frame}"
    );
}

/// The state isn't cut; the builder's name is, and goes where too little of it would be left.
#[test]
fn the_headline_keeps_its_state() {
    let label = "unix:///run/user/1000/kiln/buildkitd.sock";
    let ended = || vec![(0, vertices(vec![vertex("a", "x", 0, Some(10))]))];
    for (width, want) in [
        (
            80,
            "[+] Building 0.5s (1/1) FINISHED      unix:///run/user/1000/kiln/buildkitd.sock",
        ),
        (
            70,
            "[+] Building 0.5s (1/1) FINISHED \u{2026}//run/user/1000/kiln/buildkitd.sock",
        ),
        (
            50,
            "[+] Building 0.5s (1/1) FINISHED \u{2026}/buildkitd.sock",
        ),
        (40, "[+] Building 0.5s (1/1) FINISHED"),
        (30, "[+] 0.5s (1/1) FINISHED"),
        (20, "(1/1) FINISHED"),
    ] {
        let (mut trace, mut tty) = (Trace::default(), Tty::default());
        for (when, status) in ended() {
            trace.update(&status, ours(when));
        }
        let terminal = Terminal { width, ..TERMINAL };
        let frame = tty.frame(&trace, ours(500), terminal, label, true);
        let head = frame.lines().next().unwrap().replace("\x1b[K", "");
        assert_eq!(head.trim_start_matches("\x1b[?25l\r"), want, "{width}");
    }
}

/// How far up a frame begins after the terminal was made narrower.
#[test]
fn a_narrower_terminal_has_broken_the_lines() {
    let mut trace = Trace::default();
    for (when, status) in failing() {
        trace.update(&status, ours(when));
    }
    for (breaks_lines, up) in [(true, "\x1b[14A"), (false, "\x1b[7A")] {
        let wide = Terminal {
            breaks_lines,
            ..TERMINAL
        };
        let mut tty = Tty::default();
        tty.frame(&trace, ours(2000), wide, "kiln", true);
        let narrow = Terminal { width: 40, ..wide };
        let frame = tty.frame(&trace, ours(2000), narrow, "kiln", true);
        assert!(frame.contains(up), "{frame:?}");
    }
}

/// What a step is called can't move the cursor, and what takes two columns counts as two.
#[test]
fn names_are_only_text() {
    let updates = vec![(
        0,
        vertices(vec![vertex("a", "RUN \x1b[2J\u{6f22}\u{5b57} x", 0, None)]),
    )];
    let frame = screen(updates, 100, TERMINAL, false);
    let want = " => RUN  [2J\u{6f22}\u{5b57} x                                      0.1s";
    assert_eq!(frame.lines().nth(1), Some(want), "{frame:?}");
}

#[test]
fn groups_are_shown_as_one() {
    let member = |digest: &str, from, to, weak| wire::Vertex {
        progress_group: Some(pb::ProgressGroup {
            id: "g".into(),
            name: "copy things".into(),
            weak,
        }),
        ..vertex(digest, "inner", from, to)
    };
    let hidden = vec![(0, vertices(vec![member("a", 0, Some(10), true)]))];
    assert_eq!(plain(hidden.clone(), 10), "#0 building with tests\n\n");
    let mut shown = hidden;
    shown.push((20, vertices(vec![member("b", 500, Some(1500), false)])));
    let text = plain(shown, 2000);
    assert_eq!(
        text,
        "#0 building with tests\n\n#1 copy things\n#1 DONE 1.0s\n"
    );
}

#[test]
fn programs_get_the_json_of_buildx() {
    let lines: Vec<String> = failing()
        .iter()
        .map(|(_, status)| raw::line(status))
        .collect();
    let third = r#"{"statuses":[{"vertex":"a","started":"1970-01-01T00:16:40.01Z","completed":"1970-01-01T00:16:40.06Z","id":"transferring context:","current":2410000,"timestamp":"1970-01-01T00:16:40.06Z"}]}"#;
    assert_eq!(lines[2].trim_end(), third);
    let json: serde_json::Value = serde_json::from_str(&lines[3]).unwrap();
    assert_eq!(json["vertexes"][1]["cached"], true);
    assert_eq!(json["vertexes"][0]["digest"], "a");
    let json: serde_json::Value = serde_json::from_str(&lines[7]).unwrap();
    assert_eq!(json["logs"][0]["data"], "aW4uYwpsaW5raW5nDQo=");
    assert_eq!(json["logs"][0]["stream"], 1);
}

#[test]
fn warnings_come_with_their_place() {
    let mut trace = Trace::default();
    for (when, status) in failing() {
        trace.update(&status, ours(when));
    }
    let short = warnings(&trace, false);
    assert!(
        short.contains("1 warning found (--debug shows more)"),
        "{short}"
    );
    let long = warnings(&trace, true);
    assert!(
        long.contains("More info: https://docs.example/rule"),
        "{long}"
    );
    assert!(long.contains("   2 | >>> ENV a b"), "{long}");
}
