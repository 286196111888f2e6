//! Modes as `--chmod` takes them: a number, or symbols like `u=rwX,go-w`.

use super::error::FileError;

const ALL: u32 = 0o7777;

/// What happens to permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chmod {
    /// They stay.
    Keep,
    /// They become these.
    To(u32),
    /// They change by these clauses, in order.
    By(Vec<Clause>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clause {
    /// Bits of the classes named: user, group, others.
    who: [bool; 3],
    op: char,
    perms: Perms,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Perms {
    /// `rwx` bits of one class, and whether `X`, `s` and `t` are there.
    Bits {
        rwx: u32,
        x_if_useful: bool,
        set_id: bool,
        sticky: bool,
    },
    /// The bits of a class.
    Of(usize),
}

impl Chmod {
    /// `text` if there is any, else `number` unless it is −1.
    pub(super) fn new(text: &str, number: i32) -> Result<Self, FileError> {
        if text.is_empty() {
            return Ok(match number {
                -1 => Self::Keep,
                number => Self::To(number as u32 & ALL),
            });
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= ALL);
            return number
                .map(Self::To)
                .ok_or_else(|| FileError::Mode(text.to_owned()));
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            parse(part, &mut clauses).ok_or_else(|| FileError::Mode(text.to_owned()))?;
        }
        Ok(Self::By(clauses))
    }

    /// The bits of directories that are made on the way.
    pub(super) fn of_new_directory(&self) -> u32 {
        match self {
            Self::To(mode) => mode & 0o777,
            Self::Keep | Self::By(_) => 0o755,
        }
    }

    /// The new bits.
    pub(super) fn apply(&self, mode: u32, directory: bool) -> u32 {
        let mode = mode & ALL;
        match self {
            Self::Keep => mode,
            Self::To(mode) => *mode,
            Self::By(clauses) => clauses
                .iter()
                .fold(mode, |mode, clause| clause.apply(mode, directory)),
        }
    }
}

/// `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`
fn parse(text: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let mut rest = text.chars().peekable();
    let mut who = [false; 3];
    while let Some(c) = rest.peek() {
        match c {
            'u' => who[0] = true,
            'g' => who[1] = true,
            'o' => who[2] = true,
            'a' => who = [true; 3],
            _ => break,
        }
        rest.next();
    }
    if who == [false; 3] {
        who = [true; 3];
    }
    rest.peek()?;
    while let Some(op) = rest.next() {
        if !matches!(op, '+' | '-' | '=') {
            return None;
        }
        let perms = match rest.peek() {
            Some(c @ ('u' | 'g' | 'o')) => {
                let class = match c {
                    'u' => 0,
                    'g' => 1,
                    _ => 2,
                };
                rest.next();
                Perms::Of(class)
            }
            _ => {
                let (mut rwx, mut x_if_useful, mut set_id, mut sticky) = (0, false, false, false);
                while let Some(c) = rest.peek() {
                    match c {
                        'r' => rwx |= 4,
                        'w' => rwx |= 2,
                        'x' => rwx |= 1,
                        'X' => x_if_useful = true,
                        's' => set_id = true,
                        't' => sticky = true,
                        _ => break,
                    }
                    rest.next();
                }
                Perms::Bits {
                    rwx,
                    x_if_useful,
                    set_id,
                    sticky,
                }
            }
        };
        clauses.push(Clause { who, op, perms });
    }
    Some(())
}

impl Clause {
    fn apply(&self, mode: u32, directory: bool) -> u32 {
        let (mut bits, mut special) = (0, 0);
        let rwx = match self.perms {
            Perms::Of(class) => mode >> (6 - 3 * class) & 7,
            Perms::Bits {
                rwx,
                x_if_useful,
                set_id,
                sticky,
            } => {
                if set_id && self.who[0] {
                    special |= 0o4000;
                }
                if set_id && self.who[1] {
                    special |= 0o2000;
                }
                if sticky {
                    special |= 0o1000;
                }
                rwx | u32::from(x_if_useful && (directory || mode & 0o111 != 0))
            }
        };
        let mut mask = 0;
        for (class, named) in self.who.iter().enumerate() {
            if *named {
                bits |= rwx << (6 - 3 * class);
                mask |= 7 << (6 - 3 * class);
            }
        }
        match self.op {
            '+' => mode | bits | special,
            '-' => mode & !(bits | special),
            _ => {
                // Set-id bits of directories stay unless they are named.
                let dropped = match (directory, self.who) {
                    (true, _) => 0,
                    (false, [user, group, others]) => {
                        u32::from(user) * 0o4000
                            | u32::from(group) * 0o2000
                            | u32::from(user && group && others) * 0o1000
                    }
                };
                mode & !(mask | dropped) | bits | special
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_change_bits() {
        for (text, before, directory, after) in [
            ("755", 0o600, false, 0o755),
            ("4755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o640, false, 0o644),
            ("u=rwX,go=rX", 0o740, false, 0o755),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-w", 0o666, false, 0o644),
            ("g=u", 0o740, false, 0o770),
            ("o=", 0o777, false, 0o770),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("+t", 0o777, true, 0o1777),
            ("u+x-w", 0o600, false, 0o500),
            ("ug+rw,o-rwx", 0o407, false, 0o660),
        ] {
            let chmod = Chmod::new(text, -1).unwrap();
            let got = chmod.apply(before, directory);
            assert_eq!(got, after, "{text} of {before:o} gave {got:o}");
        }
        assert_eq!(Chmod::new("", -1).unwrap().apply(0o100_640, false), 0o640);
        assert_eq!(Chmod::new("", 0o644).unwrap().apply(0o755, true), 0o644);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["x", "u", "u*x", "rwx", "u=q", "99", "77777", ",", "u+x,"] {
            assert!(Chmod::new(text, -1).is_err(), "{text}");
        }
    }
}
