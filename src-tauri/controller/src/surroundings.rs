//! What WebKit reads from its environment when it starts, and what it should find there.
//!
//! - A language. It takes it from the locale, and "C", which is also that of an empty environment, is none that `Intl`
//!   knows.
//! - Whether to compose the page of layers by OpenGL. Where no graphics card draws, software stands in for one: it costs
//!   several times as much as painting what changed, which is all that WebKit does without layers. Who sets
//!   `WEBKIT_DISABLE_COMPOSITING_MODE` (to 0, or to 1) decides instead.

use std::path::Path;

use crate::graphics;

const LANGUAGE: (&str, &str) = ("LC_ALL", "en_US.UTF-8");
const NO_LAYERS: (&str, &str) = ("WEBKIT_DISABLE_COMPOSITING_MODE", "1");

/// The variables that this process lacks, with their values.
pub fn missing() -> Vec<(&'static str, &'static str)> {
    let value = |name: &str| std::env::var(name).ok();
    missing_in(value, || {
        graphics::has_card(Path::new("/"), value("LIBGL_ALWAYS_SOFTWARE").as_deref())
    })
}

fn missing_in(
    value: impl Fn(&str) -> Option<String>,
    has_card: impl FnOnce() -> bool,
) -> Vec<(&'static str, &'static str)> {
    let mut missing = Vec::new();
    let locale = ["LC_ALL", "LC_MESSAGES", "LANG"]
        .into_iter()
        .filter_map(&value)
        .find(|value| !value.is_empty())
        .unwrap_or_default();
    if matches!(locale.as_str(), "" | "C" | "POSIX") || locale.starts_with("C.") {
        missing.push(LANGUAGE);
    }
    if value(NO_LAYERS.0).is_none() && !has_card() {
        missing.push(NO_LAYERS);
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        let german = ("LANG", "de_DE.UTF-8");
        let layers = (NO_LAYERS.0, "0");
        for (there, has_card, expected) in [
            (vec![], true, vec![LANGUAGE]),
            (vec![german], true, vec![]),
            (vec![("LANG", "C.UTF-8")], true, vec![LANGUAGE]),
            (vec![("LC_ALL", "POSIX"), german], true, vec![LANGUAGE]),
            (vec![("LC_ALL", ""), german], true, vec![]),
            (vec![("LANG", "C")], false, vec![LANGUAGE, NO_LAYERS]),
            (vec![german, layers], false, vec![]),
            (vec![LANGUAGE, NO_LAYERS], false, vec![]),
        ] {
            let value = |name: &str| {
                let found = there.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(missing_in(value, || has_card), expected, "{there:?}");
        }
    }
}
