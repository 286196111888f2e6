//! Credentials in URLs, masked.
//!
//! Used for vertex names, errors, history, provenance, traces and support bundles; nobody else masks.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

const MASK: &str = "xxxxx";

/// A URL's user part: everything between the scheme and the last `@` before the first `/`, `?` or `#`.
#[expect(
    clippy::expect_used,
    reason = "the pattern is a constant that a test compiles"
)]
static USER_PART: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/?#\s]*)@")
        .expect("a constant pattern, compiled by the tests below")
});

/// Masks the credentials of every URL in `text`: user name and password, each where it is present. A
/// user name alone is masked too, since tokens are often sent as one.
pub fn redact(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    USER_PART.replace_all(text, |found: &Captures<'_>| {
        let masked = match found["user"].split_once(':') {
            Some(("", "")) => ":".to_owned(),
            Some(("", _)) => format!(":{MASK}"),
            Some(_) => format!("{MASK}:{MASK}"),
            None if found["user"].is_empty() => String::new(),
            None => MASK.to_owned(),
        };
        format!("{}{masked}@", &found["scheme"])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_urls_are_masked() {
        for (url, want) in [
            (
                "https://user:pass@host.tld/path.git",
                "https://xxxxx:xxxxx@host.tld/path.git",
            ),
            ("https://token@host.tld/path", "https://xxxxx@host.tld/path"),
            ("https://:pass@host.tld", "https://:xxxxx@host.tld"),
            (
                "https://user:p@ss@host.tld/a@b",
                "https://xxxxx:xxxxx@host.tld/a@b",
            ),
            (
                "https://host.tld/path?mail=a@b",
                "https://host.tld/path?mail=a@b",
            ),
            ("git@host.tld:path.git", "git@host.tld:path.git"),
            (
                "ssh://git@host.tld/path.git",
                "ssh://xxxxx@host.tld/path.git",
            ),
            ("no url", "no url"),
            ("", ""),
        ] {
            assert_eq!(redact(url), want);
        }
    }

    #[test]
    fn every_url_of_a_text_is_masked() {
        assert_eq!(
            redact("GET http://a:b@x/ failed, tried HTTP_PROXY=http://c:d@y:3128"),
            "GET http://xxxxx:xxxxx@x/ failed, tried HTTP_PROXY=http://xxxxx:xxxxx@y:3128"
        );
    }
}
