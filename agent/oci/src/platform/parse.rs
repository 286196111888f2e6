//! Texts of platforms: `os[(version+feature)]/architecture/variant`, `os` or `architecture` alone.

use std::str::FromStr;

use super::{Platform, normalize_arch, normalize_os};

/// Why a text names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// It has an asterisk.
    #[error("{text:?}: wildcards not yet supported")]
    Wildcard {
        /// What was given.
        text: String,
    },
    /// A part has characters that no platform has, or there are too many parts.
    #[error("{part:?} is an invalid component of {text:?}: want os[/architecture[/variant]]")]
    Component {
        /// What was given.
        text: String,
        /// The part of it.
        part: String,
    },
    /// A single word that is neither an operating system nor an architecture.
    #[error("{text:?}: unknown operating system or architecture")]
    Unknown {
        /// What was given.
        text: String,
    },
}

const KNOWN_OS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];
const KNOWN_ARCH: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        if text.contains('*') {
            return Err(PlatformError::Wildcard {
                text: text.to_owned(),
            });
        }
        let bad = |part: &str| PlatformError::Component {
            text: text.to_owned(),
            part: part.to_owned(),
        };
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let (name, os_version, os_features) = parse_os(parts[0]).ok_or_else(|| bad(parts[0]))?;
        if let Some(part) = parts[1..].iter().find(|part| !is_specifier(part)) {
            return Err(bad(part));
        }
        let mut platform = Self {
            os: normalize_os(name),
            os_version,
            os_features,
            ..Self::default()
        };
        match parts[1..] {
            [] if KNOWN_OS.contains(&platform.os.as_str()) => {
                platform.architecture = Self::host().architecture;
            }
            [] => {
                (platform.architecture, platform.variant) = normalize_arch(parts[0], "");
                drop_usual_arm(&mut platform);
                if !KNOWN_ARCH.contains(&platform.architecture.as_str()) {
                    return Err(PlatformError::Unknown {
                        text: text.to_owned(),
                    });
                }
                platform.os = Self::host().os;
            }
            [architecture] => {
                (platform.architecture, platform.variant) = normalize_arch(architecture, "");
                drop_usual_arm(&mut platform);
            }
            [architecture, variant] => {
                (platform.architecture, platform.variant) = normalize_arch(architecture, variant);
                if platform.architecture == "arm64" && platform.variant.is_empty() {
                    platform.variant.push_str("v8");
                }
            }
            _ => return Err(bad(text)),
        }
        Ok(platform)
    }
}

fn drop_usual_arm(platform: &mut Platform) {
    if platform.architecture == "arm" && platform.variant == "v7" {
        platform.variant.clear();
    }
}

fn is_specifier(part: &str) -> bool {
    !part.is_empty()
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Splits `os(version+feature+feature)`.
fn parse_os(part: &str) -> Option<(&str, String, Vec<String>)> {
    let (name, options) = match part.split_once('(') {
        Some((name, rest)) => (name, Some(rest.strip_suffix(')')?)),
        None => (part, None),
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    if name.is_empty() || !name.bytes().all(is_name) {
        return None;
    }
    let Some(options) = options else {
        return Some((name, String::new(), Vec::new()));
    };
    if !options
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_.%-+".contains(&b))
    {
        return None;
    }
    let mut options = options.split('+').map(decode_option);
    let version = options.next()??;
    let features: Option<Vec<String>> = options
        .map(|feature| feature.filter(|text| !text.is_empty()))
        .collect();
    Some((name, version, features?))
}

fn decode_option(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = tail.get(..2)?;
            bytes.push(hex::decode(digits).ok()?[0]);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Escapes what separates the parts of a text.
pub(super) fn encode_option(text: &str) -> String {
    text.replace('%', "%25")
        .replace('+', "%2B")
        .replace('(', "%28")
        .replace(')', "%29")
        .replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_parsed_and_written() {
        let host = Platform::host();
        let table = [
            ("linux/amd64", "linux/amd64".to_owned()),
            ("Linux/x86_64", "linux/amd64".to_owned()),
            ("linux/x86-64/v1", "linux/amd64".to_owned()),
            ("linux/amd64/v3", "linux/amd64/v3".to_owned()),
            ("linux/i386", "linux/386".to_owned()),
            ("linux/aarch64", "linux/arm64".to_owned()),
            ("linux/arm64/v8", "linux/arm64/v8".to_owned()),
            ("linux/arm", "linux/arm".to_owned()),
            ("linux/armhf", "linux/arm".to_owned()),
            ("linux/armel", "linux/arm/v6".to_owned()),
            ("linux/arm/7", "linux/arm/v7".to_owned()),
            ("macos/arm64", "darwin/arm64".to_owned()),
            ("unknown/unknown", "unknown/unknown".to_owned()),
            ("linux", format!("linux/{}", host.architecture)),
            ("s390x", format!("{}/s390x", host.os)),
        ];
        for (text, want) in table {
            assert_eq!(
                text.parse::<Platform>().unwrap().to_string(),
                want,
                "{text}"
            );
        }
        assert_eq!(Platform::default().to_string(), "unknown");
    }

    #[test]
    fn os_options_survive_a_round_trip() {
        let text = "windows(10.0.17763.1+win%2Bx)/amd64";
        let platform: Platform = text.parse().unwrap();
        assert_eq!(platform.os_version, "10.0.17763.1");
        assert_eq!(platform.os_features, ["win+x"]);
        assert_eq!(platform.format_all(), text);
        assert_eq!(platform.to_string(), "windows/amd64");
    }

    #[test]
    fn bad_texts_are_refused() {
        for text in [
            "",
            "linux/",
            "/amd64",
            "li nux",
            "linux/*",
            "linux/a/b/c",
            "linux(/amd64",
            "foo",
            "linux(1+)/a",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
