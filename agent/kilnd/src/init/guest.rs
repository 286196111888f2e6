//! The daemon of a guest, from its first line to the last.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser as _;
use kiln_agent_api::Place;
use kiln_link::Link;
use kiln_link::machine::{Report, Setup};
use tokio::sync::{mpsc, watch};

use super::disk::DiskError;
use super::link::{self, Ends};
use super::{
    add_on, base_image, disk, last_words, modules, mounts, network, offer, power_button, system,
};
use crate::machine::Surroundings;
use crate::settings::{NetworkMode, Settings, StepSettings};
use crate::{args, compose, listen, logging, serve};

/// As many streams as the link has.
const STREAMS: usize = 256;
/// How long a host is given to hear why.
const HEARING: Duration = Duration::from_secs(10);

type Reports = watch::Sender<Report>;

/// Runs until the machine shall be turned off. What goes wrong is the last line on the console.
pub(super) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            last_words(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let began = Instant::now();
    logging::start_guest()?;
    let mut warnings = modules::load(modules::EARLY)?;
    network::loopback().context("the loopback interface")?;
    let port = link::port().with_context(|| warnings.join("; "))?;
    tracing::info!(
        milliseconds = began.elapsed().as_millis() as u64,
        "waiting for a host"
    );
    // Fails only if somebody has installed one already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(crate::threads())
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let (reports, told) = watch::channel(starting("boot"));
        let (setups, mut first_setup) = mpsc::channel(1);
        let (streams, clients) = mpsc::channel(STREAMS);
        let (link, links) = watch::channel(None);
        let ends = Ends {
            setups,
            reports: told,
            link,
            streams,
        };
        let link = tokio::spawn(link::serve(port, ends));
        let setup = first_setup.recv().await.context("the link broke off")?;
        // Later ones only set the clock; nobody takes them.
        drop(first_setup);
        let served = live(&setup, &reports, clients, &links, &mut warnings).await;
        let served = served.map_err(disk::blame);
        if let Err(error) = &served {
            fail(error, &reports).await;
        }
        link.abort();
        served
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

fn starting(step: &str) -> Report {
    tracing::info!(step, "starting");
    Report::Starting {
        step: step.to_owned(),
    }
}

async fn live(
    setup: &Setup,
    reports: &Reports,
    clients: mpsc::Receiver<link::LinkStream>,
    links: &watch::Receiver<Option<Link>>,
    warnings: &mut Vec<String>,
) -> anyhow::Result<()> {
    reports.send_replace(starting("system"));
    system::configure(setup)?;
    reports.send_replace(starting("disk"));
    let repair = setup.repair_disk;
    let (disk, others) = tokio::join!(
        tokio::task::spawn_blocking(move || disk::attach(repair)),
        tokio::task::spawn_blocking(|| modules::load(modules::LATE)),
    );
    warnings.extend(disk??);
    warnings.extend(others??);
    warnings.extend(tokio::task::spawn_blocking(add_on::attach).await?);
    reports.send_replace(starting("network"));
    if !setup.network.address.is_empty()
        && let Err(error) = network::configure(&setup.network)
    {
        // Builds that need none go on.
        warnings.push(format!("{error:#}"));
    }
    reports.send_replace(starting("engine"));
    let signals = serve::StopSignals::catch()?;
    let settings = settings(setup)?;
    let surroundings = Surroundings::new(Place::Guest);
    power_button::watch(&surroundings.stop);
    let mut listeners = listen::bind_all(&settings)?;
    listeners.push(listen::Listener::Link(clients));
    let daemon = compose::compose(&settings, surroundings.clone()).await?;
    match &daemon.bridge {
        Some(bridge) => {
            if let Err(error) = offer::begin(bridge, links).await {
                warnings.push(format!("{error:#}"));
            }
        }
        None if !setup.forward.is_empty() => warnings.push(
            "allow rules have no effect: worker.oci.networkMode gives steps another network".into(),
        ),
        None => {}
    }
    if let Err(error) = base_image::load(&daemon.state, daemon.engine.content()).await {
        warnings.push(format!("{error:#}"));
    }
    for warning in warnings.iter() {
        tracing::warn!("{warning}");
    }
    surroundings.warnings.lock().clone_from(warnings);
    reports.send_replace(Report::Ready {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        warnings: warnings.clone(),
    });
    let stopping = {
        let (stop, reports) = (surroundings.stop.clone(), reports.clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            reports.send_replace(Report::Stopping);
        })
    };
    let served = serve::until_stopped(daemon, listeners, signals).await;
    stopping.abort();
    served
}

fn settings(setup: &Setup) -> anyhow::Result<Settings> {
    let config = kiln_config::parse(
        &setup.buildkitd_toml,
        std::path::Path::new("buildkitd.toml"),
    )?;
    let mut args = args::Args::parse_from(["kilnd"]);
    args.root = Some(mounts::STATE.into());
    args.debug = setup.debug.then_some(true);
    let mut settings = Settings::resolve(args, config)?;
    if settings.network == NetworkMode::Auto {
        settings.network = NetworkMode::Bridge;
    }
    settings.steps = StepSettings {
        rules: network::rules(setup)?,
        host_name: (!setup.forward.is_empty()).then(|| offer::HOST.to_owned()),
        proxies: system::proxies(setup),
        certificates: (!setup.certificates.is_empty()).then(|| system::CERTIFICATES.into()),
    };
    Ok(settings)
}

/// Tells the host, and waits a while for it to hear.
async fn fail(error: &anyhow::Error, reports: &Reports) {
    let hint = error
        .downcast_ref::<DiskError>()
        .map_or("", DiskError::hint);
    reports.send_replace(Report::Failed {
        reason: format!("{error:#}"),
        hint: hint.to_owned(),
    });
    // A host that has heard enough turns the machine off, or closes the link.
    tokio::time::sleep(HEARING).await;
}
