//! What registries ask for: challenges, their parameters, and scopes.

use std::collections::BTreeSet;

use http::{HeaderMap, header};

/// Adds scopes; actions on one resource are joined: `…:pull` and `…:push` become `…:pull,push`.
pub(super) fn merge_scopes<'a>(scopes: &mut BTreeSet<String>, more: impl Iterator<Item = &'a str>) {
    for scope in more {
        let (resource, actions) = scope.rsplit_once(':').unwrap_or((scope, ""));
        let mut all: BTreeSet<String> = actions.split(',').map(str::to_owned).collect();
        let same = |held: &String| {
            held.rsplit_once(':')
                .is_some_and(|(held, _)| held == resource)
        };
        let held = scopes.iter().find(|held| same(held)).cloned();
        if let Some(held) = held {
            let (_, actions) = held.rsplit_once(':').unwrap_or_default();
            all.extend(actions.split(',').map(str::to_owned));
            scopes.remove(&held);
        }
        let actions: Vec<String> = all.into_iter().collect();
        scopes.insert(format!("{resource}:{}", actions.join(",")));
    }
}

/// One way in which a registry asks for authorization.
pub(super) struct Challenge {
    /// Lower case.
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// All of an answer's challenges.
pub(super) fn parse_challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
    values
        .filter_map(|value| {
            let text = value.to_str().ok()?.trim();
            let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
            Some(Challenge {
                scheme: scheme.to_ascii_lowercase(),
                parameters: parse_parameters(rest),
            })
        })
        .collect()
}

/// `name="value with \" and ,", name=token`
fn parse_parameters(mut text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let mut value = String::new();
        text = if let Some(quoted) = rest.trim_start().strip_prefix('"') {
            let mut escaped = false;
            let mut end = quoted.len();
            for (at, c) in quoted.char_indices() {
                match c {
                    '\\' if !escaped => escaped = true,
                    '"' if !escaped => {
                        end = at + 1;
                        break;
                    }
                    c => {
                        value.push(c);
                        escaped = false;
                    }
                }
            }
            &quoted[end..]
        } else {
            let (token, rest) = rest.split_once(',').unwrap_or((rest, ""));
            token.trim().clone_into(&mut value);
            rest
        };
        all.push((name, value));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed() {
        let table = [
            (
                r#"Bearer realm="https://a/t",service="s",scope="repository:a:pull,push repository:b:pull""#,
                vec![
                    ("realm", "https://a/t"),
                    ("service", "s"),
                    ("scope", "repository:a:pull,push repository:b:pull"),
                ],
            ),
            (
                r#"bearer Realm="x" , error="insufficient_scope""#,
                vec![("realm", "x"), ("error", "insufficient_scope")],
            ),
            (
                r#"Basic realm="a \"b\", c""#,
                vec![("realm", r#"a "b", c"#)],
            ),
            (
                "Basic realm=a, charset=UTF-8",
                vec![("realm", "a"), ("charset", "UTF-8")],
            ),
            (r#"Basic realm="open"#, vec![("realm", "open")]),
            ("Negotiate", vec![]),
        ];
        for (text, want) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::WWW_AUTHENTICATE, text.parse().unwrap());
            let found = parse_challenges(&headers);
            let pairs: Vec<_> = found[0]
                .parameters
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            assert_eq!(pairs, want, "{text}");
        }
    }

    #[test]
    fn scopes_are_merged() {
        let mut scopes = BTreeSet::from(["repository:a:pull".to_owned()]);
        merge_scopes(
            &mut scopes,
            [
                "repository:a:push",
                "repository:b:pull",
                "registry:catalog:*",
            ]
            .into_iter(),
        );
        let all: Vec<_> = scopes.iter().map(String::as_str).collect();
        assert_eq!(
            all,
            [
                "registry:catalog:*",
                "repository:a:pull,push",
                "repository:b:pull"
            ]
        );
    }
}
