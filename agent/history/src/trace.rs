//! Spans of builds: those that clients send while their builds run, and the build's own.
//!
//! A build belongs to the trace that its client names (`traceparent`), or to one of its own. Spans of traces
//! that no build belongs to are let go. With the record they become one blob: a JSON object per span, in the
//! form of OpenTelemetry's Go library, which is what `docker buildx history trace` reads.
//!
//! Invariant: a trace is kept in memory only from a build's begin to the end of its record, and never more
//! than [`MOST_SPANS`] of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use kiln_oci::Digest;
use kiln_progress::VertexState;
use kiln_proto::otlp_trace as otlp;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The media type of the blob.
pub const TRACE_MEDIA_TYPE: &str = "application/vnd.buildkit.otlp.json.v0";

/// Spans of clients that are kept of one trace.
const MOST_SPANS: usize = 20_000;

/// The trace that a build belongs to, and the span that it is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Of the trace.
    pub trace: [u8; 16],
    /// The client's span, zero for none.
    pub parent: [u8; 8],
}

impl TraceContext {
    /// From the header `traceparent` of W3C's Trace Context.
    pub fn from_header(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
        let context = Self {
            trace: from_hex(trace)?,
            parent: from_hex(parent)?,
        };
        (version.len() == 2 && context.trace != [0; 16]).then_some(context)
    }

    /// A trace of its own for a build that no client traces.
    pub fn of_build(reference: &str) -> Self {
        let digest = Digest::of(format!("trace of {reference}"));
        let mut trace = [0; 16];
        trace.copy_from_slice(&digest.as_bytes()[..16]);
        Self {
            trace,
            parent: [0; 8],
        }
    }
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The spans of clients, by trace. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces(Arc<Mutex<HashMap<[u8; 16], Gathered>>>);

#[derive(Debug, Default)]
struct Gathered {
    builds: usize,
    spans: Vec<Value>,
}

impl Traces {
    /// From now on the trace's spans are kept, until what is returned is dropped.
    pub fn gather(&self, context: TraceContext) -> Gathering {
        self.lock().entry(context.trace).or_default().builds += 1;
        Gathering {
            traces: self.clone(),
            context,
        }
    }

    /// Takes spans that a client sent.
    pub fn take(&self, request: otlp::ExportTraceServiceRequest) {
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let resource = attributes(&resource.attributes);
            for of_scope in of_resource.scope_spans {
                let scope = of_scope.scope.unwrap_or_default();
                for span in of_scope.spans {
                    self.take_span(&span, &resource, &scope);
                }
            }
        }
    }

    fn take_span(&self, span: &otlp::Span, resource: &Value, scope: &otlp::Scope) {
        let Ok(trace) = <[u8; 16]>::try_from(span.trace_id.as_ref()) else {
            return;
        };
        let mut traces = self.lock();
        let Some(gathered) = traces.get_mut(&trace) else {
            return;
        };
        if gathered.spans.len() < MOST_SPANS {
            gathered.spans.push(client_span(span, resource, scope));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 16], Gathered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A trace whose spans are kept.
#[derive(Debug)]
pub struct Gathering {
    traces: Traces,
    context: TraceContext,
}

impl Gathering {
    /// The blob of the trace: the client's spans and the build's own.
    pub fn blob(&self, build: &OwnSpans<'_>) -> Bytes {
        let mut spans = build.spans(self.context);
        if let Some(gathered) = self.traces.lock().get(&self.context.trace) {
            spans.extend(gathered.spans.iter().cloned());
        }
        let lines: Vec<String> = spans.iter().map(|span| format!("{span:#}\n")).collect();
        lines.concat().into()
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let mut traces = self.traces.lock();
        if let Some(gathered) = traces.get_mut(&self.context.trace) {
            gathered.builds -= 1;
            if gathered.builds == 0 {
                traces.remove(&self.context.trace);
            }
        }
    }
}

/// What a build's own spans are made of.
#[derive(Debug)]
pub struct OwnSpans<'a> {
    /// The build.
    pub reference: &'a str,
    /// When it began.
    pub started: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// Why it failed; empty if it didn't.
    pub error: &'a str,
    /// Its steps, once for each time they were at work.
    pub steps: &'a [VertexState],
}

impl OwnSpans<'_> {
    /// One span for the build, and one for each step below it.
    fn spans(&self, context: TraceContext) -> Vec<Value> {
        let id = |name: &str| {
            let digest = Digest::of(format!("{} {name}", self.reference));
            hex(&digest.as_bytes()[..8])
        };
        let root = id("build");
        let mut spans = vec![own_span(
            context,
            &root,
            &hex(&context.parent),
            "moby.buildkit.v1.Control/Solve",
            (self.started, self.ended),
            self.error,
            &json!([text_attribute("build.ref", self.reference)]),
        )];
        for step in self.steps {
            let (Some(started), Some(ended)) = (step.started, step.completed) else {
                continue;
            };
            let attributes = json!([
                text_attribute("vertex", &step.digest.to_string()),
                { "Key": "cached", "Value": { "Type": "BOOL", "Value": step.cached } },
            ]);
            let id = id(&format!("{} {started:?}", step.digest));
            let times = (started, ended);
            spans.push(own_span(
                context,
                &id,
                &root,
                &step.name,
                times,
                &step.error,
                &attributes,
            ));
        }
        spans
    }
}

