//! JSON with the bytes of Go's `encoding/json`.
//!
//! Differences from serde's default: `<`, `>`, `&`, U+2028 and U+2029 are written as `\u` escapes.
//! Structs must declare their fields in Go's order, and maps must be sorted (`BTreeMap`).

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use serde_json::value::RawValue;

/// One line without spaces, as `json.Marshal` gives.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    write(value, GoFormatter(CompactFormatter))
}

/// Two spaces per level, as `json.MarshalIndent(v, "", "  ")` gives.
pub fn to_vec_indented<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    write(value, GoFormatter(PrettyFormatter::with_indent(b"  ")))
}

/// An object whose members are kept as they were read, known or not; written sorted by name, as Go
/// writes a `map[string]json.RawMessage`. Raw members are compacted and escaped anew when written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct RawObject(BTreeMap<String, Box<RawValue>>);

impl RawObject {
    /// Reads an object. Fails on any other JSON value.
    pub fn parse(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    /// The member's JSON text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|raw| raw.get())
    }

    /// Sets a member.
    pub fn set<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> serde_json::Result<()> {
        let raw = serde_json::value::to_raw_value(value)?;
        self.0.insert(name.to_owned(), raw);
        Ok(())
    }

    /// Removes a member; whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// The object as Go's `json.Marshal` writes it.
    pub fn to_vec(&self) -> serde_json::Result<Vec<u8>> {
        let mut members = BTreeMap::new();
        for (name, raw) in &self.0 {
            // Through a value that keeps the order of members and the text of numbers as far as
            // serde does: this compacts and escapes what was read with spaces.
            members.insert(name, serde_json::from_str::<serde_json::Value>(raw.get())?);
        }
        to_vec(&members)
    }
}

fn write<T: Serialize + ?Sized, F: Formatter>(
    value: &T,
    formatter: F,
) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    value.serialize(&mut serializer)?;
    Ok(bytes)
}

/// Takes `null` for the default, as Go does for slices, maps and strings.
pub fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Adds Go's escapes to the inner layout.
struct GoFormatter<F>(F);

macro_rules! forward {
    ($($name:ident($($arg:ident: $kind:ty),*);)*) => {
        $(fn $name<W: ?Sized + Write>(&mut self, writer: &mut W $(, $arg: $kind)*) -> io::Result<()> {
            self.0.$name(writer $(, $arg)*)
        })*
    };
}

impl<F: Formatter> Formatter for GoFormatter<F> {
    forward! {
        begin_array(); end_array(); begin_array_value(first: bool); end_array_value();
        begin_object(); end_object(); begin_object_key(first: bool); end_object_key();
        begin_object_value(); end_object_value();
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let mut tail = rest[at..].chars();
            let escaped = tail.next().unwrap_or_default();
            write!(writer, "\\u{:04x}", u32::from(escaped))?;
            rest = tail.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        let table = [
            ("a && b", r#""a \u0026\u0026 b""#),
            ("<x>", r#""\u003cx\u003e""#),
            ("\u{2028}\u{2029}", r#""\u2028\u2029""#),
            ("tab\tquote\"\\", r#""tab\tquote\"\\""#),
            ("\u{1}\u{8}\u{c}\n\r", r#""\u0001\b\f\n\r""#),
            ("\u{7f}é漢", "\"\u{7f}é漢\""),
            ("", r#""""#),
        ];
        for (text, want) in table {
            assert_eq!(String::from_utf8(to_vec(text).unwrap()).unwrap(), want);
        }
    }

    #[test]
    fn indentation_is_that_of_marshal_indent() {
        let value = serde_json::json!({"a": [], "b": {}, "c": [1, {"d": "<"}]});
        let text = String::from_utf8(to_vec_indented(&value).unwrap()).unwrap();
        assert_eq!(
            text,
            "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    {\n      \"d\": \"\\u003c\"\n    }\n  ]\n}"
        );
    }

    #[test]
    fn raw_objects_keep_what_they_do_not_know() {
        let mut object =
            RawObject::parse(br#"{ "z": {"b": 1,  "a": "&"}, "os": "linux" }"#).unwrap();
        object.set("a", &["x"]).unwrap();
        assert_eq!(object.get("os"), Some("\"linux\""));
        assert_eq!(
            String::from_utf8(object.to_vec().unwrap()).unwrap(),
            r#"{"a":["x"],"os":"linux","z":{"b":1,"a":"\u0026"}}"#
        );
        assert!(object.remove("z") && !object.remove("z"));
        for bad in ["null", "[]", "1", "{", ""] {
            assert!(RawObject::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
