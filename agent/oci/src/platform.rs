//! Platforms: `os/architecture/variant`, parsed, normalised and matched as containerd does.
//!
//! A [`Platform`] keeps what it was given; [`Platform::normalized`] maps the many spellings of one
//! platform to one. [`PlatformMatcher`] knows which others a platform can run (arm/v6 on arm/v7,
//! arm/v7 on arm64, 386 on amd64) and in which order they are preferred.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::go_json::null_default;

/// A platform in the field order of the OCI specification's Go type.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, `arm`, …
    #[serde(default, deserialize_with = "null_default")]
    pub architecture: String,
    /// `linux`, `windows`, …
    #[serde(default, deserialize_with = "null_default")]
    pub os: String,
    /// For Windows: `10.0.14393.1066`.
    #[serde(
        rename = "os.version",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Features of the operating system that are needed.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// `v7`, `v8`, …
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub variant: String,
}

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

impl Platform {
    /// A platform of three parts, taken as they are.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Self::default()
        }
    }

    /// What this binary runs on. The variant is empty where it is the architecture's usual one (`arm` has `v7`).
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        let os = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        Self::new(os, architecture, "").normalized()
    }

    /// The one spelling of this platform: `x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`. An empty
    /// operating system becomes this one's.
    pub fn normalized(&self) -> Self {
        let (architecture, variant) = normalize_arch(&self.architecture, &self.variant);
        let mut os_features = self.os_features.clone();
        os_features.sort();
        os_features.dedup();
        Self {
            os: normalize_os(&self.os),
            architecture,
            variant,
            os_version: self.os_version.clone(),
            os_features,
        }
    }

    /// The text with version and features of the operating system: `windows(10.0.17763)/amd64`.
    pub fn format_all(&self) -> String {
        if self.os.is_empty() {
            return "unknown".to_owned();
        }
        let mut features = self.os_features.clone();
        features.sort();
        features.dedup();
        features.retain(|feature| !feature.is_empty());
        let mut os = self.os.clone();
        if !self.os_version.is_empty() || !features.is_empty() {
            os.push('(');
            os.push_str(&encode_option(&self.os_version));
            for feature in &features {
                os.push('+');
                os.push_str(&encode_option(feature));
            }
            os.push(')');
        }
        join(&[&os, &self.architecture, &self.variant])
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        f.write_str(&join(&[&self.os, &self.architecture, &self.variant]))
    }
}

fn join(parts: &[&str]) -> String {
    let parts: Vec<_> = parts
        .iter()
        .copied()
        .filter(|part| !part.is_empty())
        .collect();
    parts.join("/")
}

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

fn encode_option(text: &str) -> String {
    text.replace('%', "%25")
        .replace('+', "%2B")
        .replace('(', "%28")
        .replace(')', "%29")
        .replace('/', "%2F")
}

fn normalize_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "" => Platform::host().os,
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normalize_arch(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", other) => ("amd64", other),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", other) => ("arm64", other),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

/// Decides whether an image for some platform runs on another one, and how well.
#[derive(Debug, Clone)]
pub struct PlatformMatcher {
    /// What runs, the best first; all normalised.
    accepted: Vec<Platform>,
}

impl PlatformMatcher {
    /// Takes `platform` and what its processor runs as well.
    pub fn new(platform: &Platform) -> Self {
        let platform = platform.normalized();
        let accepted = runnable(&platform)
            .into_iter()
            .map(|(architecture, variant)| {
                Platform {
                    architecture,
                    variant,
                    ..platform.clone()
                }
                .normalized()
            })
            .collect();
        Self { accepted }
    }

    /// Takes `platform` alone.
    pub fn strict(platform: &Platform) -> Self {
        Self {
            accepted: vec![platform.normalized()],
        }
    }

    /// Whether an image for `candidate` runs.
    pub fn matches(&self, candidate: &Platform) -> bool {
        self.rank(candidate).is_some()
    }

    /// Smaller is better: first by how near the processor is, then by how many wanted features of the operating
    /// system the image uses. `None` when it doesn't run.
    pub fn rank(&self, candidate: &Platform) -> Option<(usize, usize)> {
        let normal = candidate.normalized();
        let near = self.accepted.iter().position(|wanted| {
            wanted.os == normal.os
                && wanted.architecture == normal.architecture
                && wanted.variant == normal.variant
                && os_version_runs(wanted, &normal)
                && normal
                    .os_features
                    .iter()
                    .all(|feature| wanted.os_features.contains(feature))
        })?;
        Some((near, usize::MAX - normal.os_features.len()))
    }
}

