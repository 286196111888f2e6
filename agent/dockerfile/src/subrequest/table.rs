//! Texts for people.

use std::fmt::Write as _;

use kiln_proto::pb;

use crate::parse::Lines;

/// Columns as wide as their widest cell and `gap` blanks; the last one isn't padded.
pub(super) fn table(gap: usize, head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0) + gap
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let blanks = widths[column] - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        text.push('\n');
    }
    text
}

/// The lines with those around them, as buildx prints them.
pub(super) fn excerpt(info: &pb::SourceInfo, marked: &[Lines]) -> String {
    let data = String::from_utf8_lossy(&info.data);
    let lines: Vec<&str> = data.split('\n').collect();
    let first = marked.iter().map(|lines| lines.start as usize).min();
    let last = marked.iter().map(|lines| lines.end as usize).max();
    let (Some(first), Some(last)) = (first, last) else {
        return String::new();
    };
    if first < 1 || first > lines.len() {
        return String::new();
    }
    let (mut start, mut end) = (first, last.min(lines.len()));
    let padding = if start == end { 4 } else { 2 };
    let mut added = 0;
    while added < padding {
        if start > 1 {
            start -= 1;
            added += 1;
        }
        if end < lines.len() {
            end += 1;
            added += 1;
        }
        added += 1;
    }
    let rule = "--------------------\n";
    let mut text = format!("{}:{first}\n{rule}", info.filename);
    for number in start..=end {
        let within = |lines: &Lines| (lines.start as usize..=lines.end as usize).contains(&number);
        let mark = if marked.iter().any(within) {
            ">>>"
        } else {
            "   "
        };
        // Writing to a text can't fail.
        let _ = writeln!(text, " {number:3} | {mark} {}", lines[number - 1]);
    }
    text + rule
}
