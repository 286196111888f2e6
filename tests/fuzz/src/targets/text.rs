//! Texts and JSON.

use std::path::Path;
use std::time::SystemTime;

use kiln_cache::{UsageKind, UsageRecord};
use kiln_filesync::PatternMatcher;
use kiln_gc::Filters;
use kiln_history::Filter;
use kiln_ids::RefId;
use kiln_oci::{Digest, ImageConfig, Index, Manifest, Platform, PlatformMatcher, Reference};
use kiln_proto::moby::buildkit::v1 as control;
use kiln_remotecache::{CacheConfig, inline, plan};

use super::outcome;
use crate::{Target, seeds};

pub(crate) const IGNORE_FILE: Target = Target {
    name: "ignore_file",
    seeds: || {
        [
            "*.md\n!README.md\n**/node_modules\n/a/b\nc?d\n[a-z]x\n\\!e\n",
            "**\n!src/**\n!*.rs\n",
            "a/**/b\n**/x/**\n*/*/temp*\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into()
    },
    words: &[
        b"**", b"*", b"?", b"[", b"]", b"[^a]", b"!", b"/", b"..", b"\\", b"\n", b"[a-", b"{a,b}",
    ],
    read: |input| {
        let text = String::from_utf8_lossy(input);
        let lines: Vec<&str> = text.lines().take(64).collect();
        let matcher = PatternMatcher::new(&lines);
        if let Ok(matcher) = &matcher {
            for path in [
                "a",
                "a/b",
                "src/x/y.rs",
                "node_modules/z",
                "README.md",
                "\u{e9}/b",
            ] {
                let _ = matcher.matches(path);
            }
            let (below, info) = matcher.matches_below("a", &kiln_filesync::MatchInfo::default());
            let (deeper, _) = matcher.matches_below("a/b", &info);
            if lines.iter().all(|line| line.len() < 64) {
                assert_eq!(below, matcher.matches("a"), "a");
                assert_eq!(deeper, matcher.matches("a/b"), "a/b");
            }
        }
        outcome(&matcher)
    },
};

pub(crate) const BUILDKITD_TOML: Target = Target {
    name: "buildkitd_toml",
    seeds: || {
        [
            "debug = true\nroot = \"/r\"\ninsecure-entitlements = [\"network.host\"]\n[grpc]\naddress = [\"unix:///s\"]\n\
             [grpc.tls]\ncert = \"c\"\n[worker.oci]\nmax-parallelism = 4\ngc = true\nreservedSpace = \"10%\"\n\
             [[worker.oci.gcpolicy]]\nall = true\nkeepDuration = \"48h\"\nmaxUsedSpace = 1000\nfilters = [\"type==x\"]\n",
            "[registry.\"docker.io\"]\nmirrors = [\"h:5000/p\"]\nhttp = true\nca=[\"x\"]\n[[registry.\"docker.io\".keypair]]\n\
             key=\"k\"\ncert=\"c\"\n[history]\nmaxAge = \"1h30m\"\nmaxEntries = 5\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into()
    },
    words: &[
        b"=",
        b"[",
        b"]",
        b"[[",
        b"\"",
        b"true",
        b"-1",
        b"1e400",
        b"\"\"\"",
        b"\"1000000d\"",
        b"\"101%\"",
        b"\"9EB\"",
        b".",
    ],
    read: |input| {
        let parsed =
            kiln_config::parse(&String::from_utf8_lossy(input), Path::new("buildkitd.toml"));
        outcome(&parsed)
    },
};

pub(crate) const IMAGE_JSON: Target = Target {
    name: "image_json",
    seeds: || {
        let digest = "sha256:557b6c06ad0086954771d64b41ebc9dc1bb566fc995d0ed38398556296431185";
        let mut all = seeds::image_configs();
        all.push(
            format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":7}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":1,"annotations":{{"a":"b"}},"urls":["u"]}}]}}"#
            )
            .into_bytes(),
        );
        all.push(
            format!(
                r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":7,"platform":{{"architecture":"arm","os":"linux","variant":"v7","os.features":["x"]}}}}]}}"#
            )
            .into_bytes(),
        );
        all
    },
    words: &[
        b"null",
        b"{}",
        b"[]",
        b"\"\"",
        b"-1",
        b"18446744073709551616",
        b"1e9",
        b"\"\\ud800\"",
        b"\"layers\":",
        b"\"sha256:\"",
        b"\"rootfs\":",
        b",",
    ],
    read: |input| {
        if let Ok(config) = ImageConfig::parse(input) {
            let written = config.to_vec().unwrap_or_default();
            let again = ImageConfig::parse(&written);
            assert_eq!(
                again.ok().as_ref(),
                Some(&config),
                "a config reads otherwise when it was written"
            );
        }
        let manifest = serde_json::from_slice::<Manifest>(input);
        if let Ok(manifest) = &manifest {
            let again = manifest
                .to_vec()
                .and_then(|json| serde_json::from_slice(&json));
            assert_eq!(
                again.ok().as_ref(),
                Some(manifest),
                "a manifest reads otherwise"
            );
        }
        let index = serde_json::from_slice::<Index>(input);
        if let Ok(index) = &index {
            let _ = index.select(&PlatformMatcher::new(&Platform::new(
                "linux", "arm64", "v8",
            )));
            let again = index
                .to_vec()
                .and_then(|json| serde_json::from_slice(&json));
            assert_eq!(again.ok().as_ref(), Some(index), "an index reads otherwise");
        }
        format!(
            "{} {} {}",
            outcome(&ImageConfig::parse(input)),
            outcome(&manifest),
            outcome(&index)
        )
    },
};

