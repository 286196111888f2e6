//! How a request for files travels in gRPC metadata, both ends.
//!
//! Values that aren't plain ASCII are written in URL query form, with `<key>-encoded: 1` beside them.

use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};

use crate::{Error, FilterOptions};

const DIR_NAME: &str = "dir-name";
const INCLUDES: &str = "include-patterns";
const EXCLUDES: &str = "exclude-patterns";
const FOLLOW: &str = "followpaths";

/// What a daemon asks of a client: a directory by name, and which part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileRequest {
    /// The name under which the client offers the directory: `context`, `dockerfile`, …
    pub name: String,
    /// Which part of it.
    pub filter: FilterOptions,
}

impl FileRequest {
    /// As request metadata.
    pub fn to_metadata(&self) -> Result<MetadataMap, Error> {
        let mut map = MetadataMap::new();
        append(&mut map, INCLUDES, &self.filter.includes)?;
        append(&mut map, EXCLUDES, &self.filter.excludes)?;
        append(&mut map, FOLLOW, &self.filter.follow_paths)?;
        append(&mut map, DIR_NAME, std::slice::from_ref(&self.name))?;
        Ok(map)
    }

    /// From the metadata of a call.
    pub fn from_metadata(map: &MetadataMap) -> Self {
        Self {
            name: values(map, DIR_NAME).into_iter().next().unwrap_or_default(),
            filter: FilterOptions {
                includes: values(map, INCLUDES),
                excludes: values(map, EXCLUDES),
                follow_paths: values(map, FOLLOW),
            },
        }
    }
}

fn append(map: &mut MetadataMap, key: &'static str, values: &[String]) -> Result<(), Error> {
    let encode = values
        .iter()
        .any(|value| value.bytes().any(|byte| !(0x20..0x7f).contains(&byte)));
    for value in values {
        let text = if encode {
            query_escape(value)
        } else {
            value.clone()
        };
        let value = MetadataValue::<Ascii>::try_from(text.as_str())
            .map_err(|_| Error::Malformed("a value that can't be metadata"))?;
        map.append(key, value);
    }
    if encode {
        let key = MetadataKey::<Ascii>::from_bytes(format!("{key}-encoded").as_bytes())
            .map_err(|_| Error::Malformed("a key that can't be metadata"))?;
        map.insert(key, MetadataValue::from_static("1"));
    }
    Ok(())
}

fn values(map: &MetadataMap, key: &'static str) -> Vec<String> {
    let encoded = map
        .get(format!("{key}-encoded"))
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True"));
    map.get_all(key)
        .iter()
        .map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            if encoded {
                query_unescape(&text)
            } else {
                text.into_owned()
            }
        })
        .collect()
}

fn query_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            byte => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    out
}

/// An escape that isn't one is kept as it stands.
fn query_unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, escaped) {
            (_, Some(value)) => {
                out.push(value);
                at += 2;
            }
            (b'+', None) => out.push(b' '),
            (byte, None) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_metadata() {
        let plain = FileRequest {
            name: "context".into(),
            filter: FilterOptions {
                includes: vec!["a b".into(), "c+d%20".into()],
                excludes: vec![],
                follow_paths: vec!["x".into()],
            },
        };
        let map = plain.to_metadata().unwrap();
        assert_eq!(map.get("include-patterns").unwrap(), "a b");
        assert_eq!(FileRequest::from_metadata(&map), plain);

        let foreign = FileRequest {
            name: "ctx".into(),
            filter: FilterOptions {
                includes: vec!["é b+".into(), "a%\n".into()],
                ..FilterOptions::default()
            },
        };
        let map = foreign.to_metadata().unwrap();
        assert_eq!(map.get("include-patterns").unwrap(), "%C3%A9+b%2B");
        assert_eq!(FileRequest::from_metadata(&map), foreign);
    }
}
