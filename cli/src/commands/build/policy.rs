//! The source policy of `EXPERIMENTAL_BUILDKIT_SOURCE_POLICY`: a file of JSON, as buildx reads it.
//!
//! ```json
//! {"rules": [{"action": "DENY", "selector": {"identifier": "docker-image://docker.io/library/alpine:*"}}]}
//! ```
//! Invariant: a word that isn't known is an error; a policy that is half understood protects from nothing.

use std::path::Path;

use kiln_proto::moby::buildkit::v1::sourcepolicy as wire;
use serde_json::Value;

use crate::failure::{Failure, Outcome};

const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";

/// The policy that the environment names.
pub(super) fn of_environment() -> Outcome<Option<wire::Policy>> {
    let path = match std::env::var_os(VARIABLE) {
        Some(path) if !path.is_empty() => path,
        _ => return Ok(None),
    };
    let path = Path::new(&path);
    let fails = |error: String| Failure::user(format!("{VARIABLE}: {}: {error}", path.display()));
    let text = std::fs::read(path).map_err(|error| fails(error.to_string()))?;
    let json: Value = serde_json::from_slice(&text).map_err(|error| fails(error.to_string()))?;
    policy(&json).map(Some).map_err(fails)
}

fn policy(json: &Value) -> Result<wire::Policy, String> {
    known(json, &["version", "rules"])?;
    Ok(wire::Policy {
        version: json["version"].as_i64().unwrap_or_default(),
        rules: list(&json["rules"], rule)?,
    })
}

fn rule(json: &Value) -> Result<wire::Rule, String> {
    known(json, &["action", "selector", "updates"])?;
    let action = |name: &str| wire::PolicyAction::from_str_name(name).map(Into::into);
    Ok(wire::Rule {
        action: word(&json["action"], action)?,
        selector: optional(&json["selector"], selector)?,
        updates: optional(&json["updates"], update)?,
    })
}

fn selector(json: &Value) -> Result<wire::Selector, String> {
    // Go's JSON has the names of its own structures, the documentation those of the protocol.
    known(
        json,
        &["identifier", "match_type", "matchType", "constraints"],
    )?;
    let kind = match &json["match_type"] {
        Value::Null => &json["matchType"],
        kind => kind,
    };
    let kind_of = |name: &str| wire::MatchType::from_str_name(name).map(Into::into);
    Ok(wire::Selector {
        identifier: text(&json["identifier"])?,
        match_type: word(kind, kind_of)?,
        constraints: list(&json["constraints"], constraint)?,
    })
}

fn constraint(json: &Value) -> Result<wire::AttrConstraint, String> {
    known(json, &["key", "value", "condition"])?;
    let condition = |name: &str| wire::AttrMatch::from_str_name(name).map(Into::into);
    Ok(wire::AttrConstraint {
        key: text(&json["key"])?,
        value: text(&json["value"])?,
        condition: word(&json["condition"], condition)?,
    })
}

fn update(json: &Value) -> Result<wire::Update, String> {
    known(json, &["identifier", "attrs"])?;
    let mut attrs = std::collections::HashMap::new();
    for (name, value) in json["attrs"].as_object().into_iter().flatten() {
        attrs.insert(name.clone(), text(value)?);
    }
    Ok(wire::Update {
        identifier: text(&json["identifier"])?,
        attrs,
    })
}

fn known(json: &Value, names: &[&str]) -> Result<(), String> {
    let Value::Object(fields) = json else {
        return Err(format!("{json} isn't an object"));
    };
    match fields.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(format!(
            "unknown key {name:?}; it could be one of {names:?}"
        )),
        None => Ok(()),
    }
}

fn optional<T>(json: &Value, read: fn(&Value) -> Result<T, String>) -> Result<Option<T>, String> {
    match json {
        Value::Null => Ok(None),
        json => read(json).map(Some),
    }
}

fn list<T>(json: &Value, read: fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
    match json {
        Value::Null => Ok(Vec::new()),
        Value::Array(all) => all.iter().map(read).collect(),
        other => Err(format!("{other} isn't a list")),
    }
}

fn text(json: &Value) -> Result<String, String> {
    match json {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("{other} isn't a text")),
    }
}

/// A word of an enumeration, or its number; the first is the default.
fn word(json: &Value, of_name: impl Fn(&str) -> Option<i32>) -> Result<i32, String> {
    let unknown = || format!("unknown word {json}");
    match json {
        Value::Null => Ok(0),
        Value::String(name) => of_name(name).ok_or_else(unknown),
        number => {
            let number = number
                .as_i64()
                .and_then(|number| i32::try_from(number).ok());
            number.ok_or_else(unknown)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_whole_or_not_at_all() {
        let read = |text: &str| policy(&serde_json::from_str(text).unwrap());
        let both = read(
            r#"{"rules":[
                {"action":"DENY","selector":{"identifier":"docker-image://*","matchType":"REGEX",
                 "constraints":[{"key":"k","value":"v","condition":"NOTEQUAL"}]}},
                {"action":"CONVERT","selector":{"identifier":"a"},"updates":{"identifier":"b","attrs":{"x":"y"}}}]}"#,
        )
        .unwrap();
        let first = &both.rules[0];
        assert_eq!(first.action, i32::from(wire::PolicyAction::Deny));
        let selector = first.selector.as_ref().unwrap();
        assert_eq!(selector.match_type, i32::from(wire::MatchType::Regex));
        assert_eq!(selector.constraints[0].condition, 1);
        assert_eq!(both.rules[1].updates.as_ref().unwrap().attrs["x"], "y");
        for (text, wrong) in [
            (r#"{"rule":[]}"#, "unknown key \"rule\""),
            (r#"{"rules":{}}"#, "isn't a list"),
            (
                r#"{"rules":[{"action":"FORBID"}]}"#,
                "unknown word \"FORBID\"",
            ),
            (
                r#"{"rules":[{"selector":{"identifer":"x"}}]}"#,
                "\"identifer\"",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }
}
