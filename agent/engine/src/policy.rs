//! Source policies: which sources a build may use, and what stands in for them.
//!
//! Policies are asked one after the other; the rules of a policy in order, where the last of `ALLOW` and
//! `DENY` that matches counts, and a `CONVERT` that changes the source starts all over with the new one.
//! What matches and what the placeholders of a replacement mean is BuildKit's (`sourcepolicy/`).

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_llb::{Edge, Replacements, decode_replacing, sources};
use kiln_oci::Reference;
use kiln_proto::moby::buildkit::v1::sourcepolicy as wire;
use kiln_proto::pb;
use regex::Regex;

use crate::errors::bad_definition;

const IMAGE: &str = "docker-image://";

/// A source that is changed more often is changed in a circle.
const MAX_CHANGES: usize = 20;

/// Why a policy stops a build, or can't be used.
#[derive(Debug, thiserror::Error)]
enum PolicyError {
    #[error("source {identifier:?} denied by policy: source denied by policy")]
    Denied { identifier: String },
    #[error("source {identifier:?}: too many mutations on a single source")]
    Circle { identifier: String },
    #[error("source policy: {what} in the rule for {selector:?}")]
    Invalid { selector: String, what: String },
}

impl PolicyError {
    fn shared(self) -> SharedError {
        let kind = match self {
            Self::Denied { .. } => Kind::Denied,
            Self::Circle { .. } | Self::Invalid { .. } => Kind::User,
        };
        WithDetail::kind(Arc::new(self), kind).shared()
    }
}

#[derive(Debug)]
struct Rule {
    action: wire::PolicyAction,
    selector: String,
    exact: bool,
    pattern: Option<Regex>,
    constraints: Vec<Constraint>,
    updates: Option<wire::Update>,
}

#[derive(Debug)]
enum Constraint {
    Equal(String, String),
    Differs(String, String),
    Matches(String, Regex),
}

/// The policies of a build, compiled.
#[derive(Debug, Default)]
pub(crate) struct Policies(Vec<Vec<Rule>>);

impl Policies {
    /// Compiles policies; one that can't be used is refused before anything runs.
    pub(crate) fn compile<'a>(
        policies: impl IntoIterator<Item = &'a wire::Policy>,
    ) -> Result<Self, SharedError> {
        policies
            .into_iter()
            .map(|policy| policy.rules.iter().map(compile_rule).collect())
            .collect::<Result<_, PolicyError>>()
            .map(Self)
            .map_err(PolicyError::shared)
    }

    /// Reads a definition with the sources that the policies put in.
    pub(crate) fn decode(&self, definition: pb::Definition) -> Result<Edge, SharedError> {
        let mut replacements = Replacements::new();
        if !self.0.is_empty() {
            for (digest, mut op) in sources(&definition).map_err(bad_definition)? {
                if let Some(pb::op::Op::Source(source)) = &mut op.op
                    && self.apply(source)?
                {
                    replacements.insert(digest, op);
                }
            }
        }
        decode_replacing(definition, &replacements).map_err(bad_definition)
    }

    /// Changes the source as the policies say; tells whether it did.
    pub(crate) fn apply(&self, source: &mut pb::SourceOp) -> Result<bool, SharedError> {
        if self.0.is_empty() {
            return Ok(false);
        }
        let before = source.identifier.clone();
        source.identifier = normalized(&source.identifier);
        let mut changed = false;
        for _ in 0..MAX_CHANGES {
            if !self.apply_once(source).map_err(PolicyError::shared)? {
                if !changed {
                    // An op that no policy changed keeps its bytes.
                    source.identifier = before;
                }
                return Ok(changed);
            }
            changed = true;
        }
        Err(PolicyError::Circle {
            identifier: source.identifier.clone(),
        }
        .shared())
    }

    fn apply_once(&self, source: &mut pb::SourceOp) -> Result<bool, PolicyError> {
        for rules in &self.0 {
            let mut denied = false;
            for rule in rules {
                if !rule.matches(source) {
                    continue;
                }
                match rule.action {
                    wire::PolicyAction::Allow => denied = false,
                    wire::PolicyAction::Deny => denied = true,
                    wire::PolicyAction::Convert => {
                        if rule.convert(source) {
                            return Ok(true);
                        }
                    }
                }
            }
            if denied {
                return Err(PolicyError::Denied {
                    identifier: source.identifier.clone(),
                });
            }
        }
        Ok(false)
    }
}

fn compile_rule(rule: &wire::Rule) -> Result<Rule, PolicyError> {
    let selector = rule.selector.clone().unwrap_or_default();
    let invalid = |what: String| PolicyError::Invalid {
        selector: selector.identifier.clone(),
        what,
    };
    let expression = |text: &str| {
        Regex::new(text).map_err(|error| invalid(format!("invalid expression {text:?}: {error}")))
    };
    let action = wire::PolicyAction::try_from(rule.action)
        .map_err(|_| invalid(format!("unknown action {}", rule.action)))?;
    let kind = wire::MatchType::try_from(selector.match_type)
        .map_err(|_| invalid(format!("unknown match type {}", selector.match_type)))?;
    let pattern = match kind {
        wire::MatchType::Exact => None,
        wire::MatchType::Regex => Some(expression(&selector.identifier)?),
        wire::MatchType::Wildcard => {
            let parts: Vec<String> = selector.identifier.split('*').map(regex::escape).collect();
            Some(expression(&format!("^{}$", parts.join("(.*?)")))?)
        }
    };
    if action == wire::PolicyAction::Convert && rule.updates.is_none() {
        return Err(invalid("missing destination for convert".into()));
    }
    let constraints = selector
        .constraints
        .iter()
        .map(|constraint| {
            let (key, value) = (constraint.key.clone(), constraint.value.clone());
            match wire::AttrMatch::try_from(constraint.condition) {
                Ok(wire::AttrMatch::Equal) => Ok(Constraint::Equal(key, value)),
                Ok(wire::AttrMatch::Notequal) => Ok(Constraint::Differs(key, value)),
                Ok(wire::AttrMatch::Matches) => Ok(Constraint::Matches(key, expression(&value)?)),
                Err(_) => Err(invalid(format!(
                    "unknown attr condition {}",
                    constraint.condition
                ))),
            }
        })
        .collect::<Result<_, _>>()?;
    Ok(Rule {
        action,
        exact: kind == wire::MatchType::Exact,
        selector: selector.identifier.clone(),
        pattern,
        constraints,
        updates: rule.updates.clone(),
    })
}

