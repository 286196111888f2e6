//! How a layer is compressed: kinds, their media types, and what exporters ask for.

use std::fmt;
use std::str::FromStr;

use kiln_oci::media_type as mt;

/// A kind of compression. eStargz is refused where it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// A plain tar.
    Uncompressed,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// A compression that Kiln doesn't have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedCompression {
    /// eStargz needs a table of contents in the layer.
    #[error("compression type estargz is not supported; use gzip, zstd or uncompressed")]
    Estargz,
    /// An unknown word.
    #[error("unsupported compression type {0}")]
    Type(String),
    /// A media type of no layer.
    #[error("unsupported media type {0}")]
    MediaType(String),
    /// Not a number, or none of the kind's levels.
    #[error("invalid compression level {level} for {kind}: want {low} to {high}")]
    Level {
        /// What was given.
        level: String,
        /// For which kind.
        kind: Compression,
        /// The lowest level.
        low: i32,
        /// The highest level.
        high: i32,
    },
    /// Neither true nor false.
    #[error("non-bool value {0} specified for force-compression")]
    Force(String),
}

impl Compression {
    /// The kind of a layer with this media type, of either family.
    pub fn from_media_type(media_type: &str) -> Result<Self, UnsupportedCompression> {
        match media_type {
            mt::OCI_LAYER
            | mt::OCI_LAYER_NONDISTRIBUTABLE
            | mt::DOCKER_LAYER
            | mt::DOCKER_FOREIGN_LAYER => Ok(Self::Uncompressed),
            mt::OCI_LAYER_GZIP
            | mt::OCI_LAYER_NONDISTRIBUTABLE_GZIP
            | mt::DOCKER_LAYER_GZIP
            | mt::DOCKER_FOREIGN_LAYER_GZIP => Ok(Self::Gzip),
            mt::OCI_LAYER_ZSTD | mt::OCI_LAYER_NONDISTRIBUTABLE_ZSTD | mt::DOCKER_LAYER_ZSTD => {
                Ok(Self::Zstd)
            }
            other => Err(UnsupportedCompression::MediaType(other.to_owned())),
        }
    }

    /// The media type of a layer.
    pub const fn media_type(self, oci: bool) -> &'static str {
        match (self, oci) {
            (Self::Uncompressed, true) => mt::OCI_LAYER,
            (Self::Gzip, true) => mt::OCI_LAYER_GZIP,
            (Self::Zstd, true) => mt::OCI_LAYER_ZSTD,
            (Self::Uncompressed, false) => mt::DOCKER_LAYER,
            (Self::Gzip, false) => mt::DOCKER_LAYER_GZIP,
            (Self::Zstd, false) => mt::DOCKER_LAYER_ZSTD,
        }
    }

    /// What data that begins like this is compressed with.
    pub fn detect(start: &[u8]) -> Self {
        if start.starts_with(&[0x1f, 0x8b, 0x08]) {
            Self::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable_frame(start) {
            Self::Zstd
        } else {
            Self::Uncompressed
        }
    }

    const fn levels(self) -> (i32, i32) {
        match self {
            Self::Uncompressed => (0, 0),
            Self::Gzip => (-1, 9),
            Self::Zstd => (0, 22),
        }
    }
}

/// A frame of Zstandard that decoders skip; some writers begin with one.
fn is_skippable_frame(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

impl FromStr for Compression {
    type Err = UnsupportedCompression;

    fn from_str(text: &str) -> Result<Self, UnsupportedCompression> {
        match text {
            "uncompressed" => Ok(Self::Uncompressed),
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            "estargz" => Err(UnsupportedCompression::Estargz),
            other => Err(UnsupportedCompression::Type(other.to_owned())),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// What an exporter asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CompressionSpec {
    /// For layers that are compressed anew.
    pub kind: Compression,
    /// `None` for the profile's own.
    pub level: Option<i32>,
    /// Also convert layers that exist in another compression.
    pub force: bool,
}

impl Default for CompressionSpec {
    fn default() -> Self {
        Self {
            kind: Compression::Gzip,
            level: None,
            force: false,
        }
    }
}

impl CompressionSpec {
    /// Reads an exporter's attributes `compression`, `compression-level` and `force-compression`.
    pub fn parse<'a>(
        attribute: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self, UnsupportedCompression> {
        let kind = match attribute("compression") {
            Some(text) => text.parse()?,
            None => Compression::Gzip,
        };
        let level = attribute("compression-level")
            .map(|text| parse_level(kind, text))
            .transpose()?;
        let force = match attribute("force-compression") {
            Some("" | "1" | "t" | "T" | "true" | "True" | "TRUE") => true,
            None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => false,
            Some(other) => return Err(UnsupportedCompression::Force(other.to_owned())),
        };
        Ok(Self { kind, level, force })
    }
}

fn parse_level(kind: Compression, text: &str) -> Result<i32, UnsupportedCompression> {
    let (low, high) = kind.levels();
    text.parse()
        .ok()
        .filter(|level| kind == Compression::Uncompressed || (low..=high).contains(level))
        .ok_or_else(|| UnsupportedCompression::Level {
            level: text.to_owned(),
            kind,
            low,
            high,
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn media_types_go_both_ways() {
        for kind in [
            Compression::Uncompressed,
            Compression::Gzip,
            Compression::Zstd,
        ] {
            for oci in [true, false] {
                assert_eq!(Compression::from_media_type(kind.media_type(oci)), Ok(kind));
            }
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!(Compression::from_media_type(mt::OCI_CONFIG).is_err());
    }

    #[test]
    fn attributes_are_read() {
        let parse = |pairs: &[(&'static str, &'static str)]| {
            let map: BTreeMap<_, _> = pairs.iter().copied().collect();
            CompressionSpec::parse(|name| map.get(name).copied())
        };
        assert_eq!(parse(&[]), Ok(CompressionSpec::default()));
        assert_eq!(
            parse(&[
                ("compression", "zstd"),
                ("compression-level", "22"),
                ("force-compression", "")
            ]),
            Ok(CompressionSpec {
                kind: Compression::Zstd,
                level: Some(22),
                force: true
            })
        );
        for bad in [
            &[("compression", "estargz")][..],
            &[("compression", "lzma")],
            &[("compression-level", "ten")],
            &[("compression-level", "10")],
            &[("force-compression", "maybe")],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn data_is_told_by_its_first_bytes() {
        let table: [(&[u8], Compression); 5] = [
            (&[0x1f, 0x8b, 8, 0], Compression::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd, 0], Compression::Zstd),
            (&[0x52, 0x2a, 0x4d, 0x18], Compression::Zstd),
            (b"", Compression::Uncompressed),
            (b"etc/passwd", Compression::Uncompressed),
        ];
        for (start, want) in table {
            assert_eq!(Compression::detect(start), want);
        }
    }
}
