//! The last lines of a step's output as a terminal would show them.
//!
//! Enough of a terminal for build tools: carriage returns and backspaces overwrite, escape sequences
//! have no effect but for those that erase a line. Nothing of the output reaches our own terminal
//! unprinted, so a step can't move our cursor.

use std::collections::VecDeque;

/// As many lines are kept.
pub(crate) const HEIGHT: usize = 6;
/// Longer lines are cut: nobody's terminal shows them.
const WIDTH: usize = 500;

#[derive(Debug, Default)]
pub(crate) struct Screen {
    lines: VecDeque<Vec<char>>,
    column: usize,
    escape: Escape,
    /// Bytes of a character that came in two pieces.
    partial: Vec<u8>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    /// `ESC [ …` up to a letter.
    Control(String),
    /// `ESC ] …` up to a bell or `ESC \`.
    Command,
}

impl Screen {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let mut rest = all.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    text.chars().for_each(|character| self.put(character));
                    return;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    String::from_utf8_lossy(good)
                        .chars()
                        .for_each(|character| self.put(character));
                    let Some(length) = error.error_len() else {
                        self.partial = bad.to_vec();
                        return;
                    };
                    self.put(char::REPLACEMENT_CHARACTER);
                    rest = &bad[length..];
                }
            }
        }
    }

    fn put(&mut self, character: char) {
        match (&mut self.escape, character) {
            (Escape::Begun, '[') => self.escape = Escape::Control(String::new()),
            (Escape::Begun, ']') => self.escape = Escape::Command,
            (Escape::Begun, _) | (Escape::Command, '\u{7}') => self.escape = Escape::None,
            (Escape::Control(parameters), '\u{40}'..='\u{7e}') => {
                let parameters = std::mem::take(parameters);
                self.escape = Escape::None;
                self.control(character, &parameters);
            }
            (Escape::Control(parameters), _) => parameters.push(character),
            (_, '\u{1b}') => self.escape = Escape::Begun,
            (Escape::None, '\n') => {
                self.lines.push_back(Vec::new());
                self.column = 0;
                if self.lines.len() > HEIGHT + 1 {
                    self.lines.pop_front();
                }
            }
            (Escape::None, '\r') => self.column = 0,
            (Escape::None, '\u{8}') => self.column = self.column.saturating_sub(1),
            (Escape::None, '\t') => {
                for _ in self.column % 8..8 {
                    self.print(' ');
                }
            }
            (Escape::None, character) if !character.is_control() => self.print(character),
            (Escape::None | Escape::Command, _) => {}
        }
    }

    fn line(&mut self) -> &mut Vec<char> {
        if self.lines.is_empty() {
            self.lines.push_back(Vec::new());
        }
        let last = self.lines.len() - 1;
        &mut self.lines[last]
    }

    fn print(&mut self, character: char) {
        let column = self.column;
        if column >= WIDTH {
            return;
        }
        let line = self.line();
        while line.len() <= column {
            line.push(' ');
        }
        line[column] = character;
        self.column += 1;
    }

    fn control(&mut self, command: char, parameters: &str) {
        let column = self.column;
        match (command, parameters) {
            ('K', "" | "0") => self.line().truncate(column),
            ('K', "2") | ('J', _) => self.line().clear(),
            ('G', _) => {
                self.column = parameters
                    .parse::<usize>()
                    .map_or(0, |at| at.saturating_sub(1));
            }
            _ => {}
        }
    }

    /// The last lines that hold something, at most [`HEIGHT`].
    pub(crate) fn tail(&self, most: usize) -> Vec<String> {
        let lines: Vec<String> = self
            .lines
            .iter()
            .map(|line| line.iter().collect::<String>().trim_end().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        lines[lines.len().saturating_sub(most.min(HEIGHT))..].to_vec()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.iter().all(Vec::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_shown_as_a_terminal_would() {
        for (pieces, want) in [
            (vec!["one\ntwo\n"], vec!["one", "two"]),
            (vec!["10%\r50%\r100%"], vec!["100%"]),
            (vec!["long\r\x1b[Kx"], vec!["x"]),
            (
                vec!["\x1b[31mred\x1b[0m \x1b]0;title\x07end"],
                vec!["red end"],
            ),
            (vec!["ab\x08c"], vec!["ac"]),
            (vec!["\x1b[5A\x1b[2Jkept"], vec!["kept"]),
            (vec!["a\n\n\nb"], vec!["a", "b"]),
            (vec!["a\tb"], vec!["a       b"]),
            (
                vec!["1\n2\n3\n4\n5\n6\n7\n8"],
                vec!["3", "4", "5", "6", "7", "8"],
            ),
        ] {
            let mut screen = Screen::default();
            for piece in &pieces {
                screen.write(piece.as_bytes());
            }
            assert_eq!(screen.tail(HEIGHT), want, "{pieces:?}");
        }
        let mut screen = Screen::default();
        screen.write(b"\xc3");
        screen.write(b"\xa9\xff!");
        assert_eq!(screen.tail(9), ["\u{e9}\u{fffd}!"]);
    }
}
