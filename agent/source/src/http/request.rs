//! What a source op says of a file, and the keys made of it.

use std::time::SystemTime;

use kiln_oci::{Digest, go_json};
use kiln_proto::pb;
use kiln_provenance::redact;
use serde::Serialize;

use super::HttpError;
use super::fetch::Fetched;

/// Headers that a client may set.
const HEADERS: [(&str, &str); 2] = [("accept", "Accept"), ("user-agent", "User-Agent")];

/// A file to fetch.
#[derive(Debug, Clone, Default)]
pub(super) struct HttpRequest {
    pub(super) url: String,
    pub(super) checksum: Option<Digest>,
    /// The name that the client wants; else the server's or the URL's counts.
    pub(super) filename: String,
    pub(super) perm: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    /// The secret that holds the value of `Authorization`.
    pub(super) auth_secret: String,
    /// Sorted by name.
    pub(super) headers: Vec<Header>,
}

/// One header, as it is in keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Header {
    #[serde(rename = "Name")]
    pub(super) name: &'static str,
    #[serde(rename = "Value")]
    pub(super) value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Key<'a> {
    filename: &'a str,
    perm: i64,
    #[serde(rename = "UID")]
    uid: i64,
    #[serde(rename = "GID")]
    gid: i64,
    checksum: &'a Digest,
    #[serde(skip_serializing_if = "String::is_empty")]
    last_mod_time: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    auth_header_secret: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    header: &'a [Header],
}

impl HttpRequest {
    pub(super) fn parse(op: &pb::SourceOp) -> Result<Self, HttpError> {
        let mut request = Self {
            url: op.identifier.clone(),
            ..Self::default()
        };
        for (key, value) in &op.attrs {
            let invalid = || HttpError::Attribute {
                key: key.clone(),
                value: value.clone(),
            };
            match key.as_str() {
                "http.checksum" => request.checksum = Some(value.parse().map_err(|_| invalid())?),
                "http.filename" => request.filename.clone_from(value),
                "http.perm" => request.perm = number(value).ok_or_else(invalid)?,
                "http.uid" => request.uid = number(value).ok_or_else(invalid)?,
                "http.gid" => request.gid = number(value).ok_or_else(invalid)?,
                "http.authheadersecret" => request.auth_secret.clone_from(value),
                "http.sig.pubkey" | "http.sig.signature" => {
                    return Err(HttpError::Unsupported("a signature of the file"));
                }
                _ => {
                    let wanted = key
                        .strip_prefix("http.header.")
                        .map(str::to_ascii_lowercase);
                    let known = HEADERS
                        .into_iter()
                        .find(|(name, _)| wanted.as_deref() == Some(name));
                    if let Some((_, name)) = known {
                        request.headers.push(Header {
                            name,
                            value: value.clone(),
                        });
                    }
                }
            }
        }
        request.headers.sort();
        Ok(request)
    }

    /// For errors and descriptions.
    pub(super) fn shown(&self) -> String {
        redact(&self.url).into_owned()
    }

    /// The key of a file that is known.
    pub(super) fn cache_key(&self, known: &Fetched) -> Digest {
        let key = Key {
            filename: &known.name,
            perm: self.perm,
            uid: self.uid,
            gid: self.gid,
            checksum: &known.digest,
            last_mod_time: known.modified.map(http_date).unwrap_or_default(),
            auth_header_secret: &self.auth_secret,
            header: &self.headers,
        };
        match go_json::to_vec(&key) {
            Ok(json) => Digest::of(json),
            Err(_) => known.digest,
        }
    }

    /// Under which the cache finds what was fetched for this request before.
    pub(super) fn index_key(&self) -> String {
        let text = format!(
            "{}\0{}\0{}\0{}\0{}\0{}\0{:?}",
            self.url, self.filename, self.perm, self.uid, self.gid, self.auth_secret, self.headers
        );
        format!("http:{}", Digest::of(text))
    }

    /// The name of the file, made safe: it becomes a directory entry and nothing else.
    pub(super) fn file_name(&self, disposition: Option<&str>) -> String {
        let named = if self.filename.is_empty() {
            disposition
                .and_then(disposition_name)
                .or_else(|| url_name(&self.url))
        } else {
            Some(self.filename.clone())
        };
        safe(&named.unwrap_or_default())
    }
}

