//! The attributes of a solve request.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kiln_oci::Platform;
use kiln_proto::moby::buildkit::v1::CacheOptionsEntry;
use kiln_proto::pb;
use serde::Deserialize;

use crate::lint::{LintConfig, LintOptionError};
use crate::text::{csv_fields, parse_bool, quote};

/// Why an attribute can't be taken.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say what each is")]
pub enum OptionError {
    #[error("failed to parse target platform {text}")]
    Platform {
        text: String,
        #[source]
        source: kiln_oci::PlatformError,
    },
    #[error("invalid image-resolve-mode: {0}")]
    ResolveMode(String),
    #[error("failed to parse additional hosts: invalid key-value pair {0}")]
    Host(String),
    #[error("failed to parse additional hosts: failed to parse IP {0}")]
    HostAddress(String),
    #[error("failed to parse shm size: {}: invalid syntax", quote(.0))]
    ShmSize(String),
    #[error("failed to parse ulimit: invalid ulimit argument: {0}")]
    Ulimit(String),
    #[error("failed to parse ulimit: invalid ulimit type: {0}")]
    UlimitName(String),
    #[error(
        "failed to parse ulimit: ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
    )]
    UlimitOrder { soft: i64, hard: i64 },
    #[error("invalid netmode {0}")]
    Network(String),
    #[error("invalid boolean value for multi-platform: {0}")]
    MultiPlatform(String),
    #[error("conflicting config: returning multiple target platforms is not allowed")]
    ManyPlatforms,
    #[error("failed to unmarshal cache-imports ({})", quote(text))]
    CacheImports {
        text: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK")]
    Check(#[source] LintOptionError),
    #[error("support for {0} was removed in BuildKit 0.11")]
    Removed(&'static str),
    #[error("unsupported frontend capability {0}")]
    Capability(String),
    #[error("the Dockerfile frontend can't make an SBOM yet: the option {0} is not supported")]
    Sbom(String),
}

/// How the name of an image is resolved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ResolveMode {
    #[default]
    Default,
    Pull,
    Local,
}

impl ResolveMode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Pull => "pull",
            Self::Local => "local",
        }
    }
}

/// All attributes, read.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// As they came.
    pub raw: BTreeMap<String, String>,
    /// What builds; never empty.
    pub build_platform: Platform,
    /// What is built for; none means the build platform, said by nobody.
    pub target_platforms: Vec<Platform>,
    pub resolve_mode: ResolveMode,
    pub extra_hosts: Vec<pb::HostIp>,
    pub shm_size: i64,
    pub ulimits: Vec<pb::Ulimit>,
    pub network: pb::NetMode,
    /// Stages whose cache isn't used; none of them by name means all.
    pub no_cache: Option<Vec<String>>,
    pub multi_platform: bool,
    pub cache_imports: Vec<CacheOptionsEntry>,
    pub build_args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub cache_namespace: String,
    pub cgroup_parent: String,
    pub target: String,
    pub hostname: String,
    pub lint: Option<LintConfig>,
}

const CAPS: [&str; 4] = [
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
];

const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

impl Options {
    pub(crate) fn parse(
        mut raw: BTreeMap<String, String>,
        worker_platforms: &[Platform],
    ) -> Result<Self, OptionError> {
        check_removed(&raw)?;
        for (arg, key) in [
            ("build-arg:BUILDKIT_MULTI_PLATFORM", "multi-platform"),
            ("build-arg:BUILDKIT_SANDBOX_HOSTNAME", "hostname"),
        ] {
            let value = raw.get(arg).filter(|value| !value.is_empty());
            if let Some(value) = value.cloned() {
                raw.insert(key.to_owned(), value);
            }
        }
        if let Some(key) = raw.keys().find(|key| *key == "attest:sbom") {
            return Err(OptionError::Sbom(key.clone()));
        }
        let text = |key: &str| raw.get(key).map_or("", String::as_str);
        let target_platforms = platforms(text("platform"))?;
        let several = target_platforms.len() > 1;
        let multi_platform = match text("multi-platform") {
            "" => several,
            value => match parse_bool(value) {
                None => return Err(OptionError::MultiPlatform(value.to_owned())),
                Some(false) if several => return Err(OptionError::ManyPlatforms),
                Some(value) => value,
            },
        };
        Ok(Self {
            build_platform: worker_platforms
                .first()
                .cloned()
                .unwrap_or_else(Platform::host),
            target_platforms,
            resolve_mode: match text("image-resolve-mode") {
                "" | "default" => ResolveMode::Default,
                "pull" => ResolveMode::Pull,
                "local" => ResolveMode::Local,
                other => return Err(OptionError::ResolveMode(other.to_owned())),
            },
            extra_hosts: extra_hosts(text("add-hosts"))?,
            shm_size: match text("shm-size") {
                "" => 0,
                size => size
                    .parse()
                    .map_err(|_| OptionError::ShmSize(size.to_owned()))?,
            },
            ulimits: ulimits(text("ulimit"))?,
            network: match text("force-network-mode") {
                "" | "sandbox" => pb::NetMode::Unset,
                "none" => pb::NetMode::None,
                "host" => pb::NetMode::Host,
                other => return Err(OptionError::Network(other.to_owned())),
            },
            no_cache: raw.get("no-cache").map(|stages| {
                let names = stages.split(',').filter(|name| !name.is_empty());
                names.map(str::to_owned).collect()
            }),
            multi_platform,
            cache_imports: cache_imports(text("cache-imports"), text("cache-from"))?,
            build_args: with_prefix(&raw, "build-arg:"),
            labels: with_prefix(&raw, "label:"),
            cache_namespace: text("build-arg:BUILDKIT_CACHE_MOUNT_NS").to_owned(),
            cgroup_parent: text("cgroup-parent").to_owned(),
            target: text("target").to_owned(),
            hostname: text("hostname").to_owned(),
            lint: match raw.get("build-arg:BUILDKIT_DOCKERFILE_CHECK") {
                Some(text) => Some(LintConfig::parse(text).map_err(OptionError::Check)?),
                None => None,
            },
            raw,
        })
    }