/// Windows images run on the build of Windows that they were made for; elsewhere the version says nothing.
fn os_version_runs(wanted: &Platform, candidate: &Platform) -> bool {
    let build = |version: &str| version.split('.').take(3).collect::<Vec<_>>().join(".");
    wanted.os != "windows"
        || wanted.os_version.is_empty()
        || candidate.os_version.is_empty()
        || build(&wanted.os_version) == build(&candidate.os_version)
}

/// Pairs of architecture and variant that a normalised platform runs, itself first.
fn runnable(platform: &Platform) -> Vec<(String, String)> {
    let own = (platform.architecture.clone(), platform.variant.clone());
    let number: Option<u32> = platform.variant.trim_start_matches('v').parse().ok();
    let older = |arch: &str, from: u32, to: u32| -> Vec<(String, String)> {
        (to..from)
            .rev()
            .map(|n| (arch.to_owned(), format!("v{n}")))
            .collect()
    };
    let mut all = vec![own];
    match platform.architecture.as_str() {
        "amd64" => {
            all.extend(older("amd64", number.unwrap_or(1), 1));
            all.push(("386".to_owned(), String::new()));
        }
        "arm" => all.extend(older("arm", number.unwrap_or(5), 5)),
        "arm64" => {
            let known = arm64_variants(&platform.variant);
            if known.is_empty() {
                return all;
            }
            all = known
                .into_iter()
                .map(|variant| ("arm64".to_owned(), variant))
                .collect();
            all.push(("arm".to_owned(), "v8".to_owned()));
            all.extend(older("arm", 8, 5));
        }
        _ => {}
    }
    all
}

/// Revisions of arm64 that `variant` includes, newest first: v9.x includes v8.(x+5). Empty for unknown ones.
fn arm64_variants(variant: &str) -> Vec<String> {
    let text = variant
        .strip_prefix('v')
        .unwrap_or(if variant.is_empty() { "8" } else { "" });
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else {
        return Vec::new();
    };
    let down = |major: u32, minor: u32| {
        (0..=minor).rev().map(move |minor| match minor {
            0 => format!("v{major}"),
            minor => format!("v{major}.{minor}"),
        })
    };
    match (major, minor) {
        (8, 0..=9) => down(8, minor).collect(),
        (9, 0..=7) => down(9, minor).chain(down(8, (minor + 5).min(9))).collect(),
        _ => Vec::new(),
    }
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

    #[test]
    fn matching_knows_what_a_processor_runs() {
        let table = [
            // platform, candidate, place in the order of preference
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/386", Some(1)),
            ("linux/amd64", "linux/amd64/v2", None),
            ("linux/amd64/v3", "linux/amd64/v2", Some(1)),
            ("linux/amd64/v3", "linux/amd64", Some(2)),
            ("linux/arm/v7", "linux/arm", Some(0)),
            ("linux/arm", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64", "linux/arm/v8", Some(1)),
            ("linux/arm64", "linux/arm/v7", Some(2)),
            ("linux/arm64", "linux/arm/v5", Some(4)),
            ("linux/arm64/v8.2", "linux/arm64", Some(2)),
            ("linux/arm64/v9", "linux/arm64/v8.5", Some(1)),
            ("linux/arm64", "linux/amd64", None),
            ("linux/amd64", "unknown/unknown", None),
            (
                "windows(10.0.17763.1)/amd64",
                "windows(10.0.17763.9)/amd64",
                Some(0),
            ),
            (
                "windows(10.0.17763.1)/amd64",
                "windows(10.0.20348.9)/amd64",
                None,
            ),
        ];
        for (platform, candidate, want) in table {
            let rank =
                PlatformMatcher::new(&platform.parse().unwrap()).rank(&candidate.parse().unwrap());
            assert_eq!(
                rank.map(|(near, _)| near),
                want,
                "{candidate} on {platform}"
            );
        }
        let strict = PlatformMatcher::strict(&"linux/amd64".parse().unwrap());
        assert!(!strict.matches(&"linux/386".parse().unwrap()));
    }

    #[test]
    fn json_has_the_specifications_names_and_order() {
        let platform: Platform = "windows(10.0.1+f)/arm/v6".parse().unwrap();
        let text = serde_json::to_string(&platform).unwrap();
        assert_eq!(
            text,
            r#"{"architecture":"arm","os":"windows","os.version":"10.0.1","os.features":["f"],"variant":"v6"}"#
        );
        assert_eq!(serde_json::from_str::<Platform>(&text).unwrap(), platform);
    }
}
