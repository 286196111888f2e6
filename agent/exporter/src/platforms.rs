//! The platforms of a result, from its metadata.

use kiln_oci::Platform;
use serde::Deserialize;

use crate::{Error, ExportInput, ResultPlatform};

/// Metadata key of the platforms of a result.
pub const PLATFORMS: &str = "refs.platforms";
/// Metadata key of an image config.
pub const CONFIG: &str = "containerimage.config";
/// Metadata key of the config of the image that a result is based on.
pub const BASE_CONFIG: &str = "containerimage.base.config";

#[derive(Deserialize)]
struct Platforms {
    #[serde(default, rename = "Platforms")]
    platforms: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default, rename = "ID")]
    id: String,
    #[serde(default, rename = "Platform")]
    platform: Platform,
}

#[derive(Deserialize)]
struct ConfigPlatform {
    #[serde(flatten)]
    platform: Platform,
}

pub(crate) fn parse(input: &ExportInput) -> Result<Vec<ResultPlatform>, Error> {
    let invalid = |text: String| Err(Error::Result(text));
    if let Some(json) = input.metadata.get(PLATFORMS) {
        let parsed: Platforms = serde_json::from_slice(json).map_err(|source| Error::Json {
            what: "the platforms of the result",
            source,
        })?;
        if parsed.platforms.is_empty() {
            return invalid("invalid empty platforms index for exporter".into());
        }
        let mut out = Vec::with_capacity(parsed.platforms.len());
        for Entry { id, platform } in parsed.platforms {
            if id.is_empty() {
                return invalid("invalid empty platform key for exporter".into());
            }
            if platform.os.is_empty() || platform.architecture.is_empty() {
                return invalid(format!("platform {id} has no os or no architecture"));
            }
            out.push(ResultPlatform {
                id,
                platform: platform.normalized(),
            });
        }
        if !input.is_multi() && out.len() > 1 {
            return invalid("unable to export multiple platforms without map".into());
        }
        return Ok(out);
    }
    if input.is_multi() {
        return invalid("unable to export multiple refs, missing platforms mapping".into());
    }
    let platform = match input.metadata.get(CONFIG) {
        None => Platform::host(),
        Some(json) => {
            let config: ConfigPlatform =
                serde_json::from_slice(json).map_err(|source| Error::Json {
                    what: "the image config",
                    source,
                })?;
            let platform = config.platform;
            match (platform.os.is_empty(), platform.architecture.is_empty()) {
                (false, false) => platform,
                (true, true) => Platform::default(),
                _ => {
                    return invalid(
                        "invalid image config: os and architecture must be specified together"
                            .into(),
                    );
                }
            }
        }
    };
    let platform = platform.normalized();
    Ok(vec![ResultPlatform {
        id: platform.format_all(),
        platform,
    }])
}