fn own_span(
    context: TraceContext,
    id: &str,
    parent: &str,
    name: &str,
    (started, ended): (SystemTime, SystemTime),
    error: &str,
    attributes: &Value,
) -> Value {
    let trace = hex(&context.trace);
    let kind = if name.starts_with("moby.") { 2 } else { 1 };
    let status = if error.is_empty() {
        json!({ "Code": "Unset", "Description": "" })
    } else {
        json!({ "Code": "Error", "Description": error })
    };
    json!({
        "Name": name,
        "SpanContext": span_context(&trace, id),
        "Parent": span_context(&trace, parent),
        "SpanKind": kind,
        "StartTime": moment(OffsetDateTime::from(started)),
        "EndTime": moment(OffsetDateTime::from(ended)),
        "Attributes": attributes,
        "Events": null,
        "Links": null,
        "Status": status,
        "DroppedAttributes": 0,
        "DroppedEvents": 0,
        "DroppedLinks": 0,
        "ChildSpanCount": 0,
        "Resource": [text_attribute("service.name", "kilnd")],
        "InstrumentationLibrary": { "Name": "kilnd", "Version": env!("CARGO_PKG_VERSION"), "SchemaURL": "" },
    })
}

fn client_span(span: &otlp::Span, resource: &Value, scope: &otlp::Scope) -> Value {
    let trace = hex(&span.trace_id);
    let status = span.status.clone().unwrap_or_default();
    let code = match status.code {
        1 => "Ok",
        2 => "Error",
        _ => "Unset",
    };
    let events = span.events.iter().map(|event| {
        json!({
            "Name": event.name,
            "Attributes": attributes(&event.attributes),
            "DroppedAttributeCount": event.dropped_attributes_count,
            "Time": nanoseconds(event.time_unix_nano),
        })
    });
    let links = span.links.iter().map(|link| {
        json!({
            "SpanContext": span_context(&hex(&link.trace_id), &hex(&link.span_id)),
            "Attributes": attributes(&link.attributes),
            "DroppedAttributeCount": link.dropped_attributes_count,
        })
    });
    json!({
        "Name": span.name,
        "SpanContext": span_context(&trace, &hex(&span.span_id)),
        "Parent": span_context(&trace, &hex(&span.parent_span_id)),
        "SpanKind": span.kind,
        "StartTime": nanoseconds(span.start_time_unix_nano),
        "EndTime": nanoseconds(span.end_time_unix_nano),
        "Attributes": attributes(&span.attributes),
        "Events": events.collect::<Vec<_>>(),
        "Links": links.collect::<Vec<_>>(),
        "Status": { "Code": code, "Description": status.message },
        "DroppedAttributes": span.dropped_attributes_count,
        "DroppedEvents": span.dropped_events_count,
        "DroppedLinks": span.dropped_links_count,
        "ChildSpanCount": 0,
        "Resource": resource,
        "InstrumentationLibrary": { "Name": scope.name, "Version": scope.version, "SchemaURL": "" },
    })
}

/// A span that has no parent says so with zeros.
fn span_context(trace: &str, span: &str) -> Value {
    const NO_TRACE: &str = "00000000000000000000000000000000";
    const NO_SPAN: &str = "0000000000000000";
    let is_none = span.bytes().all(|digit| digit == b'0');
    let (trace, span, flags) = if is_none {
        (NO_TRACE, NO_SPAN, "00")
    } else {
        (trace, span, "01")
    };
    json!({ "TraceID": trace, "SpanID": span, "TraceFlags": flags, "TraceState": "", "Remote": false })
}

