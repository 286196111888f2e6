//! Licences, sources and bans of what the workspace builds, by the rules in `deny.toml`.
//!
//! `deny.toml` is written for `cargo deny`, which also knows advisories. This module applies its licences,
//! sources and bans with nothing but `cargo metadata`, so that they hold on a machine without that tool.
//!
//! Invariant: the rules are read from `deny.toml`; none is repeated here.

use anyhow::{Context, Result};

use crate::finding::Finding;
use crate::workspace::Foreign;

const REGISTRY: &str = "registry+";

/// The part of `deny.toml` that is applied here.
#[derive(Debug)]
pub(crate) struct Rules {
    licenses: Vec<String>,
    banned: Vec<(String, String)>,
}

impl Rules {
    /// Reads the rules.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse().context("deny.toml")?;
        let list = |section: &str, key: &str| -> Result<Vec<toml::Value>> {
            let value = table.get(section).and_then(|section| section.get(key));
            Ok(value
                .and_then(toml::Value::as_array)
                .with_context(|| format!("{section}.{key}"))?
                .clone())
        };
        let licenses = list("licenses", "allow")?;
        let banned = list("bans", "deny")?;
        let field = |value: &toml::Value, key: &str| {
            value
                .get(key)
                .and_then(toml::Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Ok(Self {
            licenses: licenses
                .iter()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect(),
            banned: banned
                .iter()
                .map(|value| (field(value, "crate"), field(value, "reason")))
                .collect(),
        })
    }

    /// Checks every package that isn't ours.
    pub(crate) fn check(&self, packages: &[Foreign]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut find = |package: &Foreign, message: String| {
            let place = format!("{} {}", package.name, package.version);
            findings.push(Finding::new("Cargo.lock", 1, format!("{place}: {message}")));
        };
        for package in packages {
            match &package.license {
                None => find(package, "its manifest names no licence".to_owned()),
                Some(license) if !self.allows(license) => {
                    find(package, format!("the licence {license} isn't in deny.toml"));
                }
                Some(_) => {}
            }
            if !package
                .source
                .as_deref()
                .is_some_and(|source| source.starts_with(REGISTRY))
            {
                find(
                    package,
                    format!("comes from {:?}, not from the registry", package.source),
                );
            }
            if let Some((_, reason)) = self.banned.iter().find(|(name, _)| *name == package.name) {
                find(package, format!("is banned: {reason}"));
            }
        }
        findings
    }

    /// Whether an SPDX expression can be satisfied with the allowed licences.
    fn allows(&self, expression: &str) -> bool {
        let spaced = expression
            .replace('(', " ( ")
            .replace(')', " ) ")
            .replace('/', " OR ");
        let mut tokens = spaced.split_whitespace().peekable();
        self.any(&mut tokens)
    }

    fn any<'a>(&self, tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> bool {
        let mut satisfied = self.all(tokens);
        while tokens.next_if_eq(&"OR").is_some() {
            let other = self.all(tokens);
            satisfied = satisfied || other;
        }
        satisfied
    }

    fn all<'a>(&self, tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> bool {
        let mut satisfied = self.one(tokens);
        while tokens.next_if_eq(&"AND").is_some() {
            let other = self.one(tokens);
            satisfied = satisfied && other;
        }
        satisfied
    }

    fn one<'a>(&self, tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> bool {
        match tokens.next() {
            Some("(") => {
                let satisfied = self.any(tokens);
                tokens.next_if_eq(&")");
                satisfied
            }
            Some(license) => {
                let mut name = license.to_owned();
                if tokens.next_if_eq(&"WITH").is_some() {
                    name = format!("{license} WITH {}", tokens.next().unwrap_or_default());
                }
                self.licenses.contains(&name)
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::render;
    use crate::workspace;

    #[test]
    fn expressions_are_evaluated() {
        let rules = Rules {
            licenses: vec!["MIT".into(), "A WITH b".into()],
            banned: Vec::new(),
        };
        let cases = [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(GPL-3.0 OR MIT) AND MIT", true),
            ("Apache-2.0/MIT", true),
            ("A WITH b", true),
            ("A", false),
            ("", false),
        ];
        for (expression, allowed) in cases {
            assert_eq!(rules.allows(expression), allowed, "{expression}");
        }
    }

    #[test]
    fn a_ban_and_a_foreign_source_are_named() {
        let rules = Rules::parse(
            "[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = [{ crate = \"bad\", reason = \"why\" }]\n",
        )
        .unwrap();
        let package = Foreign {
            name: "bad".into(),
            version: "1.0.0".into(),
            license: Some("MIT".into()),
            source: Some("git+x".into()),
        };
        let found = render(&rules.check(&[package]));
        assert!(found.contains("bad 1.0.0: is banned: why"), "{found}");
        assert!(found.contains("not from the registry"), "{found}");
    }

    #[test]
    fn what_we_build_is_allowed() {
        let text = std::fs::read_to_string(workspace::root().join("deny.toml")).unwrap();
        let packages = workspace::packages().unwrap();
        assert!(
            packages.foreign.len() > 50,
            "cargo metadata lists the dependencies"
        );
        let findings = Rules::parse(&text).unwrap().check(&packages.foreign);
        assert!(findings.is_empty(), "{}", render(&findings));
    }
}
