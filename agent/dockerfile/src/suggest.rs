//! "Did you mean …?"

use std::fmt;

/// A name that may have been meant; prints nothing where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suggestion(Option<String>);

impl Suggestion {
    /// The nearest of `options` within two edits. None where one of them is `word` itself.
    pub(crate) fn of<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Self {
        let mut nearest = None;
        let mut least = 3;
        for option in options {
            if option == word {
                return Self(None);
            }
            let distance = distance_below(word, option, least);
            if distance < least {
                least = distance;
                nearest = Some(option.to_owned());
            }
        }
        Self(nearest)
    }

    /// The same where case doesn't matter: the answer is in the case of `word`.
    pub(crate) fn ignoring_case<'a>(
        word: &str,
        options: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let lower = word.to_lowercase();
        let options: Vec<String> = options.into_iter().map(str::to_lowercase).collect();
        let found = Self::of(&lower, options.iter().map(String::as_str));
        match found.0 {
            Some(name) if word != lower && word == word.to_uppercase() => {
                Self(Some(name.to_uppercase()))
            }
            other => Self(other),
        }
    }

    /// The name.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(f, " (did you mean {name}?)"),
            None => Ok(()),
        }
    }
}

/// The number of edits between two words, or `limit` where it is at least that.
fn distance_below(a: &str, b: &str, limit: usize) -> usize {
    let a: Vec<char> = a.chars().take(256).collect();
    let b: Vec<char> = b.chars().take(256).collect();
    if a.len().abs_diff(b.len()) >= limit {
        return limit;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()].min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name() {
        let options = ["COPY", "CMD", "RUN"];
        assert_eq!(
            Suggestion::ignoring_case("COPPY", options).to_string(),
            " (did you mean COPY?)"
        );
        assert_eq!(Suggestion::of("elsewhere", options).to_string(), "");
        assert_eq!(Suggestion::of("RUN", options).name(), None);
    }
}
