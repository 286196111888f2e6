//! What an op asks for, read from its identifier and attributes.

use std::str::FromStr;

use kiln_cache::UsageKind;
use kiln_ids::SessionId;
use kiln_oci::{Digest, Reference};
use kiln_proto::pb;

use super::ImageError;

/// Who is asked what a name stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ResolveMode {
    /// The registry; the local store if the registry fails.
    #[default]
    Default,
    /// The registry only.
    ForcePull,
    /// The local store; the registry for what isn't there.
    PreferLocal,
}

impl FromStr for ResolveMode {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        match text {
            "" | "default" => Ok(Self::Default),
            "pull" => Ok(Self::ForcePull),
            "local" => Ok(Self::PreferLocal),
            other => Err(ImageError::Attribute {
                key: "image.resolvemode",
                value: other.to_owned(),
            }),
        }
    }
}

/// A layout that a client serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) session: Option<SessionId>,
    pub(super) store: String,
}

#[derive(Debug, Clone)]
pub(super) struct ImageRequest {
    pub(super) reference: Reference,
    pub(super) mode: ResolveMode,
    pub(super) record_kind: UsageKind,
    pub(super) layer_limit: Option<usize>,
    pub(super) checksum: Option<Digest>,
    /// Set for `oci-layout://`.
    pub(super) layout: Option<Layout>,
}

impl ImageRequest {
    pub(super) fn parse(op: &pb::SourceOp) -> Result<Self, ImageError> {
        let (scheme, name) = op
            .identifier
            .split_once("://")
            .unwrap_or(("docker-image", &op.identifier));
        let reference: Reference = name.parse().map_err(|source| ImageError::Reference {
            identifier: op.identifier.clone(),
            source,
        })?;
        let attribute = |key| op.attrs.get(key).map(String::as_str);
        let is_layout = scheme == "oci-layout";
        let limit_key = if is_layout {
            "oci.layerlimit"
        } else {
            "image.layerlimit"
        };
        let layer_limit = attribute(limit_key)
            .map(|text| {
                text.parse::<usize>()
                    .ok()
                    .filter(|limit| *limit > 0)
                    .ok_or_else(|| bad(limit_key, text))
            })
            .transpose()?;
        let mut request = Self {
            reference: reference.with_default_tag(),
            mode: ResolveMode::Default,
            record_kind: UsageKind::Regular,
            layer_limit,
            checksum: None,
            layout: None,
        };
        if is_layout {
            if request.reference.digest().is_none() {
                return Err(ImageError::NoDigest {
                    name: name.to_owned(),
                });
            }
            request.layout = Some(Layout {
                session: attribute("oci.session")
                    .filter(|id| !id.is_empty())
                    .map(SessionId::new),
                store: attribute("oci.store")
                    .filter(|store| !store.is_empty())
                    .map_or_else(|| request.reference.familiar_name(), str::to_owned),
            });
            return Ok(request);
        }
        request.mode = attribute("image.resolvemode").unwrap_or_default().parse()?;
        if let Some(text) = attribute("image.recordtype") {
            request.record_kind = text.parse().map_err(|_| bad("image.recordtype", text))?;
        }
        request.checksum = attribute("image.checksum")
            .map(|text| text.parse().map_err(|_| bad("image.checksum", text)))
            .transpose()?;
        Ok(request)
    }
}

fn bad(key: &'static str, value: &str) -> ImageError {
    ImageError::Attribute {
        key,
        value: value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(identifier: &str, attrs: &[(&str, &str)]) -> Result<ImageRequest, ImageError> {
        ImageRequest::parse(&pb::SourceOp {
            identifier: identifier.to_owned(),
            attrs: attrs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        })
    }

    #[test]
    fn ops_are_read() {
        let request = parse(
            "docker-image://alpine",
            &[
                ("image.resolvemode", "local"),
                ("image.recordtype", "frontend"),
                ("image.layerlimit", "2"),
            ],
        );
        let request = request.unwrap();
        assert_eq!(
            request.reference.to_string(),
            "docker.io/library/alpine:latest"
        );
        assert_eq!(
            (request.mode, request.record_kind, request.layer_limit),
            (ResolveMode::PreferLocal, UsageKind::Frontend, Some(2))
        );
        let digest = Digest::of("x");
        let request = parse(
            &format!("oci-layout://not/real@{digest}"),
            &[("oci.store", "s"), ("oci.session", "id")],
        );
        let layout = request.unwrap().layout.unwrap();
        assert_eq!(
            (layout.store.as_str(), layout.session),
            ("s", Some(SessionId::new("id")))
        );
    }

    #[test]
    fn bad_ops_are_refused() {
        for (identifier, attrs) in [
            ("docker-image://", &[][..]),
            ("docker-image://A", &[]),
            ("docker-image://a", &[("image.resolvemode", "sometimes")]),
            ("docker-image://a", &[("image.recordtype", "x")]),
            ("docker-image://a", &[("image.layerlimit", "0")]),
            ("docker-image://a", &[("image.checksum", "sha256:1")]),
            ("oci-layout://a:tag", &[]),
        ] {
            assert!(parse(identifier, attrs).is_err(), "{identifier} {attrs:?}");
        }
    }
}
