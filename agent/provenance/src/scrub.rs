//! Secrets in free text, masked: logs, settings and traces that leave this computer.
//!
//! | what | found by |
//! |---|---|
//! | credentials in URLs | [`redact`] |
//! | values that are known | themselves, and their base64 |
//! | `password: …`, `NPM_TOKEN=…`, `"secret": "…"` | the name before them |
//! | `Authorization: Bearer …`, `Basic …` | the scheme before them |
//! | tokens of well-known services, JWTs | their form |
//! | private keys | their PEM frame |
//!
//! It errs on the side of masking: what is lost is a word of a log, what is kept may be a password.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::redact;

const MASK: &str = "xxxxx";
/// Shorter values are in too many words that aren't secret.
const SHORTEST: usize = 5;

#[expect(
    clippy::expect_used,
    reason = "the patterns are constants that a test compiles"
)]
static PATTERNS: LazyLock<[Regex; 4]> = LazyLock::new(|| {
    [
        // A private key, also one that was cut off or whose lines are escaped.
        r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----(?P<secret>.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
        // A name that says so, then its value.
        r#"(?i)(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|authorization|\bauth)[\w.-]*\\?["']?\s*[:=]\s*(?:\\?"(?P<quoted>[^"\\]+)|'(?P<single>[^']+)|(?:(?:bearer|basic)\s+)?(?P<secret>[^\s"'\\,;&]+))"#,
        r"(?i)\b(?:bearer|basic)\s+(?P<secret>[A-Za-z0-9+/_=.~-]{8,})",
        r"(?P<secret>\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|npm_[A-Za-z0-9]{20,}|dckr_pat_[\w-]{16,}|xox[a-z]-[\w-]{10,}|A[KS]IA[A-Z0-9]{12,}|eyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*))",
    ]
    .map(|pattern| Regex::new(pattern).expect("a valid pattern"))
});

/// Masks what looks like a secret, and every one of `known`.
pub fn scrub(text: &str, known: &[String]) -> String {
    let mut text = redact(text).into_owned();
    for value in known.iter().filter(|value| value.len() >= SHORTEST) {
        text = text.replace(value.as_str(), MASK);
        let encoded = base64(value.as_bytes());
        if encoded.len() >= SHORTEST {
            text = text.replace(&encoded, MASK);
        }
    }
    for pattern in PATTERNS.iter() {
        let masked = pattern.replace_all(&text, |found: &Captures<'_>| {
            let whole = &found[0];
            let mut names = ["secret", "quoted", "single"].into_iter();
            let Some(secret) = names.find_map(|name| found.name(name)) else {
                return whole.to_owned();
            };
            let start = secret.start() - found.get(0).map_or(0, |whole| whole.start());
            let end = start + secret.len();
            format!("{}{MASK}{}", &whole[..start], &whole[end..])
        });
        if let Cow::Owned(masked) = masked {
            text = masked;
        }
    }
    text
}

/// Base64 without padding, so that it is found where more follows.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Whole groups only: the last digits depend on what comes after.
    let mut text = String::new();
    for group in bytes.chunks_exact(3) {
        let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        for shift in [18, 12, 6, 0] {
            text.push(char::from(DIGITS[(bits >> shift & 63) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_masked() {
        for (text, want) in [
            (
                "pull https://me:pw@r.example/x",
                "pull https://xxxxx:xxxxx@r.example/x",
            ),
            ("NPM_TOKEN=abc123 run", "NPM_TOKEN=xxxxx run"),
            (
                r#"{"password": "p w", "user": "me"}"#,
                r#"{"password": "xxxxx", "user": "me"}"#,
            ),
            (r#"{"auth":"bWU6cHc="}"#, r#"{"auth":"xxxxx"}"#),
            (
                "Authorization: Bearer abcdefgh.ijk",
                "Authorization: Bearer xxxxx",
            ),
            ("sent Basic bWU6cHc3NDU2 to it", "sent Basic xxxxx to it"),
            (
                "?sig=1&access_token=zzz&x=2",
                "?sig=1&access_token=xxxxx&x=2",
            ),
            (
                "got ghp_abcdefghijklmnopqrstuvwxyz0123456789.",
                "got xxxxx.",
            ),
            ("jwt eyJhbGciOiJIUzI1.eyJzdWIi.sig", "jwt xxxxx"),
            ("secret = 'deep'", "secret = 'xxxxx'"),
            ("the secret of it", "the secret of it"),
            ("basic image", "basic image"),
            ("step 3/4 RUN make", "step 3/4 RUN make"),
        ] {
            assert_eq!(scrub(text, &[]), want, "{text}");
        }
        let key =
            "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabcd\n-----END RSA PRIVATE KEY-----\nb";
        let masked = scrub(key, &[]);
        assert!(
            !masked.contains("MIIE") && !masked.contains("abcd"),
            "{masked}"
        );
        assert!(masked.ends_with("\nb"), "{masked}");
        assert!(!scrub("-----BEGIN PRIVATE KEY-----\nMIIE", &[]).contains("MIIE"));
    }

    #[test]
    fn known_values_are_masked_in_every_form() {
        let known = ["hunter2!".to_owned(), "abc".to_owned()];
        let text = scrub("hunter2! aHVudGVyMiE= abc", &known);
        assert!(
            !text.contains("hunter2") && !text.contains("aHVudGVy"),
            "{text}"
        );
        assert!(text.ends_with(" abc"), "{text}");
    }
}
