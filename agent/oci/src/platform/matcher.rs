//! Which platforms' images run on a platform, and which of them is the nearest.

use super::Platform;

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
}
