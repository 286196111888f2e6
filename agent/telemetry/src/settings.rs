//! The variables of OpenTelemetry's specification.
//!
//! | variable | meaning |
//! |---|---|
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | where the collector is; over HTTP `/v1/traces` is added |
//! | `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` | the same for spans, and whole |
//! | `OTEL_EXPORTER_OTLP_PROTOCOL` | `grpc` (the default) or `http/protobuf` |
//! | `OTEL_EXPORTER_OTLP_HEADERS` | `NAME=VALUE,…` with each request |
//! | `OTEL_EXPORTER_OTLP_TIMEOUT` | milliseconds for a request; 10,000 |
//! | `OTEL_EXPORTER_OTLP_INSECURE` | whether an endpoint without `http://` or `https://` goes without TLS |
//! | `OTEL_EXPORTER_OTLP_CERTIFICATE` | a file with the authorities of the collector's certificate |
//! | `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`, `…_CLIENT_KEY` | files with what the daemon shows |
//! | `OTEL_TRACES_EXPORTER` | `none`: nothing is sent; `otlp`: also without an endpoint, to `localhost` |
//! | `OTEL_SDK_DISABLED` | `true`: nothing is sent |
//! | `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | what the daemon's own spans come from |
//! | `OTEL_BSP_SCHEDULE_DELAY` | milliseconds after which spans are sent; 5,000 |
//! | `OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` | spans that wait, 2,048, and that go at once, 512 |
//!
//! Each `OTEL_EXPORTER_OTLP_NAME` has an `OTEL_EXPORTER_OTLP_TRACES_NAME` that goes before it. An empty variable
//! counts as one that isn't there. Spans go uncompressed.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use kiln_proto::otlp_trace::{AnyValue, KeyValue, Resource, any_value::Value};

use crate::Error;

const SERVICE: &str = "kilnd";

/// How requests are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP.
    Http,
}

/// The way to a collector.
#[derive(Clone)]
pub struct Settings {
    /// How.
    pub protocol: Protocol,
    /// Where, with its scheme.
    pub endpoint: String,
    /// For a request.
    pub timeout: Duration,
    /// What the daemon's own spans come from.
    pub resource: Resource,
    pub(crate) headers: HeaderMap,
    /// PEM.
    pub(crate) authority: Option<Vec<u8>>,
    /// A certificate and its key, PEM.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) delay: Duration,
    pub(crate) queue: usize,
    pub(crate) batch: usize,
}

// Headers have passwords.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("protocol", &self.protocol)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// What the variables ask for; `None` where spans shall not be sent.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let variables = Variables(&|name: &str| get(name).filter(|text| !text.is_empty()));
        let wanted = match variables.plain("OTEL_TRACES_EXPORTER").as_deref() {
            None => {
                variables.otlp("ENDPOINT").is_some() && !variables.is_true("OTEL_SDK_DISABLED")?
            }
            Some("otlp") => !variables.is_true("OTEL_SDK_DISABLED")?,
            Some("none") => false,
            Some(other) => {
                return Err(wrong("OTEL_TRACES_EXPORTER", other, "use otlp or none"));
            }
        };
        wanted.then(|| variables.settings()).transpose()
    }
}

