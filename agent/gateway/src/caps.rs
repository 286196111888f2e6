//! What frontends may call, by BuildKit's names.

use kiln_proto::moby::buildkit::v1::apicaps::ApiCap;

/// Capabilities of the gateway API that [`crate::BridgeService`] serves.
pub const FRONTEND: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.solve.metadata",
    "frontend.caps",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
    "reference.attestations",
    "source.metaresolver",
];

/// Capabilities as the wire has them.
pub fn enabled<'a>(ids: impl IntoIterator<Item = &'a str>) -> Vec<ApiCap> {
    ids.into_iter()
        .map(|id| ApiCap {
            id: id.to_owned(),
            enabled: true,
            ..ApiCap::default()
        })
        .collect()
}
