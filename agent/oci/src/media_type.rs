//! Media types of OCI and Docker documents and layers, and questions about them.

/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The empty JSON object `{}`.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// A layer: a plain tar.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer: a tar in gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A layer: a tar in zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// A layer that only its owner may distribute (OCI, plain).
pub const OCI_LAYER_NONDISTRIBUTABLE: &str =
    "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// A layer that only its owner may distribute (OCI, gzip).
pub const OCI_LAYER_NONDISTRIBUTABLE_GZIP: &str =
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
/// A layer that only its owner may distribute (OCI, zstd).
pub const OCI_LAYER_NONDISTRIBUTABLE_ZSTD: &str =
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";

/// Docker's manifest list.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's signed image manifest, schema 1: refused.
pub const DOCKER_MANIFEST_V1_SIGNED: &str =
    "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Docker's image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer: a plain tar.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker's layer: a tar in gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker's layer: a tar in zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// A layer that only its owner may distribute (Docker, plain).
pub const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// A layer that only its owner may distribute (Docker, gzip).
pub const DOCKER_FOREIGN_LAYER_GZIP: &str =
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// An in-toto statement in an attestation manifest.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// BuildKit's cache config.
pub const BUILDKIT_CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// An index or a manifest list.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_MANIFEST_LIST)
}

/// An image manifest of either family.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// An image config of either family.
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// A layer of a file system, in whatever compression.
pub fn is_layer(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

/// A layer that must be fetched from its own URLs and isn't pushed.
pub fn is_nondistributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

/// The media type of the other family: OCI for Docker and the reverse. Others stay as they are.
pub fn convert(media_type: &str, to_oci: bool) -> &str {
    const PAIRS: [(&str, &str); 7] = [
        (DOCKER_MANIFEST_LIST, OCI_INDEX),
        (DOCKER_MANIFEST, OCI_MANIFEST),
        (DOCKER_CONFIG, OCI_CONFIG),
        (DOCKER_LAYER, OCI_LAYER),
        (DOCKER_LAYER_GZIP, OCI_LAYER_GZIP),
        (DOCKER_LAYER_ZSTD, OCI_LAYER_ZSTD),
        (DOCKER_FOREIGN_LAYER_GZIP, OCI_LAYER_NONDISTRIBUTABLE_GZIP),
    ];
    PAIRS
        .iter()
        .find_map(|&(docker, oci)| match to_oci {
            true if media_type == docker => Some(oci),
            false if media_type == oci => Some(docker),
            _ => None,
        })
        .unwrap_or(media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_convert_both_ways() {
        for (docker, oci) in [
            (DOCKER_MANIFEST_LIST, OCI_INDEX),
            (DOCKER_MANIFEST, OCI_MANIFEST),
            (DOCKER_CONFIG, OCI_CONFIG),
            (DOCKER_LAYER_GZIP, OCI_LAYER_GZIP),
            (DOCKER_LAYER_ZSTD, OCI_LAYER_ZSTD),
        ] {
            assert_eq!(convert(docker, true), oci);
            assert_eq!(convert(oci, false), docker);
            assert_eq!(convert(oci, true), oci);
        }
        assert_eq!(convert("text/plain", true), "text/plain");
    }

    #[test]
    fn kinds_are_told_apart() {
        assert!(is_layer(DOCKER_FOREIGN_LAYER) && is_nondistributable(DOCKER_FOREIGN_LAYER));
        assert!(is_layer(OCI_LAYER_ZSTD) && !is_nondistributable(OCI_LAYER_ZSTD));
        assert!(!is_layer(OCI_CONFIG) && is_config(OCI_CONFIG));
        assert!(is_index(OCI_INDEX) && !is_manifest(OCI_INDEX));
    }
}
