//! Secrets, attestations and annotations: `--secret`, `--attest`, `--annotation`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{BuildError, fields};
use crate::Secret;

/// Reads `id=…[,src=…|,env=…][,type=file|env]`: the id, and where the value comes from.
///
/// Without a source it is the environment variable of that name, if it is set, else the file.
pub fn parse_secret(text: &str) -> Result<(String, Secret), BuildError> {
    const WHAT: &str = "secret";
    let (mut id, mut source, mut variable) = (None, None, None);
    let mut is_variable = false;
    for (key, value) in fields::pairs(WHAT, text)? {
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => variable = Some(value),
            "type" if value == "env" => is_variable = true,
            "type" if value == "file" => {}
            _ => {
                let reason = format!("{key}={value} isn't known");
                return Err(BuildError::invalid(WHAT, text, reason));
            }
        }
    }
    if is_variable && variable.is_none() {
        variable = source.take();
    }
    let id = id
        .filter(|id| !id.is_empty())
        .or_else(|| source.clone())
        .or_else(|| variable.clone())
        .ok_or_else(|| BuildError::invalid(WHAT, text, "it has no id="))?;
    let secret = match (source, variable) {
        (Some(path), None) => file(text, path.into())?,
        (None, Some(name)) => set_variable(text, name)?,
        (Some(_), Some(_)) => {
            let reason = "it is a file or an environment variable, not both";
            return Err(BuildError::invalid(WHAT, text, reason));
        }
        (None, None) if std::env::var_os(&id).is_some() => Secret::Env(id.clone()),
        (None, None) => file(text, id.clone().into())?,
    };
    Ok((id, secret))
}

fn file(text: &str, path: PathBuf) -> Result<Secret, BuildError> {
    if path.is_file() {
        return Ok(Secret::File(path));
    }
    let reason = format!("there is no file {}", path.display());
    Err(BuildError::invalid("secret", text, reason))
}

fn set_variable(text: &str, name: String) -> Result<Secret, BuildError> {
    if std::env::var_os(&name).is_some() {
        return Ok(Secret::Env(name));
    }
    let reason = format!("the environment has no variable {name}");
    Err(BuildError::invalid("secret", text, reason))
}

/// Attestations: `type=sbom,…`, as options of the frontend. `None` turns one off.
pub type Attestations = BTreeMap<String, Option<String>>;

/// Reads `type=KIND[,disabled=true][,…]` into `all`.
pub fn parse_attestation(text: &str, all: &mut Attestations) -> Result<(), BuildError> {
    const WHAT: &str = "attestation";
    let (mut kind, mut disabled, mut rest) = (None, false, Vec::new());
    for (key, value) in fields::pairs(WHAT, text)? {
        match key.as_str() {
            "type" => kind = Some(value),
            "disabled" => disabled = fields::boolean(WHAT, &value)?,
            _ => rest.push(format!("{key}={value}")),
        }
    }
    let kind = kind.ok_or_else(|| BuildError::invalid(WHAT, text, "it has no type="))?;
    all.insert(kind, (!disabled).then(|| rest.join(",")));
    Ok(())
}

/// What `--sbom=VALUE` and `--provenance=VALUE` stand for.
pub fn attestation_of(kind: &str, value: &str) -> String {
    match fields::boolean("attestation", value) {
        Ok(wanted) => format!("type={kind},disabled={}", !wanted),
        Err(_) => format!("type={kind},{value}"),
    }
}

/// Reads `[TYPE[PLATFORM],…:]KEY=VALUE`: options of the exporters.
pub fn parse_annotation(text: &str) -> Result<Vec<(String, String)>, BuildError> {
    const WHAT: &str = "annotation";
    const TYPES: [&str; 4] = [
        "manifest",
        "index",
        "manifest-descriptor",
        "index-descriptor",
    ];
    let invalid = |reason: &str| BuildError::invalid(WHAT, text, reason);
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| invalid("want KEY=VALUE"))?;
    let Some((types, key)) = name.split_once(':') else {
        return Ok(vec![(format!("annotation.{name}"), value.to_owned())]);
    };
    types
        .split(',')
        .map(|kind| {
            let (base, platform) = match kind.split_once('[') {
                Some((base, rest)) => {
                    let platform = rest
                        .strip_suffix(']')
                        .ok_or_else(|| invalid("a [ is open"))?;
                    (base, Some(platform))
                }
                None => (kind, None),
            };
            if !TYPES.contains(&base) {
                return Err(invalid(&format!(
                    "{base:?} isn't one of {}",
                    TYPES.join(", ")
                )));
            }
            let prefix = match (base, platform) {
                ("manifest", None) => "annotation".to_owned(),
                (base, None) => format!("annotation-{base}"),
                ("manifest", Some(platform)) => format!("annotation[{platform}]"),
                (base, Some(platform)) => format!("annotation-{base}[{platform}]"),
            };
            Ok((format!("{prefix}.{key}"), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_and_variables() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "x").unwrap();
        let path = path.display();
        for (text, want) in [
            (format!("id=a,src={path}"), Some(("a", "File"))),
            (format!("type=file,id=a,source={path}"), Some(("a", "File"))),
            ("id=a,env=PATH".to_owned(), Some(("a", "Env"))),
            ("type=env,id=a,src=PATH".to_owned(), Some(("a", "Env"))),
            ("id=PATH".to_owned(), Some(("PATH", "Env"))),
            ("env=PATH".to_owned(), Some(("PATH", "Env"))),
            ("id=a,env=KILN_NO_SUCH_VARIABLE".to_owned(), None),
            ("id=a,src=/no/such/file".to_owned(), None),
            ("id=no-such-secret".to_owned(), None),
            ("id=a,mode=0".to_owned(), None),
            ("type=raw,id=a".to_owned(), None),
            (String::new(), None),
        ] {
            let got = parse_secret(&text).ok();
            let got = got.map(|(id, secret)| (id, format!("{secret:?}")));
            let fits = match (&got, want) {
                (Some((id, shown)), Some((want, kind))) => id == want && shown.starts_with(kind),
                (None, None) => true,
                _ => false,
            };
            assert!(fits, "{text}: {got:?}");
        }
    }

    #[test]
    fn annotations_name_their_place() {
        for (text, want) in [
            ("k=v", Some(vec!["annotation.k"])),
            ("index:k=v", Some(vec!["annotation-index.k"])),
            (
                "index,manifest:k=v",
                Some(vec!["annotation-index.k", "annotation.k"]),
            ),
            (
                "manifest[linux/amd64]:k=v",
                Some(vec!["annotation[linux/amd64].k"]),
            ),
            ("other:k=v", None),
            ("k", None),
        ] {
            let got = parse_annotation(text).ok();
            let got = got.map(|all| all.into_iter().map(|(key, _)| key).collect::<Vec<_>>());
            assert_eq!(
                got,
                want.map(|all| all.iter().map(ToString::to_string).collect()),
                "{text}"
            );
        }
    }

    #[test]
    fn attestations_can_be_turned_off() {
        let mut all = Attestations::new();
        for text in [
            attestation_of("sbom", "true"),
            attestation_of("provenance", "mode=max"),
            attestation_of("provenance", "false"),
            "type=other,generator=x,y=z".to_owned(),
        ] {
            parse_attestation(&text, &mut all).unwrap();
        }
        let want: Attestations = [
            ("sbom".to_owned(), Some(String::new())),
            ("provenance".to_owned(), None),
            ("other".to_owned(), Some("generator=x,y=z".to_owned())),
        ]
        .into();
        assert_eq!(all, want);
        assert!(parse_attestation("mode=max", &mut all).is_err());
    }
}
