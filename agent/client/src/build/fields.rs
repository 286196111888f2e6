//! `key=value` fields between commas, as buildx reads them: a field in quotes may hold commas, and a
//! doubled quote in it stands for one.

use super::BuildError;

/// The fields of a value.
pub(super) fn split(what: &'static str, text: &str) -> Result<Vec<String>, BuildError> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut characters = text.chars().peekable();
    loop {
        if field.is_empty() && characters.peek() == Some(&'"') {
            characters.next();
            loop {
                match characters.next() {
                    None => return Err(BuildError::invalid(what, text, "a quote isn't closed")),
                    Some('"') if characters.peek() == Some(&'"') => {
                        characters.next();
                        field.push('"');
                    }
                    Some('"') => break,
                    Some(character) => field.push(character),
                }
            }
            if !matches!(characters.peek(), None | Some(',')) {
                let reason = "a closing quote ends its field";
                return Err(BuildError::invalid(what, text, reason));
            }
        }
        match characters.next() {
            None => {
                fields.push(field);
                return Ok(fields);
            }
            Some(',') => fields.push(std::mem::take(&mut field)),
            Some(character) => field.push(character),
        }
    }
}

/// The fields as pairs; keys in lower case.
pub(super) fn pairs(what: &'static str, text: &str) -> Result<Vec<(String, String)>, BuildError> {
    split(what, text)?
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_lowercase(), value.to_owned())),
            None => {
                let reason = format!("{field:?} isn't of the form key=value");
                Err(BuildError::invalid(what, text, reason))
            }
        })
        .collect()
}

/// A boolean as Go reads it.
pub(super) fn boolean(what: &'static str, text: &str) -> Result<bool, BuildError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(BuildError::invalid(what, text, "want true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_may_be_quoted() {
        for (text, want) in [
            ("a=b", Some(vec!["a=b"])),
            ("a=b,c=d", Some(vec!["a=b", "c=d"])),
            ("\"a=b,c\",d", Some(vec!["a=b,c", "d"])),
            ("\"a=\"\"b\"\"\"", Some(vec!["a=\"b\""])),
            ("", Some(vec![""])),
            ("a=\"b", Some(vec!["a=\"b"])),
            ("\"a", None),
            ("\"a\"b", None),
        ] {
            let got = split("x", text).ok();
            let want = want.map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(got, want, "{text}");
        }
    }
}
