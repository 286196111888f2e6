//! Options that all image outputs share.

use kiln_content::CompressionSpec;
use kiln_oci::Timestamp;

use super::annotations::Annotations;
use crate::attrs::{Attributes, Epoch, boolean};
use crate::{Error, ExportInput};

/// From which of BuildKit's times on images have OCI media types by default.
const OCI_SINCE: u32 = 30;

/// What a client wants of an image.
#[derive(Debug, Clone, Default)]
pub(super) struct ImageOptions {
    /// Comma-separated; `*` stands for what the frontend says.
    pub(super) name: String,
    pub(super) compression: CompressionSpec,
    oci_types: Option<bool>,
    oci_artifact: Option<bool>,
    pub(super) annotations: Annotations,
    pub(super) epoch: Epoch,
    /// Attestations that only matter inside images are attached too.
    pub(super) inline_attestations: bool,
    pub(super) rewrite_timestamp: bool,
    pub(super) keep_nondistributable: bool,
}

/// Options with everything decided that depends on the result.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    pub(super) oci_types: bool,
    pub(super) oci_artifact: bool,
    pub(super) annotations: Annotations,
    pub(super) name: String,
}

impl ImageOptions {
    /// Takes the options that it knows and leaves the others.
    pub(super) fn take(
        attributes: &mut Attributes,
        inline_attestations: bool,
    ) -> Result<Self, Error> {
        let mut options = Self {
            inline_attestations,
            epoch: Epoch::take(attributes)?,
            compression: CompressionSpec::parse(|key| attributes.get(key).map(String::as_str))
                .map_err(|error| Error::Conflict(error.to_string()))?,
            ..Self::default()
        };
        let mut rest = Attributes::new();
        for (key, value) in std::mem::take(attributes) {
            let flag = || boolean(&key, &value, false);
            match key.as_str() {
                "name" => options.name = value,
                "oci-mediatypes" => options.oci_types = Some(flag()?),
                "oci-artifact" => options.oci_artifact = Some(flag()?),
                "attestation-inline" => options.inline_attestations = flag()?,
                "prefer-nondist-layers" => options.keep_nondistributable = flag()?,
                "rewrite-timestamp" => options.rewrite_timestamp = flag()?,
                // Compression was read above; build info is no more, though old clients turn it off.
                "compression" | "compression-level" | "force-compression" | "buildinfo"
                | "buildinfo-attrs" => {}
                _ if options.annotations.take(&key, &value)? => {}
                _ => {
                    rest.insert(key, value);
                }
            }
        }
        *attributes = rest;
        options.check(
            options.oci_types.unwrap_or(true),
            options.oci_artifact.unwrap_or(false),
        )?;
        Ok(options)
    }

    fn check(&self, oci_types: bool, oci_artifact: bool) -> Result<(), Error> {
        let zstd = self.compression.kind == kiln_content::Compression::Zstd;
        if zstd && !oci_types {
            return Err(Error::Conflict(
                "exporter option \"compression=zstd\" conflicts with \"oci-mediatypes=false\""
                    .into(),
            ));
        }
        if oci_artifact && !oci_types {
            return Err(Error::Conflict(
                "exporter option \"oci-artifact=true\" conflicts with \"oci-mediatypes=false\""
                    .into(),
            ));
        }
        Ok(())
    }

    /// Decides what depends on the result. `always_oci` is for outputs that are OCI by nature.
    pub(super) fn resolve(&self, input: &ExportInput, always_oci: bool) -> Result<Resolved, Error> {
        let recent = input.compatibility == 0 || input.compatibility >= OCI_SINCE;
        let attested = input.attestations.values().any(|list| !list.is_empty());
        let oci_types = self.oci_types.unwrap_or(always_oci || recent || attested);
        let oci_artifact = self.oci_artifact.unwrap_or(recent && oci_types);
        self.check(oci_types, oci_artifact)?;
        let mut annotations = self.annotations.clone();
        for (key, value) in &input.metadata {
            annotations.take(key, &String::from_utf8_lossy(value))?;
        }
        let mut name = self.name.clone();
        if name == "*"
            && let Some(given) = input.metadata.get("image.name")
        {
            name = String::from_utf8_lossy(given).into_owned();
        }
        let resolved = Resolved {
            oci_types,
            oci_artifact,
            annotations,
            name,
        };
        check_annotations(&resolved, input)?;
        Ok(resolved)
    }

    /// The time that a platform's image is clamped to.
    pub(super) fn epoch(
        &self,
        input: &ExportInput,
        platform: &str,
    ) -> Result<Option<Timestamp>, Error> {
        self.epoch.resolve(input, Some(platform))
    }
}

fn check_annotations(resolved: &Resolved, input: &ExportInput) -> Result<(), Error> {
    let platforms = input.platforms()?;
    for wanted in resolved.annotations.platforms() {
        let known = platforms
            .iter()
            .any(|known| known.id == wanted || known.platform.format_all() == wanted);
        if !known {
            return Err(Error::Conflict(format!(
                "invalid annotation: no platform {wanted} found in source"
            )));
        }
    }
    if !resolved.oci_types && resolved.annotations.needs_oci() {
        return Err(Error::Conflict(
            "cannot export annotations with \"oci-mediatypes=false\"".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pairs: &[(&str, &str)]) -> Result<(ImageOptions, Attributes), Error> {
        let mut attributes = pairs
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let options = ImageOptions::take(&mut attributes, true)?;
        Ok((options, attributes))
    }

    #[test]
    fn options_are_read_and_the_rest_left() {
        let (options, rest) = take(&[
            ("name", "a,b"),
            ("oci-mediatypes", "true"),
            ("push", "true"),
            ("annotation.k", "v"),
            ("rewrite-timestamp", "1"),
            ("source-date-epoch", "5"),
            ("buildinfo", "false"),
        ])
        .unwrap();
        assert_eq!(options.name, "a,b");
        assert!(options.rewrite_timestamp);
        assert_eq!(options.annotations.of(None).manifest["k"], "v");
        assert_eq!(rest.keys().collect::<Vec<_>>(), ["push"]);
    }

    #[test]
    fn conflicts_and_nonsense_are_refused() {
        for bad in [
            &[("compression", "zstd"), ("oci-mediatypes", "false")][..],
            &[("oci-artifact", "true"), ("oci-mediatypes", "false")],
            &[("compression", "lzma")],
            &[("rewrite-timestamp", "maybe")],
            &[("source-date-epoch", "x")],
        ] {
            assert!(take(bad).is_err(), "{bad:?}");
        }
    }
}