    /// An attribute, or an empty text.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.raw.get(key).map_or("", String::as_str)
    }

    /// Whether the cache isn't used for a stage.
    pub(crate) fn is_no_cache(&self, stage: &str) -> bool {
        match &self.no_cache {
            None => false,
            Some(names) => {
                names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(stage))
            }
        }
    }

    /// What `frontend.caps` asks for and this frontend doesn't have, and whether another frontend may
    /// be asked in its place.
    pub(crate) fn missing_cap(&self) -> Option<(OptionError, bool)> {
        let wanted = self.text("frontend.caps");
        let wanted = wanted.split(',').filter(|cap| !cap.is_empty());
        let mut missing = None;
        for cap in wanted {
            let (name, hint) = cap.split_once('+').unwrap_or((cap, ""));
            if !CAPS.contains(&name) {
                let error = OptionError::Capability(name.to_owned());
                if !hint.contains("forward") {
                    return Some((error, false));
                }
                missing = Some((error, true));
            }
        }
        missing
    }
}

fn check_removed(raw: &BTreeMap<String, String>) -> Result<(), OptionError> {
    let text = |key: &str| raw.get(key).map_or("", String::as_str);
    if !text("override-copy-image").is_empty() {
        return Err(OptionError::Removed("\"override-copy-image\""));
    }
    if parse_bool(text("build-arg:BUILDKIT_DISABLE_FILEOP")) == Some(true) {
        return Err(OptionError::Removed(
            "\"BUILDKIT_DISABLE_FILEOP\" build-arg",
        ));
    }
    Ok(())
}

fn with_prefix(raw: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    let entries = raw.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix(prefix)?;
        Some((name.to_owned(), value.clone()))
    });
    entries.collect()
}

fn platforms(text: &str) -> Result<Vec<Platform>, OptionError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let each = text.split(',').map(|text| {
        let parsed = text.parse::<Platform>();
        let platform = parsed.map_err(|source| OptionError::Platform {
            text: text.to_owned(),
            source,
        })?;
        Ok(platform.normalized())
    });
    each.collect()
}

fn extra_hosts(text: &str) -> Result<Vec<pb::HostIp>, OptionError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let fields = csv_fields(text).ok_or_else(|| OptionError::Host(text.to_owned()))?;
    let each = fields.into_iter().map(|field| {
        let lower = field.to_lowercase();
        let Some((host, ip)) = lower.split_once('=') else {
            return Err(OptionError::Host(field));
        };
        let address: IpAddr = ip
            .parse()
            .map_err(|_| OptionError::HostAddress(ip.to_owned()))?;
        Ok(pb::HostIp {
            host: host.to_owned(),
            ip: address.to_canonical().to_string(),
        })
    });
    each.collect()
}

fn ulimits(text: &str) -> Result<Vec<pb::Ulimit>, OptionError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let fields = csv_fields(text).ok_or_else(|| OptionError::Ulimit(text.to_owned()))?;
    let each = fields.into_iter().map(|field| {
        let bad = || OptionError::Ulimit(field.clone());
        let (name, limits) = field.split_once('=').ok_or_else(bad)?;
        if !ULIMITS.contains(&name) {
            return Err(OptionError::UlimitName(name.to_owned()));
        }
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let soft: i64 = soft.parse().map_err(|_| bad())?;
        let hard: i64 = hard.parse().map_err(|_| bad())?;
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(OptionError::UlimitOrder { soft, hard });
        }
        Ok(pb::Ulimit {
            name: name.to_owned(),
            soft,
            hard,
        })
    });
    each.collect()
}

fn cache_imports(json: &str, names: &str) -> Result<Vec<CacheOptionsEntry>, OptionError> {
    /// Clients write the names of Go's struct, in either case.
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default, alias = "Type")]
        r#type: String,
        #[serde(default, alias = "Attrs")]
        attrs: Option<BTreeMap<String, String>>,
    }
    let mut imports = Vec::new();
    if !json.is_empty() {
        let entries: Vec<Entry> =
            serde_json::from_str(json).map_err(|source| OptionError::CacheImports {
                text: json.to_owned(),
                source,
            })?;
        imports.extend(entries.into_iter().map(|entry| CacheOptionsEntry {
            r#type: entry.r#type,
            attrs: entry.attrs.unwrap_or_default().into_iter().collect(),
        }));
    }
    let names = names.split(',').filter(|name| !name.is_empty());
    imports.extend(names.map(|name| CacheOptionsEntry {
        r#type: "registry".to_owned(),
        attrs: [("ref".to_owned(), name.to_owned())].into_iter().collect(),
    }));
    Ok(imports)
}