impl Rule {
    fn matches(&self, source: &pb::SourceOp) -> bool {
        self.constraints
            .iter()
            .all(|constraint| constraint.holds(&source.attrs))
            && (self.selector == source.identifier
                || !self.exact
                    && self
                        .pattern
                        .as_ref()
                        .is_some_and(|pattern| pattern.is_match(&source.identifier)))
    }

    /// Puts the replacement in; tells whether that changed anything.
    fn convert(&self, source: &mut pb::SourceOp) -> bool {
        let Some(updates) = &self.updates else {
            return false;
        };
        let template = if updates.identifier.is_empty() {
            &self.selector
        } else {
            &updates.identifier
        };
        let mut target = String::new();
        match self
            .pattern
            .as_ref()
            .and_then(|pattern| pattern.captures(&source.identifier))
        {
            Some(captures) => captures.expand(template, &mut target),
            None => target.clone_from(template),
        }
        let mut changed = false;
        if !target.is_empty() && target != source.identifier {
            source.identifier = target;
            changed = true;
        }
        for (key, value) in &updates.attrs {
            if source.attrs.get(key) != Some(value) {
                source.attrs.insert(key.clone(), value.clone());
                changed = true;
            }
        }
        changed
    }
}

impl Constraint {
    fn holds(&self, attributes: &BTreeMap<String, String>) -> bool {
        let value = |key: &String| attributes.get(key).map_or("", String::as_str);
        match self {
            Self::Equal(key, wanted) => value(key) == wanted,
            Self::Differs(key, wanted) => value(key) != wanted,
            Self::Matches(key, pattern) => pattern.is_match(value(key)),
        }
    }
}

/// Image names as policies see them: with their registry and tag.
fn normalized(identifier: &str) -> String {
    identifier
        .strip_prefix(IMAGE)
        .and_then(|name| name.parse::<Reference>().ok())
        .map_or_else(
            || identifier.to_owned(),
            |reference| format!("{IMAGE}{}", reference.with_default_tag()),
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{MatchType, PolicyAction};

    fn rule(action: PolicyAction, kind: MatchType, selector: &str, to: &str) -> wire::Rule {
        wire::Rule {
            action: action as i32,
            selector: Some(wire::Selector {
                identifier: selector.into(),
                match_type: kind as i32,
                constraints: Vec::new(),
            }),
            updates: (!to.is_empty()).then(|| wire::Update {
                identifier: to.into(),
                attrs: std::collections::HashMap::new(),
            }),
        }
    }

    fn check(rules: Vec<wire::Rule>, source: &str, outcome: Result<&str, &str>) {
        let policy = wire::Policy { version: 1, rules };
        let policies = Policies::compile([&policy]).expect("a policy");
        let mut op = pb::SourceOp {
            identifier: source.into(),
            ..Default::default()
        };
        let applied = policies.apply(&mut op);
        match outcome {
            Ok(wanted) => {
                assert_eq!(applied.expect("allowed"), wanted != source, "{source}");
                assert_eq!(op.identifier, wanted);
            }
            Err(words) => {
                let error = applied.expect_err("refused").to_string();
                assert!(error.contains(words), "{error}");
            }
        }
    }

    #[test]
    fn rules() {
        use MatchType::{Exact, Regex, Wildcard};
        use PolicyAction::{Allow, Convert, Deny};
        let alpine = "docker-image://docker.io/library/alpine:latest";
        let deny = rule(Deny, Wildcard, "docker-image://docker.io/library/*", "");
        let allow = rule(Allow, Exact, alpine, "");
        check(
            vec![deny.clone()],
            "docker-image://alpine",
            Err("denied by policy"),
        );
        check(
            vec![deny.clone(), allow.clone()],
            "docker-image://alpine",
            Ok("docker-image://alpine"),
        );
        check(
            vec![allow, deny],
            "docker-image://alpine",
            Err("denied by policy"),
        );
        check(
            vec![rule(
                Convert,
                Wildcard,
                "docker-image://docker.io/*",
                "docker-image://mirror/${1}",
            )],
            "docker-image://alpine",
            Ok("docker-image://mirror/library/alpine:latest"),
        );
        check(
            vec![rule(
                Convert,
                Regex,
                "^https://(a|b)/(.*)$",
                "https://c/$2?was=$1",
            )],
            "https://b/x",
            Ok("https://c/x?was=b"),
        );
        check(
            vec![
                rule(Convert, Exact, "https://a/", "https://b/"),
                rule(Convert, Exact, "https://b/", "https://a/"),
            ],
            "https://a/",
            Err("too many"),
        );
        check(
            Vec::new(),
            "docker-image://alpine",
            Ok("docker-image://alpine"),
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for bad in [
            rule(PolicyAction::Convert, MatchType::Exact, "x", ""),
            rule(PolicyAction::Deny, MatchType::Regex, "(", ""),
        ] {
            let policy = wire::Policy {
                version: 1,
                rules: vec![bad],
            };
            assert!(Policies::compile([&policy]).is_err());
        }
    }
}
