//! Spans in the form that OpenTelemetry's Go library writes, which is that of the record's blob.

use kiln_proto::otlp_trace as otlp;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::hex;

/// One span, with what it came from.
pub(super) fn span(span: &otlp::Span, resource: &Value, scope: &otlp::Scope) -> Value {
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

/// Attributes as a list of typed values.
pub(super) fn attributes(all: &[otlp::KeyValue]) -> Value {
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
    // What has no value, or one of a kind that Go's library lacks, is left out: readers would stumble over it.
    all.iter()
        .filter_map(|one| {
            let key = &one.key;
            Some(match one.value.as_ref()?.value.as_ref()? {
                Any::StringValue(value) => typed(key, "STRING", json!(value)),
                Any::BoolValue(value) => typed(key, "BOOL", json!(value)),
                Any::IntValue(value) => typed(key, "INT64", json!(value)),
                Any::DoubleValue(value) => typed(key, "FLOAT64", json!(value)),
                Any::ArrayValue(array) => typed(key, "STRINGSLICE", texts(array)),
                Any::KvlistValue(_) | Any::BytesValue(_) => return None,
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
