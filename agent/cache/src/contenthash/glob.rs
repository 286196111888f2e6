//! The part of a pattern before its first wildcard.

use kiln_gotext::pattern::has_wildcards;

/// The cleaned part of a pattern before its first component with a wildcard, and whether there is more.
pub(super) fn split_wildcards(pattern: &str) -> (String, bool) {
    let mut plain = String::new();
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        if has_wildcards(part) {
            return (if plain.is_empty() { "/".into() } else { plain }, true);
        }
        plain.push('/');
        plain.push_str(part);
    }
    (if plain.is_empty() { "/".into() } else { plain }, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_split_before_the_first_wildcard() {
        for (pattern, want) in [
            ("/a/b/*.txt", ("/a/b", true)),
            ("/*", ("/", true)),
            ("/a/b", ("/a/b", false)),
            ("/a\\*/b", ("/a\\*/b", false)),
        ] {
            assert_eq!(split_wildcards(pattern), (want.0.to_owned(), want.1));
        }
    }
}