/// Reads variables.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn plain(&self, name: &str) -> Option<String> {
        (self.0)(name)
    }

    /// The one for spans, else the one for all, with its name.
    fn otlp(&self, name: &str) -> Option<(String, String)> {
        ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"]
            .into_iter()
            .map(|prefix| format!("{prefix}{name}"))
            .find_map(|name| Some((self.plain(&name)?, name)))
    }

    fn is_true(&self, name: &str) -> Result<bool, Error> {
        self.plain(name)
            .map_or(Ok(false), |text| truth(name, &text))
    }

    fn number<T: std::str::FromStr + Default + PartialEq>(
        &self,
        name: &str,
        default: T,
    ) -> Result<T, Error> {
        self.plain(name)
            .map_or(Ok(default), |text| number(name, &text))
    }

    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some((path, variable)) = self.otlp(name) else {
            return Ok(None);
        };
        let path = PathBuf::from(path);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(source) => Err(Error::File {
                variable,
                path,
                source,
            }),
        }
    }

    fn settings(&self) -> Result<Settings, Error> {
        let protocol = match self.otlp("PROTOCOL") {
            None => Protocol::Grpc,
            Some((text, name)) => match text.as_str() {
                "grpc" => Protocol::Grpc,
                "http/protobuf" => Protocol::Http,
                other => return Err(wrong(&name, other, "use grpc or http/protobuf")),
            },
        };
        let milliseconds = match self.otlp("TIMEOUT") {
            None => 10_000,
            Some((text, name)) => number(&name, &text)?,
        };
        let headers = match self.otlp("HEADERS") {
            None => HeaderMap::new(),
            Some((text, name)) => headers(&name, &text)?,
        };
        let identity = match (self.file("CLIENT_CERTIFICATE")?, self.file("CLIENT_KEY")?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(wrong(
                    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                    "",
                    "a certificate needs OTEL_EXPORTER_OTLP_CLIENT_KEY, and a key its certificate",
                ));
            }
        };
        if self
            .otlp("COMPRESSION")
            .is_some_and(|(text, _)| text != "none")
        {
            tracing::info!("OTEL_EXPORTER_OTLP_COMPRESSION: spans are sent uncompressed");
        }
        Ok(Settings {
            protocol,
            endpoint: self.endpoint(protocol)?,
            timeout: Duration::from_millis(milliseconds),
            resource: self.resource()?,
            headers,
            authority: self.file("CERTIFICATE")?,
            identity,
            delay: Duration::from_millis(self.number("OTEL_BSP_SCHEDULE_DELAY", 5_000)?),
            queue: self.number("OTEL_BSP_MAX_QUEUE_SIZE", 2_048)?,
            batch: self.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?,
        })
    }

    fn endpoint(&self, protocol: Protocol) -> Result<String, Error> {
        const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const EXPECTED: &str = "use http://HOST:PORT or https://HOST:PORT";
        let (given, name) = self.otlp("ENDPOINT").unwrap_or_else(|| {
            let port = if protocol == Protocol::Grpc {
                4317
            } else {
                4318
            };
            (format!("http://localhost:{port}"), ALL.to_owned())
        });
        let whole = if given.contains("://") {
            given.clone()
        } else {
            let insecure = match self.otlp("INSECURE") {
                None => false,
                Some((text, name)) => truth(&name, &text)?,
            };
            let scheme = if insecure { "http" } else { "https" };
            format!("{scheme}://{given}")
        };
        let uri: Uri = whole.parse().map_err(|_| wrong(&name, &given, EXPECTED))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(wrong(&name, &given, EXPECTED));
        }
        if protocol == Protocol::Http && name == ALL {
            return Ok(format!("{}/v1/traces", whole.trim_end_matches('/')));
        }
        Ok(whole)
    }

    fn resource(&self) -> Result<Resource, Error> {
        const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let given = self.plain(ATTRIBUTES).unwrap_or_default();
        let mut attributes: Vec<(String, String)> = Vec::new();
        for pair in pairs(&given) {
            attributes.push(pair.ok_or_else(|| wrong(ATTRIBUTES, &given, PAIRS))?);
        }
        if let Some(name) = self.plain("OTEL_SERVICE_NAME") {
            attributes.retain(|(key, _)| key != "service.name");
            attributes.insert(0, ("service.name".into(), name));
        }
        for (key, value) in [
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.name", SERVICE),
        ] {
            if attributes.iter().all(|(given, _)| given != key) {
                attributes.insert(0, (key.into(), value.into()));
            }
        }
        Ok(Resource {
            attributes: attributes
                .into_iter()
                .map(|(key, value)| KeyValue {
                    key,
                    value: Some(AnyValue {
                        value: Some(Value::StringValue(value)),
                    }),
                })
                .collect(),
            ..Resource::default()
        })
    }
}

fn wrong(variable: &str, value: &str, expected: &'static str) -> Error {
    Error::Variable {
        variable: variable.to_owned(),
        value: value.to_owned(),
        expected,
    }
}

