//! Inputs that the parsers understand, from the golden data of the crates.

use serde_json::Value;

const KEYS: &str = include_str!("../../../agent/llb/tests/it/golden/keys.json");
const ERRORS: &str = include_str!("../../../agent/dockerfile/tests/golden/errors.json");

macro_rules! golden {
    ($($name:literal)*) => {
        [$(include_str!(concat!("../../../agent/dockerfile/tests/golden/dockerfiles/", $name, ".json"))),*]
    };
}

const DOCKERFILES: [&str; 16] = golden! {
    "add-tar" "arg-global-platform" "copy-from-image" "copy-heredoc" "dockerignore" "multi-stage-diamond"
    "no-cache-filter" "onbuild-expose-etc" "run-heredoc-shebang" "run-mount-cache-opts" "run-mount-many"
    "run-mount-secret-opts" "run-ulimit-shm-hosts" "run-workdir-user" "scratch-copy-chmod-symbolic"
    "scratch-copy-parents-pivot"
};

/// Everything that once was a feature or a mistake in a Dockerfile.
const FEATURES: &str = "# syntax=docker/dockerfile:1\n# check=skip=all\nARG A=1 B\nFROM --platform=$BUILDPLATFORM scratch AS \
    a\nARG A\nENV X=${A:-y} Y=\"q $X\" Z='s'\nRUN --mount=type=cache,target=/c,sharing=locked <<EOF cat\n$A\nEOF\nRUN \
    [\"a\", \"b\\n\"]\nCOPY --from=a --chmod=u+x --link <<-'X' /y /z\n\tt\nX\nADD --checksum=sha256:00 https://h/x \
    git@h:r#b /d/\nHEALTHCHECK --interval=1s --retries=3 CMD x\nONBUILD RUN y\nEXPOSE 1-3/udp 4\nVOLUME [\"/v\"]\nUSER \
    a:b\nWORKDIR r\nSHELL [\"s\"]\nSTOPSIGNAL 9\nLABEL a.b=\"c\" d=e\\\n f=g\nMAINTAINER m\nENTRYPOINT [\"e\"]\nCMD c\n";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// Dockerfiles, the good and the bad.
pub(crate) fn dockerfiles() -> Vec<Vec<u8>> {
    let mut found = vec![FEATURES.as_bytes().to_vec()];
    for text in DOCKERFILES {
        let golden = json(text);
        found.extend(
            golden["dockerfile"]
                .as_str()
                .map(|text| text.as_bytes().to_vec()),
        );
    }
    collect(&json(ERRORS), "dockerfile", &mut found);
    found
}

/// Configs of images.
pub(crate) fn image_configs() -> Vec<Vec<u8>> {
    let configs = DOCKERFILES
        .iter()
        .map(|text| json(text)["config"].to_string().into_bytes());
    configs.collect()
}

/// Cache configs, as far as the golden data has them: the records of each Dockerfile without layers.
pub(crate) fn cache_configs() -> Vec<Vec<u8>> {
    let mut found = vec![
        include_bytes!("../../../agent/remotecache/tests/golden/run-mount-many.json").to_vec(),
        include_bytes!("../../../agent/remotecache/tests/golden/multi-stage-diamond.json").to_vec(),
    ];
    for case in json(KEYS).as_array().into_iter().flatten().take(8) {
        found.push(
            serde_json::json!({"layers": [], "records": case["records"]})
                .to_string()
                .into_bytes(),
        );
    }
    found
}

/// Texts under a key, wherever it is.
fn collect(value: &Value, key: &str, found: &mut Vec<Vec<u8>>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let (true, Some(text)) = (name == key, value.as_str()) {
                    found.push(text.as_bytes().to_vec());
                }
                collect(value, key, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, key, found)),
        _ => {}
    }
}
