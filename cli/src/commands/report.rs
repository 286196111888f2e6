//! What a build answers, for files and scripts.

use base64::Engine as _;
use kiln_client::Solved;
use serde_json::{Map, Value};

use crate::failure::{Failure, Kind, Outcome};
use crate::progress::raw;
use crate::progress::trace::Trace;

/// The digest of the image's config, as Docker calls images; else that of its manifest.
pub(crate) fn image_id(solved: &Solved) -> &str {
    let of = |key: &str| solved.response.get(key).map(String::as_str);
    of("containerimage.config.digest")
        .or_else(|| of("containerimage.digest"))
        .unwrap_or_default()
}

/// The answer as JSON; documents in base64 as what they are.
pub(crate) fn metadata(solved: &Solved, trace: &Trace) -> Outcome<Vec<u8>> {
    let mut all = Map::new();
    for (key, value) in &solved.response {
        all.insert(key.clone(), decoded(value));
    }
    all.insert("kiln.build.ref".into(), solved.reference.clone().into());
    let warnings: Vec<Value> = trace.warnings().map(raw::warning).collect();
    if !warnings.is_empty() {
        all.insert("kiln.build.warnings".into(), Value::Array(warnings));
    }
    let mut bytes = serde_json::to_vec_pretty(&Value::Object(all))
        .map_err(|error| Failure::new(Kind::Internal, error.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn decoded(text: &str) -> Value {
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .filter(Value::is_object)
        .unwrap_or_else(|| Value::String(text.to_owned()))
}
