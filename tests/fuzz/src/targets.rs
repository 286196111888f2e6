//! The targets.

mod dockerfile;
mod files;
mod text;
mod wire;

use crate::Target;

/// All of them.
pub const ALL: &[Target] = &[
    dockerfile::PARSER,
    dockerfile::FRONTEND,
    text::IGNORE_FILE,
    wire::LLB,
    text::BUILDKITD_TOML,
    files::TAR,
    files::COMPRESSED,
    text::IMAGE_JSON,
    text::NAMES,
    files::FILESYNC,
    text::CACHE_CONFIG,
    wire::LINK,
    text::FILTERS,
];

/// What became of an input that should give a `T`.
fn outcome<T, E: std::error::Error>(result: &Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(next) = cause {
                text = format!("{text}: {next}");
                cause = next.source();
            }
            text
        }
    }
}
