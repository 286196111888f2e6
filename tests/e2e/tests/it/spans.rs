//! Spans of builds on their way to a collector: those of the daemon, and those that clients delegate.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kiln_e2e::OnBed;
use kiln_harness::{Bed, Buildx, Collector, Context, KilndOptions, Seen, Stage, within};

pub(crate) const ALL: &[(&str, OnBed)] = &[
    ("spans/reach_a_collector_over_grpc", |bed| {
        reach_a_collector(bed, "grpc", Collector::grpc)
    }),
    ("spans/reach_a_collector_over_http", |bed| {
        reach_a_collector(bed, "http/protobuf", Collector::http)
    }),
    ("spans/of_a_real_buildkit", of_a_real_buildkit),
    ("spans/the_last_ones_go_out_at_the_end", last_ones),
    ("spans/stay_here_when_told_to", stay_here),
    ("spans/a_collector_that_is_away", collector_that_is_away),
];

const ARRIVE_WITHIN: Duration = Duration::from_secs(20);
const SOLVE: &str = "moby.buildkit.v1.Control/Solve";

fn variables(all: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    all.iter().map(owned).collect()
}

fn options(environment: &[(&str, &str)]) -> KilndOptions {
    KilndOptions {
        environment: variables(environment),
        ..KilndOptions::default()
    }
}

/// Traces of the spans whose names have `words`.
fn traces(seen: &[Seen], words: &str) -> BTreeSet<Vec<u8>> {
    let found = seen.iter().filter(|one| one.span.name.contains(words));
    found.map(|one| one.span.trace_id.to_vec()).collect()
}

/// Builds with a client that hasn't a collector of its own; a step's span and the client's own arrive in one trace.
fn build_is_seen(stage: &Stage<'_>, collector: &Collector) -> Result<()> {
    let context = Context::new("FROM busybox\nRUN echo spa''nned\n")?;
    stage.build(&context, &["--no-cache"])?.succeeds()?;
    let arrived = || {
        let seen = collector.seen();
        // The client's span for its whole command, which it sends last.
        let of_client = traces(&seen, "build");
        let of_step = traces(&seen, "RUN echo spa''nned");
        !of_step.is_empty() && of_step.is_subset(&of_client)
    };
    within("the spans arrive", ARRIVE_WITHIN, arrived).with_context(|| names(collector))
}

fn names(collector: &Collector) -> String {
    let seen = collector.seen();
    let names = seen
        .iter()
        .map(|one| format!("{}: {}", one.service, one.span.name));
    names.collect::<Vec<_>>().join("\n")
}

fn reach_a_collector(bed: &Bed, protocol: &str, url: fn(&Collector) -> String) -> Result<()> {
    let collector = Collector::start()?;
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url(&collector)),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b".to_owned()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "5000".to_owned()),
        ("OTEL_SERVICE_NAME", "builder-in-test".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
    ];
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    bed.on_kilnd(Buildx::New, options(&environment), |stage| {
        build_is_seen(stage, &collector)?;
        let seen = collector.seen();
        let of_daemon: Vec<&Seen> = seen
            .iter()
            .filter(|one| one.service == "builder-in-test")
            .collect();
        let solve = of_daemon.iter().find(|one| one.span.name == SOLVE);
        let solve = solve.with_context(|| names(&collector))?;
        let step = of_daemon
            .iter()
            .find(|one| one.span.name.contains("RUN echo spa''nned"))
            .with_context(|| names(&collector))?;
        ensure!(step.span.parent_span_id == solve.span.span_id, "{step:?}");
        ensure!(
            step.span.start_time_unix_nano >= solve.span.start_time_unix_nano
                && step.span.end_time_unix_nano <= solve.span.end_time_unix_nano,
            "{step:?} {solve:?}"
        );
        // The span under which the client asked is its own, and came from the client.
        let parent = seen
            .iter()
            .find(|one| one.span.span_id == solve.span.parent_span_id);
        let parent = parent.with_context(|| names(&collector))?;
        ensure!(parent.service != "builder-in-test", "{parent:?}");
        ensure!(seen.iter().all(|one| {
            one.headers
                .get("x-tenant")
                .is_some_and(|value| value == "a b")
        }));

        let failing = Context::new("FROM busybox\nRUN echo fai''led; exit 3\n")?;
        stage.build(&failing, &[])?.fails()?;
        within("the failure arrives", ARRIVE_WITHIN, || {
            let seen = collector.seen();
            let mut failed = seen.iter().filter(|one| {
                let status = one.span.status.as_ref();
                status.is_some_and(|status| status.code == 2 && status.message.contains("code: 3"))
            });
            failed.any(|one| one.span.name.contains("RUN echo fai''led"))
        })
    })
}

fn of_a_real_buildkit(bed: &Bed) -> Result<()> {
    let collector = Collector::start()?;
    let url = collector.http();
    let environment = variables(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ]);
    bed.on_moby_with(Buildx::New, &environment, |stage| {
        build_is_seen(stage, &collector)
    })
}

fn last_ones(bed: &Bed) -> Result<()> {
    let collector = Collector::start()?;
    let url = collector.grpc();
    let environment = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
    ];
    bed.on_kilnd(Buildx::New, options(&environment), |stage| {
        let context = Context::new("FROM busybox\nRUN echo la''st\n")?;
        stage.build(&context, &[])?.succeeds()?;
        stage.kilnd()?.stop()?;
        let traces = traces(&collector.seen(), "RUN echo la''st");
        ensure!(traces.len() == 1, "{}", names(&collector));
        Ok(())
    })
}

fn stay_here(bed: &Bed) -> Result<()> {
    let collector = Collector::start()?;
    let url = collector.grpc();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_TRACES_EXPORTER", "none"),
    ];
    bed.on_kilnd(Buildx::New, options(&environment), |stage| {
        let context = Context::new("FROM busybox\nRUN echo quiet\n")?;
        stage.build(&context, &[])?.succeeds()?;
        // What waits to be sent is sent before the daemon ends.
        stage.kilnd()?.stop()?;
        ensure!(collector.seen().is_empty(), "{}", names(&collector));
        Ok(())
    })
}

fn collector_that_is_away(bed: &Bed) -> Result<()> {
    // One takes connections and never answers, the other isn't there.
    let mute = TcpListener::bind("127.0.0.1:0")?;
    let gone = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    for (address, protocol) in [
        (mute.local_addr()?, "grpc"),
        (mute.local_addr()?, "http/protobuf"),
        (gone, "grpc"),
        (gone, "http/protobuf"),
    ] {
        let url = format!("http://{address}");
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_BSP_SCHEDULE_DELAY", "1"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "1"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1"),
        ];
        let tried = bed.on_kilnd(Buildx::New, options(&environment), |stage| {
            let context = Context::new("FROM busybox\nRUN echo undisturbed\n")?;
            for _ in 0..3 {
                stage.build(&context, &[])?.succeeds()?;
            }
            if address == gone {
                let said = || {
                    let log = stage.engine.log_tail();
                    log.matches("spans can't be sent").count()
                };
                within("the log says it", ARRIVE_WITHIN, || said() > 0)?;
                stage.build(&context, &[])?.succeeds()?;
                ensure!(said() == 1, "said {} times", said());
            }
            Ok(())
        });
        tried.with_context(|| format!("{protocol} to {address}"))?;
    }
    Ok(())
}
