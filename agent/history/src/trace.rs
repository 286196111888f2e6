//! Spans of builds: those that clients send while their builds run, and the build's own.
//!
//! A build belongs to the trace that its client names (`traceparent`), or to one of its own. Spans of traces
//! that no build belongs to are let go. With the record they become one blob: a JSON object per span, in the
//! form of OpenTelemetry's Go library, which is what `docker buildx history trace` reads.
//!
//! Where the daemon has a collector, all of them are sent on as they come: those of clients, whichever trace they
//! belong to, and a build's own at its end.
//!
//! Invariant: a trace is kept in memory only from a build's begin to the end of its record, and never more
//! than [`MOST_SPANS`] of it.

mod json;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use kiln_oci::Digest;
use kiln_progress::VertexState;
use kiln_proto::otlp_trace as otlp;
use serde_json::Value;

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
    /// Whether the client wants its trace to be seen by others than itself.
    pub sampled: bool,
}

impl TraceContext {
    /// From the header `traceparent` of W3C's Trace Context.
    pub fn from_header(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
        let [flags] = from_hex::<1>(parts.next()?)?;
        let context = Self {
            trace: from_hex(trace)?,
            parent: from_hex(parent)?,
            sampled: flags & 1 == 1,
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
            sampled: true,
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
pub struct Traces(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    by_trace: Mutex<HashMap<[u8; 16], Gathered>>,
    collector: OnceLock<Collector>,
}

/// Where spans go beside the records.
pub struct Collector {
    /// What the daemon's own spans come from.
    pub resource: otlp::Resource,
    /// Takes spans. Must not block.
    pub take: Box<dyn Fn(otlp::ResourceSpans) + Send + Sync>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Collector")
    }
}

#[derive(Debug, Default)]
struct Gathered {
    builds: usize,
    spans: Vec<Value>,
}

impl Traces {
    /// From now on spans are sent on, too. The first collector stays.
    pub fn send_on(&self, collector: Collector) {
        // It is set where the daemon is composed, once.
        let _ = self.0.collector.set(collector);
    }

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
            let resource = of_resource.resource.clone().unwrap_or_default();
            let resource = json::attributes(&resource.attributes);
            for of_scope in &of_resource.scope_spans {
                let scope = of_scope.scope.clone().unwrap_or_default();
                for span in &of_scope.spans {
                    self.take_span(span, &resource, &scope);
                }
            }
            if let Some(collector) = self.0.collector.get() {
                (collector.take)(of_resource);
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
            gathered.spans.push(json::span(span, resource, scope));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 16], Gathered>> {
        self.0
            .by_trace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A trace whose spans are kept.
#[derive(Debug)]
pub struct Gathering {
    traces: Traces,
    context: TraceContext,
}

impl Gathering {
    /// The build's own spans, which go to the collector at once, if there is one and the client doesn't mind.
    pub fn own(&self, build: &BuildSpans<'_>) -> Vec<otlp::Span> {
        let spans = build.spans(self.context);
        if let Some(collector) = self.traces.0.collector.get()
            && self.context.sampled
        {
            (collector.take)(otlp::ResourceSpans {
                resource: Some(collector.resource.clone()),
                scope_spans: vec![otlp::ScopeSpans {
                    scope: Some(scope()),
                    spans: spans.clone(),
                    ..otlp::ScopeSpans::default()
                }],
                ..otlp::ResourceSpans::default()
            });
        }
        spans
    }

    /// What the program of the build's parent span calls itself (`service.name`), once it has sent that span.
    pub fn caller(&self) -> Option<String> {
        let parent = hex(&self.context.parent);
        let traces = self.traces.lock();
        let spans = &traces.get(&self.context.trace)?.spans;
        let span = spans
            .iter()
            .find(|span| span["SpanContext"]["SpanID"] == parent.as_str())?;
        let name = span["Resource"]
            .as_array()?
            .iter()
            .find(|one| one["Key"] == "service.name")?;
        name["Value"]["Value"].as_str().map(str::to_owned)
    }

    /// The blob of the trace: the build's own spans and the client's.
    pub fn blob(&self, own: &[otlp::Span]) -> Bytes {
        let collector = self.traces.0.collector.get();
        let resource = match collector {
            Some(collector) => json::attributes(&collector.resource.attributes),
            None => json::attributes(&[text("service.name", "kilnd")]),
        };
        let mut spans: Vec<Value> = own
            .iter()
            .map(|span| json::span(span, &resource, &scope()))
            .collect();
        if let Some(gathered) = self.traces.lock().get(&self.context.trace) {
            spans.extend(gathered.spans.iter().cloned());
        }
        let lines: Vec<String> = spans.iter().map(|span| format!("{span:#}\n")).collect();
        lines.concat().into()
    }
}

/// What the daemon's own spans were made by.
fn scope() -> otlp::Scope {
    otlp::Scope {
        name: "kilnd".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..otlp::Scope::default()
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
pub struct BuildSpans<'a> {
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

impl BuildSpans<'_> {
    /// One span for the build, and one for each step below it.
    fn spans(&self, context: TraceContext) -> Vec<otlp::Span> {
        let id = |name: &str| {
            let digest = Digest::of(format!("{} {name}", self.reference));
            Bytes::copy_from_slice(&digest.as_bytes()[..8])
        };
        let has_parent = context.parent != [0; 8];
        let root = otlp::Span {
            trace_id: Bytes::copy_from_slice(&context.trace),
            span_id: id("build"),
            parent_span_id: Bytes::copy_from_slice(if has_parent { &context.parent } else { &[] }),
            name: "moby.buildkit.v1.Control/Solve".into(),
            kind: SERVER,
            start_time_unix_nano: nanoseconds(self.started),
            end_time_unix_nano: nanoseconds(self.ended),
            attributes: vec![text("build.ref", self.reference)],
            status: Some(status(self.error)),
            // Its parent is in another process.
            flags: SAMPLED | if has_parent { REMOTE_KNOWN | REMOTE } else { 0 },
            ..otlp::Span::default()
        };
        let step = |step: &VertexState| {
            let (started, ended) = (step.started?, step.completed?);
            let cached = otlp::any_value::Value::BoolValue(step.cached);
            Some(otlp::Span {
                trace_id: root.trace_id.clone(),
                span_id: id(&format!("{} {started:?}", step.digest)),
                parent_span_id: root.span_id.clone(),
                name: step.name.clone(),
                kind: INTERNAL,
                start_time_unix_nano: nanoseconds(started),
                end_time_unix_nano: nanoseconds(ended),
                attributes: vec![
                    text("vertex", &step.digest.to_string()),
                    attribute("cached", cached),
                ],
                status: Some(status(&step.error)),
                flags: SAMPLED | REMOTE_KNOWN,
                ..otlp::Span::default()
            })
        };
        let steps: Vec<_> = self.steps.iter().filter_map(step).collect();
        std::iter::once(root).chain(steps).collect()
    }
}

/// OpenTelemetry's kinds of spans.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;

/// OpenTelemetry's flags of spans.
const SAMPLED: u32 = 0x01;
const REMOTE_KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;

fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

fn status(error: &str) -> otlp::SpanStatus {
    otlp::SpanStatus {
        code: if error.is_empty() { 0 } else { 2 },
        message: error.to_owned(),
    }
}

fn attribute(key: &str, value: otlp::any_value::Value) -> otlp::KeyValue {
    otlp::KeyValue {
        key: key.to_owned(),
        value: Some(otlp::AnyValue { value: Some(value) }),
    }
}

fn text(key: &str, value: &str) -> otlp::KeyValue {
    attribute(key, otlp::any_value::Value::StringValue(value.to_owned()))
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
            (hex(&context.trace), hex(&context.parent), context.sampled),
            (trace.into(), span.into(), true)
        );
        for bad in [
            "",
            "00",
            "00-x-y-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
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
            sampled: true,
        };
        let request = |trace: u8| otlp::ExportTraceServiceRequest {
            resource_spans: vec![otlp::ResourceSpans {
                resource: Some(otlp::Resource {
                    attributes: vec![text("service.name", "buildx")],
                    ..Default::default()
                }),
                scope_spans: vec![otlp::ScopeSpans {
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
                    ..Default::default()
                }],
                ..Default::default()
            }],
        };
        let sent: Arc<Mutex<Vec<otlp::ResourceSpans>>> = Arc::default();
        traces.send_on(Collector {
            resource: otlp::Resource {
                attributes: vec![text("service.name", "mine")],
                ..Default::default()
            },
            take: Box::new({
                let sent = Arc::clone(&sent);
                move |spans| sent.lock().unwrap().push(spans)
            }),
        });
        traces.take(request(1));
        let gathering = traces.gather(context);
        assert_eq!(gathering.caller(), None);
        traces.take(request(1));
        traces.take(request(9));
        assert_eq!(gathering.caller().as_deref(), Some("buildx"));
        let other = traces.gather(TraceContext {
            parent: [3; 8],
            ..context
        });
        assert_eq!(other.caller(), None, "another span of the same trace");
        drop(other);
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
        let own = gathering.own(&BuildSpans {
            reference: "r",
            started: SystemTime::UNIX_EPOCH,
            ended: SystemTime::UNIX_EPOCH,
            error: "",
            steps: &[step],
        });
        let blob = gathering.blob(&own);
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
        assert_eq!(spans[0]["Resource"][0]["Value"]["Value"], "mine");
        drop(gathering);
        assert!(traces.lock().is_empty());
        // Also those of traces that no build belongs to.
        let sent: Vec<String> = sent
            .lock()
            .unwrap()
            .iter()
            .flat_map(|one| &one.scope_spans[0].spans)
            .map(|span| span.name.clone())
            .collect();
        assert_eq!(
            sent,
            [
                "build",
                "build",
                "build",
                "moby.buildkit.v1.Control/Solve",
                "RUN x"
            ]
        );
    }
}
