//! The options of the frontend that don't depend on files.

use std::net::IpAddr;

use kiln_oci::Platform;

use super::{BuildError, BuildRequest, HOST_GATEWAY, Prepared};

impl BuildRequest {
    /// The options of the frontend that don't depend on files.
    pub(super) fn put_settings(&self, prepared: &mut Prepared) -> Result<(), BuildError> {
        let options = &mut prepared.options;
        let mut put =
            |key: &str, value: String| options.frontend_attrs.insert(key.to_owned(), value);
        for (name, value) in &self.arguments {
            put(&format!("build-arg:{name}"), value.clone());
        }
        for (name, value) in &self.labels {
            put(&format!("label:{name}"), value.clone());
        }
        for (kind, value) in &self.attestations {
            if let Some(value) = value {
                put(&format!("attest:{kind}"), value.clone());
            }
        }
        if !self.attestations.contains_key("provenance") {
            put("attest:provenance", "mode=min,inline-only=true".into());
        }
        if let Some(target) = &self.target {
            put("target", target.clone());
        }
        if !self.no_cache_stages.is_empty() {
            put("no-cache", self.no_cache_stages.join(","));
        }
        if self.no_cache {
            put("no-cache", String::new());
        }
        if self.pull {
            put("image-resolve-mode", "pull".into());
        }
        if !self.platforms.is_empty() {
            let platforms: Result<Vec<String>, BuildError> = self
                .platforms
                .iter()
                .flat_map(|list| list.split(','))
                .map(|text| match text.parse::<Platform>() {
                    Ok(platform) => Ok(platform.normalized().format_all()),
                    Err(error) => Err(BuildError::invalid("platform", text, error.to_string())),
                })
                .collect();
            put("platform", platforms?.join(","));
        }
        if !self.hosts.is_empty() {
            put("add-hosts", hosts(&self.hosts, self.host_gateway)?);
        }
        if let Some(size) = self.shm_size {
            put("shm-size", size.to_string());
        }
        if !self.ulimits.is_empty() {
            put("ulimit", self.ulimits.join(","));
        }
        if let Some(parent) = &self.cgroup_parent {
            put("cgroup-parent", parent.clone());
        }
        if let Some(syntax) = self.arguments.get("BUILDKIT_SYNTAX") {
            let syntax = syntax.trim();
            let image = syntax.split(' ').next().unwrap_or_default();
            if image.is_empty() {
                let reason = "BUILDKIT_SYNTAX must name an image";
                return Err(BuildError::invalid("build argument", syntax, reason));
            }
            put("source", image.to_owned());
            put("cmdline", syntax.to_owned());
            "gateway.v0".clone_into(&mut options.frontend);
        }
        let mut put = |key: &str, value: &str| {
            options
                .frontend_attrs
                .insert(key.to_owned(), value.to_owned());
        };
        match self.network.as_deref() {
            None | Some("" | "default") => {}
            Some("none") => put("force-network-mode", "none"),
            Some("host") => {
                put("force-network-mode", "host");
                options.entitlements.push("network.host".to_owned());
            }
            Some(other) => {
                let reason = "want default, none or host";
                return Err(BuildError::invalid("network mode", other, reason));
            }
        }
        Ok(())
    }
}

/// `name:address` or `name=address`, as the frontend takes them.
fn hosts(all: &[String], gateway: Option<IpAddr>) -> Result<String, BuildError> {
    const WHAT: &str = "host";
    let mut lines = Vec::new();
    for text in all {
        let pair = text.split_once('=').or_else(|| text.split_once(':'));
        let Some((name, address)) = pair.filter(|(name, _)| !name.is_empty()) else {
            return Err(BuildError::invalid(WHAT, text, "want NAME:ADDRESS"));
        };
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        if bare == HOST_GATEWAY {
            let Some(gateway) = gateway else {
                let reason = "this builder has no host gateway; a machine has one when its settings allow ports of the host";
                return Err(BuildError::invalid(WHAT, text, reason));
            };
            lines.push(format!("{name}={gateway}"));
            continue;
        }
        let Ok(address) = bare.parse::<IpAddr>() else {
            return Err(BuildError::invalid(
                WHAT,
                text,
                "the address isn't an IP address",
            ));
        };
        lines.push(format!("{name}={address}"));
    }
    Ok(lines.join(","))
}