fn text_attribute(key: &str, value: &str) -> Value {
    json!({ "Key": key, "Value": { "Type": "STRING", "Value": value } })
}

fn attributes(all: &[otlp::KeyValue]) -> Value {
    use otlp::any_value::Value as Any;
    let typed = |key: &str, kind: &str, value: Value| json!({ "Key": key, "Value": { "Type": kind, "Value": value } });
    let texts = |array: &otlp::ArrayValue| -> Value {
        let text = |value: &otlp::AnyValue| match &value.value {
            Some(Any::StringValue(text)) => text.clone(),
            Some(Any::BoolValue(value)) => value.to_string(),
            Some(Any::IntValue(value)) => value.to_string(),
            Some(Any::DoubleValue(value)) => value.to_string(),
            _ => String::new(),
        };
        array.values.iter().map(text).collect()
    };
    // What has no value, or one of another kind, is left out: readers would stumble over it.
    all.iter()
        .filter_map(|one| {
            let key = &one.key;
            Some(match one.value.as_ref()?.value.as_ref()? {
                Any::StringValue(value) => text_attribute(key, value),
                Any::BoolValue(value) => typed(key, "BOOL", json!(value)),
                Any::IntValue(value) => typed(key, "INT64", json!(value)),
                Any::DoubleValue(value) => typed(key, "FLOAT64", json!(value)),
                Any::ArrayValue(array) => typed(key, "STRINGSLICE", texts(array)),
            })
        })
        .collect()
}

fn nanoseconds(since_epoch: u64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(since_epoch))
        .map_or_else(|_| moment(OffsetDateTime::UNIX_EPOCH), moment)
}

fn moment(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_parents_are_read() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let span = "b7ad6b7169203331";
        let context = TraceContext::from_header(&format!("00-{trace}-{span}-01")).expect("valid");
        assert_eq!(
            (hex(&context.trace), hex(&context.parent)),
            (trace.into(), span.into())
        );
        for bad in [
            "",
            "00",
            "00-x-y-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-éééééééééééééééé-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::from_header(bad), None, "{bad}");
        }
    }

    #[test]
    fn spans_of_a_build_go_with_those_of_its_client() {
        let traces = Traces::default();
        let context = TraceContext {
            trace: [1; 16],
            parent: [2; 8],
        };
        let request = |trace: u8| otlp::ExportTraceServiceRequest {
            resource_spans: vec![otlp::ResourceSpans {
                resource: None,
                scope_spans: vec![otlp::ScopeSpans {
                    scope: None,
                    spans: vec![otlp::Span {
                        trace_id: vec![trace; 16].into(),
                        span_id: vec![2; 8].into(),
                        name: "build".into(),
                        attributes: vec![otlp::KeyValue {
                            key: "n".into(),
                            value: Some(otlp::AnyValue {
                                value: Some(otlp::any_value::Value::IntValue(3)),
                            }),
                        }],
                        ..Default::default()
                    }],
                }],
            }],
        };
        traces.take(request(1));
        let gathering = traces.gather(context);
        traces.take(request(1));
        traces.take(request(9));
        let step = VertexState {
            digest: Digest::of("v"),
            inputs: Vec::new(),
            name: "RUN x".into(),
            cached: false,
            started: Some(SystemTime::UNIX_EPOCH),
            completed: Some(SystemTime::UNIX_EPOCH),
            error: "it broke".into(),
            group: None,
        };
        let blob = gathering.blob(&OwnSpans {
            reference: "r",
            started: SystemTime::UNIX_EPOCH,
            ended: SystemTime::UNIX_EPOCH,
            error: "",
            steps: &[step],
        });
        let spans: Vec<Value> = serde_json::Deserializer::from_slice(&blob)
            .into_iter()
            .collect::<Result<_, _>>()
            .expect("JSON");
        let names: Vec<&str> = spans
            .iter()
            .filter_map(|span| span["Name"].as_str())
            .collect();
        assert_eq!(names, ["moby.buildkit.v1.Control/Solve", "RUN x", "build"]);
        assert_eq!(spans[0]["Parent"]["SpanID"], "0202020202020202");
        assert_eq!(spans[1]["Parent"], spans[0]["SpanContext"]);
        assert_eq!(spans[1]["Status"]["Code"], "Error");
        assert_eq!(spans[2]["Parent"]["SpanID"], "0000000000000000");
        assert_eq!(spans[2]["Attributes"][0]["Value"]["Type"], "INT64");
        drop(gathering);
        assert!(traces.lock().is_empty());
    }
}
