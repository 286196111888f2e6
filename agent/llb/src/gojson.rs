//! JSON as Go's `encoding/json` writes it, for op digests.
//!
//! BuildKit's op digest is the sha256 of an op's JSON, so each byte counts:
//!
//! - `<`, `>`, `&`, U+2028 and U+2029 are escaped inside strings, `/` and DEL are not; control
//!   characters are `\b \f \n \r \t` or `\u00XX`; each byte that isn't UTF-8 becomes `\ufffd`;
//! - fields come in the order of the Go struct, which is that of the protobuf file;
//! - `omitempty` leaves out 0, false, "", and empty lists and maps, but keeps empty messages;
//! - bytes are standard base64 with padding, enums are numbers, map keys are sorted by bytes.
//!
//! Field names are those of Go's tags, in whose styles there is no rule (`proxy_env`, `cdiDevices`,
//! `include_patterns`, `SSHOpt`): the message writers in [`ops`] list them.

pub mod ops;

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Writes one object.
pub fn object(write: impl FnOnce(&mut Object<'_>)) -> String {
    let mut out = String::new();
    Object::write(&mut out, write);
    out
}

/// An object under construction. Methods whose names end in `_or_none` are Go's `omitempty`.
#[derive(Debug)]
pub struct Object<'a> {
    out: &'a mut String,
    empty: bool,
}

impl Object<'_> {
    fn write(out: &mut String, write: impl FnOnce(&mut Object<'_>)) {
        out.push('{');
        write(&mut Object { out, empty: true });
        out.push('}');
    }

    fn key(&mut self, name: &str) -> &mut String {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        text(self.out, name.as_bytes());
        self.out.push(':');
        self.out
    }

    /// A string, also an empty one.
    pub fn text(&mut self, name: &str, value: &str) {
        text(self.key(name), value.as_bytes());
    }

    /// A string.
    pub fn text_or_none(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.text(name, value);
        }
    }

    /// A number, also 0.
    pub fn number(&mut self, name: &str, value: impl Into<i128>) {
        let value = value.into();
        // Writing to a string can't fail.
        let _ = write!(self.key(name), "{value}");
    }

    /// A number.
    pub fn number_or_none(&mut self, name: &str, value: impl Into<i128>) {
        let value = value.into();
        if value != 0 {
            self.number(name, value);
        }
    }

    /// A truth value.
    pub fn bool_or_none(&mut self, name: &str, value: bool) {
        if value {
            self.key(name).push_str("true");
        }
    }

    /// Bytes.
    pub fn bytes_or_none(&mut self, name: &str, value: &[u8]) {
        if !value.is_empty() {
            bytes(self.key(name), value);
        }
    }

    /// A list; `item` writes one value.
    pub fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        item: impl FnMut(&mut String, T),
    ) {
        list(self.key(name), items, item);
    }

    /// A list; `item` writes one value.
    pub fn list_or_none<T>(
        &mut self,
        name: &str,
        items: &[T],
        mut item: impl FnMut(&mut String, &T),
    ) {
        if !items.is_empty() {
            self.list(name, items, |out, value| item(out, value));
        }
    }

    /// A list of strings.
    pub fn texts_or_none(&mut self, name: &str, items: &[String]) {
        self.list_or_none(name, items, |out, value| text(out, value.as_bytes()));
    }

    /// A list of messages.
    pub fn objects_or_none<T>(
        &mut self,
        name: &str,
        items: &[T],
        mut write: impl FnMut(&mut Object<'_>, &T),
    ) {
        self.list_or_none(name, items, |out, value| {
            Object::write(out, |object| write(object, value));
        });
    }

    /// A message, also an empty one.
    pub fn object(&mut self, name: &str, write: impl FnOnce(&mut Object<'_>)) {
        Object::write(self.key(name), write);
    }

    /// A message, where there is one.
    pub fn object_or_none<T>(
        &mut self,
        name: &str,
        value: Option<&T>,
        write: impl FnOnce(&mut Object<'_>, &T),
    ) {
        if let Some(value) = value {
            self.object(name, |object| write(object, value));
        }
    }

    /// A map; `item` writes one value. The caller's map must be sorted by key.
    pub fn map_or_none<V>(
        &mut self,
        name: &str,
        map: &std::collections::BTreeMap<String, V>,
        mut item: impl FnMut(&mut String, &V),
    ) {
        if map.is_empty() {
            return;
        }
        let out = self.key(name);
        out.push('{');
        for (index, (key, value)) in map.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            text(out, key.as_bytes());
            out.push(':');
            item(out, value);
        }
        out.push('}');
    }

    /// A map of strings.
    pub fn text_map_or_none(
        &mut self,
        name: &str,
        map: &std::collections::BTreeMap<String, String>,
    ) {
        self.map_or_none(name, map, |out, value| text(out, value.as_bytes()));
    }

    /// A map of messages.
    pub fn object_map_or_none<V>(
        &mut self,
        name: &str,
        map: &std::collections::BTreeMap<String, V>,
        mut write: impl FnMut(&mut Object<'_>, &V),
    ) {
        self.map_or_none(name, map, |out, value| {
            Object::write(out, |object| write(object, value));
        });
    }
}

/// Appends a list.
pub fn list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut item: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (index, value) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        item(out, value);
    }
    out.push(']');
}

/// Appends bytes as a string of base64.
pub fn bytes(out: &mut String, value: &[u8]) {
    out.push('"');
    BASE64.encode_string(value, out);
    out.push('"');
}

/// Appends a string.
pub fn text(out: &mut String, value: &[u8]) {
    out.push('"');
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            escaped(out, c);
        }
        for _ in chunk.invalid() {
            out.push_str("\\ufffd");
        }
    }
    out.push('"');
}

fn escaped(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
            // Writing to a string can't fail.
            let _ = write!(out, "\\u{:04x}", c as u32);
        }
        _ => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_go_does() {
        for (value, want) in [
            (&b"a && b"[..], r#""a \u0026\u0026 b""#),
            (b"<x>/\\\"", r#""\u003cx\u003e/\\\"""#),
            (
                b"\x08\x0c\n\r\t\x00\x1f\x7f",
                "\"\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\"",
            ),
            ("\u{2028}\u{2029}é€😀".as_bytes(), "\"\\u2028\\u2029é€😀\""),
            (b"a\xffb\xe2\x82c", r#""a\ufffdb\ufffd\ufffdc""#),
        ] {
            let mut out = String::new();
            text(&mut out, value);
            assert_eq!(out, want);
        }
    }

    #[test]
    fn empty_values_are_left_out_and_empty_messages_are_not() {
        let json = object(|object| {
            object.text_or_none("a", "");
            object.number_or_none("b", 0);
            object.bool_or_none("c", false);
            object.bytes_or_none("d", b"");
            object.texts_or_none("e", &[]);
            object.object_or_none("f", None::<&()>, |_, ()| {});
            object.object_or_none("g", Some(&()), |_, ()| {});
            object.text("h", "");
            object.number_or_none("i", -1);
            object.bytes_or_none("j", b"a?>");
        });
        assert_eq!(json, r#"{"g":{},"h":"","i":-1,"j":"YT8+"}"#);
    }
}
