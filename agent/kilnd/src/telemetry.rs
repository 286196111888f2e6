//! The way of spans to a collector, where the environment names one.

use kiln_history::Traces;
use kiln_history::trace::Collector;
use kiln_telemetry::{Courier, Settings};

/// Sends what comes to `traces` on. Gives what has to run for it.
pub(crate) fn send_on(traces: &Traces) -> anyhow::Result<Option<Courier>> {
    let Some(settings) = Settings::from_variables(|name| std::env::var(name).ok())? else {
        return Ok(None);
    };
    let (spans, courier) = kiln_telemetry::open(&settings)?;
    tracing::info!(endpoint = settings.endpoint, "spans are sent on");
    traces.send_on(Collector {
        resource: settings.resource,
        take: Box::new(move |all| spans.offer(all)),
    });
    Ok(Some(courier))
}
