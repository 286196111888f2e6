//! Texts as a terminal has them: in columns, of which some characters take two and some none.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// How many columns a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// A text that can't act on the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The beginning that fits.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    let mut taken = 0;
    let fits = |character: &char| {
        taken += character.width().unwrap_or(0);
        taken <= columns
    };
    text.chars().take_while(fits).collect()
}

/// The end that fits, and a sign where it was cut.
pub(crate) fn cut_start(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut taken = 1;
    let mut kept: Vec<char> = Vec::new();
    for character in text.chars().rev() {
        taken += character.width().unwrap_or(0);
        if taken > columns {
            break;
        }
        kept.push(character);
    }
    kept.push('\u{2026}');
    kept.iter().rev().collect()
}

/// One text at the left, one at the right; the left one is cut where both don't fit.
pub(crate) fn align(left: &str, right: &str, columns: usize) -> String {
    let room = match width(right) {
        0 => columns,
        taken => columns.saturating_sub(taken + 1),
    };
    let left = cut(left, room);
    let gap = columns.saturating_sub(width(&left) + width(right));
    let text = cut(&format!("{left}{:gap$}{right}", ""), columns);
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_by_columns() {
        for (text, columns, start, end) in [
            ("abc", 3, "abc", "abc"),
            ("abcdef", 3, "abc", "\u{2026}ef"),
            ("\u{6f22}\u{5b57}x", 3, "\u{6f22}", "\u{2026}x"),
            ("e\u{301}\u{301}e", 1, "e\u{301}\u{301}", "\u{2026}"),
            ("abc", 0, "", "\u{2026}"),
        ] {
            assert_eq!(cut(text, columns), start, "{text} {columns}");
            assert_eq!(cut_start(text, columns), end, "{text} {columns}");
        }
        assert_eq!(align("left", "right", 12), "left   right");
        assert_eq!(align("left", "right", 8), "le right");
        assert_eq!(align("\u{6f22}\u{5b57}", "1s", 8), "\u{6f22}\u{5b57}  1s");
        assert_eq!(align("left", "", 20), "left");
        assert_eq!(clean("a\x1b[2J\tb\n"), "a [2J b ");
    }
}
