//! The lines of a source file that an error or a warning is about.
//!
//! ```text
//! Dockerfile:2
//! --------------------
//!    1 |     FROM busybox
//!    2 | >>> RUN false
//!    3 |     RUN true
//! --------------------
//! ```

use std::fmt::Write as _;

use kiln_proto::pb;

/// Lines around the ranges; more where it is only one line.
const AROUND_ONE: usize = 4;
const AROUND_MANY: usize = 2;
const RULE: &str = "--------------------\n";

/// The excerpt; `None` where the ranges aren't in the file.
pub fn excerpt(info: &pb::SourceInfo, ranges: &[pb::Range]) -> Option<String> {
    let text = String::from_utf8_lossy(&info.data);
    let lines: Vec<&str> = text.split('\n').collect();
    let ends = |range: &pb::Range| {
        let line = |position: &Option<pb::Position>| {
            position.map_or(0, |at| usize::try_from(at.line).unwrap_or(0))
        };
        let first = line(&range.start);
        (first, line(&range.end).max(first))
    };
    let first = ranges.iter().map(|range| ends(range).0).min()?;
    let last = ranges.iter().map(|range| ends(range).1).max()?;
    if first == 0 || first > lines.len() {
        return None;
    }
    let (mut from, mut to) = (first, last.min(lines.len()));
    let around = if from == to { AROUND_ONE } else { AROUND_MANY };
    let mut taken = 0;
    while taken < around {
        if from > 1 {
            from -= 1;
            taken += 1;
        }
        if to < lines.len() {
            to += 1;
            taken += 1;
        }
        taken += 1;
    }
    let mut shown = format!("{}:{first}\n{RULE}", info.filename);
    for number in from..=to {
        let meant = ranges
            .iter()
            .map(ends)
            .any(|(start, end)| (start..=end).contains(&number));
        let mark = if meant { ">>>" } else { "   " };
        let _ = writeln!(shown, " {number:3} | {mark} {}", lines[number - 1]);
    }
    shown.push_str(RULE);
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_around_are_shown() {
        let info = pb::SourceInfo {
            filename: "Dockerfile".into(),
            data: b"FROM a\nRUN b\nRUN c\nRUN d\nRUN e\nRUN f".to_vec(),
            ..pb::SourceInfo::default()
        };
        let range = |start, end| pb::Range {
            start: Some(pb::Position {
                line: start,
                character: 0,
            }),
            end: Some(pb::Position {
                line: end,
                character: 0,
            }),
        };
        let shown = |ranges: &[pb::Range]| {
            let shown = excerpt(&info, ranges)?;
            let lines = shown.lines().filter(|line| line.contains('|'));
            Some(
                lines
                    .map(|line| format!("{}\n", line.trim()))
                    .collect::<String>(),
            )
        };
        assert_eq!(
            shown(&[range(3, 3)]).unwrap(),
            "1 |     FROM a\n2 |     RUN b\n3 | >>> RUN c\n4 |     RUN d\n5 |     RUN e\n"
        );
        assert_eq!(
            shown(&[range(1, 2)]).unwrap(),
            "1 | >>> FROM a\n2 | >>> RUN b\n3 |     RUN c\n"
        );
        assert_eq!(shown(&[range(0, 0)]), None);
        assert_eq!(shown(&[range(9, 9)]), None);
        assert_eq!(shown(&[]), None);
    }
}