/// A number as Go's `ParseInt` takes it with base 0.
fn number(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let parsed = if let Some(hex) = digits.strip_prefix("0x") {
        i64::from_str_radix(hex, 16)
    } else if let Some(octal) = digits.strip_prefix("0o") {
        i64::from_str_radix(octal, 8)
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    }
    .ok()?;
    Some(if negative { -parsed } else { parsed })
}

fn disposition_name(header: &str) -> Option<String> {
    header.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim().eq_ignore_ascii_case("filename") && !value.is_empty() && !value.ends_with('/'))
            .then(|| value.rsplit('/').next().unwrap_or_default().to_owned())
    })
}

fn url_name(url: &str) -> Option<String> {
    let parsed = reqwest::Url::parse(url).ok()?;
    let last = parsed.path().trim_end_matches('/').rsplit('/').next()?;
    let decoded = percent_decoded(last);
    (!decoded.is_empty() && decoded != ".").then_some(decoded)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = (byte == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        if let Some(decoded) = hex {
            bytes.push(decoded);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// BuildKit's fallback for what is no name of a file.
fn safe(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    match last {
        "" | "." | ".." => "download".to_owned(),
        last => last.replace('\0', "_"),
    }
}

/// The form of dates in headers.
pub(super) fn http_date(at: SystemTime) -> String {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time::OffsetDateTime::from(at)
        .format(format)
        .unwrap_or_default()
}

/// A date of a header.
pub(super) fn parse_http_date(text: &str) -> Option<SystemTime> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = time::PrimitiveDateTime::parse(text, format).ok()?;
    Some(at.assume_utc().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for (url, filename, disposition, name) in [
            ("http://a/b/c.tar.gz", "", None, "c.tar.gz"),
            ("http://a/b/c?x=/y", "", None, "c"),
            ("http://a/", "", None, "download"),
            ("http://a/%2e%2e", "", None, "download"),
            ("http://a/x%20y", "", None, "x y"),
            (
                "http://a/b",
                "",
                Some("attachment; filename=\"d.txt\""),
                "d.txt",
            ),
            ("http://a/b", "", Some("attachment; filename=../../d"), "d"),
            ("http://a/b", "e", Some("attachment; filename=d"), "e"),
            ("http://a/b", "../..", None, "download"),
        ] {
            let request = HttpRequest {
                url: url.into(),
                filename: filename.into(),
                ..HttpRequest::default()
            };
            assert_eq!(request.file_name(disposition), name, "{url} {filename}");
        }
    }

    #[test]
    fn the_key_is_gos_json() {
        let op = pb::SourceOp {
            identifier: "https://a/b&c".into(),
            attrs: [
                ("http.perm".to_owned(), "0644".to_owned()),
                ("http.uid".to_owned(), "5".to_owned()),
                ("http.header.ACCEPT".to_owned(), "x".to_owned()),
                ("http.header.cookie".to_owned(), "y".to_owned()),
            ]
            .into(),
        };
        let request = HttpRequest::parse(&op).expect("a request");
        let modified = parse_http_date("Tue, 15 Nov 1994 12:45:26 GMT").expect("a date");
        let known = Fetched {
            digest: Digest::of("x"),
            name: "b&c".into(),
            modified: Some(modified),
            record: None,
        };
        let json = format!(
            "{{\"Filename\":\"b\\u0026c\",\"Perm\":420,\"UID\":5,\"GID\":0,\"Checksum\":\"{}\",\"LastModTime\":\"Tue, 15 Nov 1994 12:45:26 GMT\",\"Header\":[{{\"Name\":\"Accept\",\"Value\":\"x\"}}]}}",
            Digest::of("x")
        );
        assert_eq!(request.cache_key(&known), Digest::of(json));
    }

    #[test]
    fn attributes_are_checked() {
        for (key, value) in [("http.perm", "rw"), ("http.checksum", "md5:1")] {
            let op = pb::SourceOp {
                identifier: "https://a".into(),
                attrs: [(key.to_owned(), value.to_owned())].into(),
            };
            let error = HttpRequest::parse(&op).expect_err(key);
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
