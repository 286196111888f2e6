//! Which frontend serves a name.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_errdefs::{Detail, Kind, SharedError, WithDetail};
use kiln_frontend::Frontend;

/// The attribute of `gateway.v0` that names the frontend's image.
pub(crate) const SOURCE: &str = "source";

/// The frontends of a daemon.
#[derive(Clone, Default)]
pub struct Frontends {
    /// `dockerfile.v0`; absent where the configuration turns it off.
    pub dockerfile: Option<Arc<dyn Frontend>>,
    /// `gateway.v0` for images; absent where it is turned off, or not served.
    pub gateway: Option<Arc<dyn Frontend>>,
}

impl std::fmt::Debug for Frontends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frontends")
            .field("dockerfile", &self.dockerfile.is_some())
            .field("gateway", &self.gateway.is_some())
            .finish()
    }
}

/// A frontend and the options that it gets.
pub(crate) type Chosen = (Arc<dyn Frontend>, BTreeMap<String, String>);

impl Frontends {
    /// The frontend of that name, with the options that it gets.
    pub(crate) fn find(
        &self,
        name: &str,
        mut options: BTreeMap<String, String>,
    ) -> Result<Chosen, SharedError> {
        let source = options.get(SOURCE).cloned().unwrap_or_default();
        let found = match name {
            "dockerfile.v0" => self.dockerfile.clone(),
            "gateway.v0" if is_builtin(&source) && self.dockerfile.is_some() => {
                options.remove(SOURCE);
                self.dockerfile.clone()
            }
            "gateway.v0" => self.gateway.clone(),
            _ => {
                return Err(WithDetail::message(
                    Kind::NotFound,
                    format!("invalid frontend: {name}"),
                )
                .and(frontend(name, ""))
                .shared());
            }
        };
        found.map(|found| (found, options)).ok_or_else(|| {
            let text = if source.is_empty() {
                format!("frontend {name} is not enabled in this builder")
            } else {
                format!("frontend image {source} can't be run: this builder has its Dockerfile frontend built in and runs no others")
            };
            WithDetail::message(Kind::Unimplemented, text)
                .and(frontend(name, &source))
                .shared()
        })
    }
}

fn frontend(name: &str, source: &str) -> Detail {
    Detail::Frontend {
        name: name.to_owned(),
        source: source.to_owned(),
    }
}

/// Whether the built-in frontend stands for this image: the floating tags of `docker/dockerfile` up to
/// the version that it knows. Pinned by digest, or newer, it must be the image itself.
pub(crate) fn is_builtin(source: &str) -> bool {
    const NEWEST_MINOR: u64 = 26;
    let name = ["docker.io/", "index.docker.io/"]
        .iter()
        .find_map(|registry| source.strip_prefix(registry))
        .unwrap_or(source);
    if name == "dockerfile.v0" || name == "docker/dockerfile" {
        return true;
    }
    if name.contains('@') {
        return false;
    }
    let Some(tag) = name
        .strip_prefix("docker/dockerfile:")
        .or_else(|| name.strip_prefix("docker/dockerfile-upstream:"))
    else {
        return false;
    };
    let version = tag.strip_suffix("-labs").unwrap_or(tag);
    if matches!(version, "latest" | "labs" | "stable" | "master") {
        return true;
    }
    let mut numbers = version.split('.').map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(1)), None) => true,
        (Some(Ok(1)), Some(Ok(minor))) => {
            minor <= NEWEST_MINOR && numbers.all(|number| number.is_ok())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_builtin;

    #[test]
    fn images_that_the_builtin_frontend_stands_for() {
        for (source, builtin) in [
            ("docker/dockerfile", true),
            ("docker/dockerfile:1", true),
            ("docker.io/docker/dockerfile:1.7", true),
            ("docker/dockerfile:1.4.3", true),
            ("docker/dockerfile:1-labs", true),
            ("docker/dockerfile:1.10-labs", true),
            ("docker/dockerfile:latest", true),
            ("docker/dockerfile-upstream:master", true),
            ("dockerfile.v0", true),
            ("docker/dockerfile:1.99", false),
            ("docker/dockerfile:2", false),
            ("docker/dockerfile:1.x", false),
            ("docker/dockerfile:experimental", false),
            (
                "docker/dockerfile:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                false,
            ),
            ("example.com/docker/dockerfile:1", false),
            ("r2d4/mockerfile", false),
            ("", false),
        ] {
            assert_eq!(is_builtin(source), builtin, "{source}");
        }
    }
}
