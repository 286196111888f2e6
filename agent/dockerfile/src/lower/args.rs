//! Arguments before the first `FROM`, and those that are always there.

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::Platform;
use kiln_proto::pb;

use super::env::Env;
use super::error::{At, Result};
use super::outline::ArgInfo;
use crate::instruction::ArgDefinition;
use crate::parse::Lines;
use crate::shell::Lexer;

/// What is built on and for.
#[derive(Debug, Clone)]
pub(crate) struct Platforms {
    pub target: Platform,
    pub build: Platform,
    /// Nobody said what is built for.
    pub implicit: bool,
}

/// The arguments that are always there.
pub(crate) fn predefined(
    platforms: &Platforms,
    given: &BTreeMap<String, String>,
    target: &str,
) -> Env {
    let (build, to) = (&platforms.build, &platforms.target);
    let target = if target.is_empty() { "default" } else { target };
    let all = [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", build.os_version.clone()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", to.format_all()),
        ("TARGETOS", to.os.clone()),
        ("TARGETOSVERSION", to.os_version.clone()),
        ("TARGETARCH", to.architecture.clone()),
        ("TARGETVARIANT", to.variant.clone()),
        ("TARGETSTAGE", target.to_owned()),
    ];
    let mut env = Env::default();
    for (key, value) in all {
        env.set(key, given.get(key).unwrap_or(&value));
    }
    env
}

/// Adds the arguments before the first `FROM`.
pub(crate) fn global(
    mut env: Env,
    lexer: Lexer,
    definitions: &[(Vec<ArgDefinition>, Lines)],
    given: &BTreeMap<String, String>,
) -> Result<(Env, BTreeMap<String, ArgInfo>)> {
    let mut all: BTreeMap<String, ArgInfo> = BTreeMap::new();
    for (args, lines) in definitions {
        for arg in args {
            let mut deps = BTreeSet::new();
            let value = match (given.get(&arg.key), &arg.value) {
                (Some(value), _) => Some(value.clone()),
                (None, None) => None,
                (None, Some(default)) => {
                    let expanded = lexer.expand(default, &env).at(*lines)?;
                    deps = expanded.matched;
                    if deps.remove(&arg.key) {
                        // It uses its former value, and so what that used.
                        let former = all.get(&arg.key).map(|old| old.deps.clone());
                        deps.extend(former.unwrap_or_default());
                    }
                    Some(expanded.text)
                }
            };
            if let Some(value) = &value {
                env.set(&arg.key, value);
            }
            let info = ArgInfo {
                value: value.unwrap_or_default(),
                description: arg.description.clone(),
                lines: *lines,
                deps,
            };
            all.insert(arg.key.clone(), info);
        }
    }
    Ok((env, all))
}

/// Proxies that a client gives as arguments without an `ARG`.
pub(crate) fn proxies(given: &BTreeMap<String, String>) -> Option<pb::ProxyEnv> {
    let mut proxies = pb::ProxyEnv::default();
    let mut any = false;
    for (key, value) in given {
        let field = match key.to_ascii_lowercase().as_str() {
            "http_proxy" => &mut proxies.http_proxy,
            "https_proxy" => &mut proxies.https_proxy,
            "ftp_proxy" => &mut proxies.ftp_proxy,
            "no_proxy" => &mut proxies.no_proxy,
            "all_proxy" => &mut proxies.all_proxy,
            _ => continue,
        };
        field.clone_from(value);
        any = true;
    }
    any.then_some(proxies)
}
