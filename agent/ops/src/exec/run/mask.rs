//! Hides the values of secrets in a stream of bytes.

use bytes::Bytes;

/// Shorter values would be found everywhere.
const SHORTEST: usize = 4;
/// Lines of a longer secret, such as a key, are hidden by themselves from this length on.
const SHORTEST_LINE: usize = 12;
const STARS: &[u8] = b"***";

/// Replaces values by stars, also where a value comes in pieces.
pub(super) struct Mask {
    /// The longest first.
    values: Vec<Bytes>,
    /// The beginning of what may become a value.
    held: Vec<u8>,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mask").finish_non_exhaustive()
    }
}

impl Mask {
    pub(super) fn new(secrets: &[Bytes]) -> Self {
        let mut values = Vec::new();
        for secret in secrets {
            let whole = secret.trim_ascii();
            let lines = whole.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            for (value, shortest) in lines
                .map(|line| (line, SHORTEST_LINE))
                .chain([(whole, SHORTEST)])
            {
                if value.len() >= shortest {
                    values.push(secret.slice_ref(value));
                }
            }
        }
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self {
            values,
            held: Vec::new(),
        }
    }

    /// What can be shown now.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.values.is_empty() {
            return bytes.to_vec();
        }
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(input.len());
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            // A longer value that may still come is waited for before a shorter one is taken.
            if self
                .values
                .iter()
                .any(|v| v.len() > rest.len() && v.starts_with(rest))
            {
                self.held = rest.to_vec();
                break;
            }
            match self.values.iter().find(|value| rest.starts_with(value)) {
                Some(value) => {
                    out.extend_from_slice(STARS);
                    at += value.len();
                }
                None => {
                    out.push(input[at]);
                    at += 1;
                }
            }
        }
        out
    }

    /// What is held back, at the end.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let longer = std::mem::take(&mut self.values);
        let mut rest = Self {
            values: longer
                .into_iter()
                .filter(|value| value.len() <= held.len())
                .collect(),
            held: Vec::new(),
        };
        let mut out = rest.feed(&held);
        if !rest.held.is_empty() {
            out.extend(rest.finish());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secrets: &[&'static str], pieces: &[&str]) -> String {
        let secrets: Vec<Bytes> = secrets
            .iter()
            .map(|s| Bytes::from_static(s.as_bytes()))
            .collect();
        let mut mask = Mask::new(&secrets);
        let mut out: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| mask.feed(piece.as_bytes()))
            .collect();
        out.extend(mask.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_hidden_whole_and_in_pieces() {
        let cases: [(&[&'static str], &[&str], &str); 9] = [
            (&["hunter22\n"], &["a hunter22 b"], "a *** b"),
            (&["hunter22"], &["a hun", "ter", "22 b"], "a *** b"),
            (&["hunter22"], &["a hun", "dred"], "a hundred"),
            (&["hunter22"], &["hunhunter22"], "hun***"),
            (&["abc"], &["abc"], "abc"),
            (&["abcd", "abcdef"], &["abcde", "f abcd"], "*** ***"),
            (&["abcd", "abcdef"], &["abcde"], "***e"),
            (
                &["line-one-of-it\nline-two-of-it"],
                &["line-two-of-it\n"],
                "***\n",
            ),
            (&[], &["hunter22"], "hunter22"),
        ];
        for (secrets, pieces, expected) in cases {
            assert_eq!(masked(secrets, pieces), expected, "{pieces:?}");
        }
    }
}