pub(crate) const NAMES: Target = Target {
    name: "names",
    seeds: || {
        [
            "busybox",
            "docker.io/library/alpine:3.20",
            "localhost:5000/a/b_c__d-e.f@sha256:557b6c06ad0086954771d64b41ebc9dc1bb566fc995d0ed38398556296431185",
            "[::1]:5000/x:y",
            "linux/arm/v7",
            "linux(+x+y)/amd64/v2",
            "windows(10.0.17763+f)/amd64",
            "sha256:557b6c06ad0086954771d64b41ebc9dc1bb566fc995d0ed38398556296431185",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into()
    },
    words: &[
        b"/",
        b":",
        b"@",
        b"sha256:",
        b"..",
        b"__",
        b"(",
        b")",
        b"+",
        b"A",
        b"localhost",
        b"library/",
        b"v8",
        b"xn--",
        b"[::1]",
    ],
    read: |input| {
        let text = String::from_utf8_lossy(input);
        let reference = text.parse::<Reference>();
        if let Ok(reference) = &reference {
            let again = reference.to_string().parse::<Reference>();
            assert_eq!(
                again.ok().as_ref(),
                Some(reference),
                "{text:?} reads otherwise"
            );
            let familiar = reference.familiar();
            let again = familiar.parse::<Reference>();
            assert_eq!(
                again.ok().as_ref(),
                Some(reference),
                "{text:?} as {familiar:?} reads otherwise"
            );
        }
        let platform = text.parse::<Platform>();
        if let Ok(platform) = &platform {
            let normal = platform.normalized();
            assert_eq!(
                normal.normalized(),
                normal,
                "{text:?} isn't normal once normalized"
            );
            let _ = PlatformMatcher::new(platform).matches(&normal);
        }
        let digest = text.parse::<Digest>();
        if let Ok(digest) = &digest {
            assert_eq!(digest.to_string(), text, "a digest has one form");
        }
        format!(
            "{} {} {}",
            outcome(&reference),
            outcome(&platform),
            outcome(&digest)
        )
    },
};

pub(crate) const CACHE_CONFIG: Target = Target {
    name: "cache_config",
    seeds: seeds::cache_configs,
    words: &[
        b"\"parent\":",
        b"-1",
        b"0",
        b"1",
        b"\"link\":",
        b"\"selector\":",
        b"\"chains\":",
        b"[[",
        b"null",
        b"{}",
        b"\"layer\":",
        b"\"sha256:\"",
        b"\"random:\"",
    ],
    read: |input| {
        let parsed = CacheConfig::parse(input);
        if let Ok(config) = &parsed
            && config.check().is_ok()
        {
            for layer in 0..config.layers.len().min(64) {
                let _ = config.chain(layer);
            }
            let _ = plan(config, &std::collections::BTreeMap::new());
            let again = config
                .to_vec()
                .map(|json| CacheConfig::parse(&json).is_ok());
            assert!(again.unwrap_or(false), "a cache config reads otherwise");
        }
        let inline = inline::parse(input, &[Digest::of("a"), Digest::of("b")]);
        let _ = inline::field(input);
        format!("{} {}", outcome(&parsed), outcome(&inline))
    },
};

pub(crate) const FILTERS: Target = Target {
    name: "filters",
    seeds: || {
        [
            "type==source.local,inuse",
            "description~=\"a.*b\",id!=x",
            "until=24h",
            "parents==a",
            "status=completed,createdAt>2d",
            "\"repository=https://h/r\",startedAt<=2026-01-02T03:04:05Z",
            "ref=~^a,duration>=1m30s",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into()
    },
    words: &[
        b"==",
        b"!=",
        b"~=",
        b",",
        b"\"",
        b"\\\"",
        b".",
        b"id",
        b"type",
        b"(((",
        b"{1,999999}",
        b">",
        b"<=",
        b"h",
        b"9999999999999999999s",
        b"-1d",
    ],
    read: |input| {
        let text = String::from_utf8_lossy(input);
        let parts: Vec<String> = text.split('\n').take(8).map(str::to_owned).collect();
        let filters = Filters::parse(&parts);
        if let Ok(filters) = &filters {
            let _ = filters.matches(&usage_record());
        }
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
        let history = Filter::parse(&parts, now);
        if let Ok(history) = &history {
            let _ = history.matches(&control::BuildHistoryRecord::default());
        }
        format!("{} {}", outcome(&filters), outcome(&history))
    },
};

fn usage_record() -> UsageRecord {
    UsageRecord {
        id: RefId::new("a"),
        mutable: true,
        in_use: false,
        size: 1,
        parents: vec![RefId::new("b")],
        created: SystemTime::UNIX_EPOCH,
        last_used: None,
        usage_count: 0,
        description: "a description".to_owned(),
        kind: UsageKind::Regular,
        shared: false,
        build_time: None,
        origin: None,
        pinned: false,
    }
}
