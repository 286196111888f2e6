//! `--chmod`: octal digits or symbolic modes.

/// A mode that files get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chmod {
    /// Permission bits.
    Bits(u32),
    /// `u+rwX,go=`
    Symbolic(String),
}

/// Why a text is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChmodError {
    /// It looks like a number and isn't an octal one of up to four digits.
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Octal(String),
    /// It isn't a symbolic mode.
    #[error(
        "invalid chmod parameter: '{0}'. invalid syntax: it should be octal, or symbolic such as u=rwX,go=rX"
    )]
    Symbolic(String),
}

impl Chmod {
    pub(crate) fn parse(text: &str) -> Result<Self, ChmodError> {
        if let Ok(bits) = u32::from_str_radix(text, 8) {
            return if bits > 0o7777 || text.starts_with('+') {
                Err(ChmodError::Octal(text.to_owned()))
            } else {
                Ok(Self::Bits(bits))
            };
        }
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(ChmodError::Octal(text.to_owned()));
        }
        if text.split(',').all(is_clause) {
            Ok(Self::Symbolic(text.to_owned()))
        } else {
            Err(ChmodError::Symbolic(text.to_owned()))
        }
    }
}

/// Who, then one or more times an operator with permissions.
fn is_clause(clause: &str) -> bool {
    let mut rest = clause.trim_start_matches(['a', 'u', 'g', 'o']);
    let mut operators = 0;
    while let Some(after) = rest.strip_prefix(['+', '-', '=']) {
        operators += 1;
        rest = after.trim_start_matches(['r', 's', 't', 'w', 'X', 'x', 'u', 'g', 'o']);
    }
    operators > 0 && rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(Chmod::parse("0755"), Ok(Chmod::Bits(0o755)));
        for text in ["u+rwX,go=", "a=rX", "+x", "u=rw,g=u-w"] {
            assert_eq!(Chmod::parse(text), Ok(Chmod::Symbolic(text.into())));
        }
        for text in ["99", "77777", "0x1"] {
            assert_eq!(Chmod::parse(text), Err(ChmodError::Octal(text.into())));
        }
        for text in ["zz", "u", "u+q", ""] {
            assert_eq!(Chmod::parse(text), Err(ChmodError::Symbolic(text.into())));
        }
    }
}
