//! Platforms: `os/architecture/variant`, parsed, normalised and matched as containerd does.
//!
//! A [`Platform`] keeps what it was given; [`Platform::normalized`] maps the many spellings of one
//! platform to one. [`PlatformMatcher`] knows which others a platform can run (arm/v6 on arm/v7,
//! arm/v7 on arm64, 386 on amd64) and in which order they are preferred.

mod matcher;
mod parse;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::go_json::null_default;

pub use matcher::PlatformMatcher;
pub use parse::PlatformError;

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
            os.push_str(&parse::encode_option(&self.os_version));
            for feature in &features {
                os.push('+');
                os.push_str(&parse::encode_option(feature));
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

/// The one name of an operating system; an empty one is this machine's.
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

#[cfg(test)]
mod tests {
    use super::*;

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