fn truth(name: &str, text: &str) -> Result<bool, Error> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong(name, text, "use true or false")),
    }
}

fn number<T: std::str::FromStr + Default + PartialEq>(name: &str, text: &str) -> Result<T, Error> {
    let number = text.parse().ok().filter(|number| *number != T::default());
    number.ok_or_else(|| wrong(name, text, "use a whole number greater than 0"))
}

const PAIRS: &str = "use NAME=VALUE,NAME=VALUE";

/// `NAME=VALUE,…` with values that may have `%HH`; `None` in the place of what isn't such a pair.
fn pairs(text: &str) -> impl Iterator<Item = Option<(String, String)>> {
    let all = text.split(',').map(str::trim);
    all.filter(|one| !one.is_empty()).map(|one| {
        let (name, value) = one.split_once('=')?;
        let (name, value) = (decoded(name.trim())?, decoded(value.trim())?);
        (!name.is_empty()).then_some((name, value))
    })
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

fn headers(variable: &str, text: &str) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for pair in pairs(text) {
        let header = pair.and_then(|(name, value)| {
            let mut value = HeaderValue::try_from(value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::try_from(name).ok()?, value))
        });
        let (name, value) = header.ok_or_else(|| wrong(variable, "…", PAIRS))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        Settings::from_variables(|name| {
            let found = variables.iter().find(|(given, _)| *given == name);
            found.map(|(_, value)| (*value).to_owned())
        })
        .map_err(|error| error.to_string())
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");

    #[test]
    fn spans_are_sent_only_when_asked_for() {
        for none in [
            &[] as &[(&str, &str)],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "true")],
            &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:4317")],
        ] {
            assert!(check(none).unwrap().is_none(), "{none:?}");
        }
    }

    #[test]
    fn endpoints_are_those_of_the_specification() {
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        const HTTP: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        let otlp = ("OTEL_TRACES_EXPORTER", "otlp");
        let bare = ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317");
        let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
        for (variables, endpoint) in [
            (&[ENDPOINT] as &[_], "http://c:4317"),
            (&[otlp], "http://localhost:4317"),
            (&[otlp, HTTP], "http://localhost:4318/v1/traces"),
            (&[ENDPOINT, HTTP], "http://c:4317/v1/traces"),
            (&[ENDPOINT, HTTP, (TRACES, "https://t/in")], "https://t/in"),
            (&[ENDPOINT, (TRACES, "https://t:1")], "https://t:1"),
            (&[bare], "https://c:4317"),
            (&[bare, insecure], "http://c:4317"),
        ] {
            let found = check(variables).unwrap().unwrap().endpoint;
            assert_eq!(found, endpoint, "{variables:?}");
        }
    }

    #[test]
    fn headers_and_resources_are_decoded() {
        let settings = check(&[
            ENDPOINT,
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Authorization=Basic%20abc=, x=1",
            ),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=other,deployment=ci%2C1",
            ),
            ("OTEL_SERVICE_NAME", "builder"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
        ])
        .unwrap()
        .unwrap();
        assert_eq!(settings.headers["authorization"], "Basic abc=");
        assert_eq!(settings.headers["x"], "1");
        assert_eq!(settings.timeout, Duration::from_millis(250));
        let found: Vec<(&str, String)> = settings
            .resource
            .attributes
            .iter()
            .map(|one| {
                let Some(Value::StringValue(value)) =
                    one.value.as_ref().and_then(|value| value.value.clone())
                else {
                    panic!("{one:?}")
                };
                (one.key.as_str(), value)
            })
            .collect();
        assert_eq!(found[0].0, "service.version");
        assert_eq!(
            found[1..],
            [
                ("service.name", "builder".to_owned()),
                ("deployment", "ci,1".to_owned())
            ]
        );
        assert!(!format!("{settings:?}").contains("abc"));
    }

    #[test]
    fn what_is_wrong_names_its_variable() {
        for (name, value) in [
            ("OTEL_TRACES_EXPORTER", "jaeger"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://c"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1s"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "no-pair"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/nowhere/key.pem"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ] {
            let error = check(&[ENDPOINT, (name, value)]).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
        let error = check(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "secret")]).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
