//! What steps run with: the executor, the mounts, the network, the output that clients see.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use kiln_cache::CacheManager;
use kiln_executor::{Executor, RuncConfig, RuncExecutor, SlotConfig, SlotExecutor};
use kiln_mounts::Mounts;
use kiln_mounts::hosts::{Dns, HostFiles};
use kiln_network::{Bridge, BridgeConfig, DEFAULT_BRIDGE, DEFAULT_SUBNET};
use kiln_ops::{ExecRunner, LogLimits, StepNetwork, Surroundings};
use kiln_session::SessionManager;

use crate::settings::{NetworkMode, Settings};

/// Slots that wait for the next steps; each takes about a megabyte.
const IDLE_SLOTS: usize = 8;

/// Networks that wait for the next steps.
const IDLE_NETWORKS: usize = 16;
/// Networks that are made before there are steps.
const FIRST_NETWORKS: usize = 2;

/// The runtime where nobody names one.
const RUNTIME: &str = "runc";

/// Everything that exec ops need.
pub(crate) fn runner(
    settings: &Settings,
    cache: &CacheManager,
    sessions: &SessionManager,
) -> anyhow::Result<ExecRunner> {
    let scratch = settings.root.join("tmp/mounts");
    clear(&scratch)?;
    let worker = &settings.config.worker.oci;
    let cgroup_parent = worker.default_cgroup_parent.clone().unwrap_or_default();
    let root = settings.root.join("executor");
    // Without rights over cgroups, or if somebody asks for it, an external runtime does it.
    let executor: Arc<dyn Executor> = if settings.runtime.is_some() || worker.rootless {
        Arc::new(RuncExecutor::new(RuncConfig {
            binary: settings.runtime.as_deref().unwrap_or(RUNTIME).into(),
            root,
            cgroup_parent: cgroup_parent.clone(),
            rootless: worker.rootless,
        })?)
    } else {
        Arc::new(SlotExecutor::new(SlotConfig {
            program: "/proc/self/exe".into(),
            root,
            cgroup_parent: cgroup_parent.clone(),
            idle: IDLE_SLOTS,
        })?)
    };
    Ok(ExecRunner {
        executor,
        mounts: Arc::new(Mounts::new(cache.clone(), sessions.clone(), scratch)?),
        cache: cache.clone(),
        hosts: HostFiles::new(settings.root.join("tmp/hosts"), dns(settings)?)?,
        surroundings: surroundings(settings)?,
        cgroup_parent,
        limits: std::collections::BTreeMap::new(),
        logs: LogLimits::from_variables(|name| std::env::var(name).ok()),
    })
}

fn surroundings(settings: &Settings) -> anyhow::Result<Surroundings> {
    let steps = &settings.steps;
    let network = match settings.network {
        NetworkMode::Auto | NetworkMode::Host => StepNetwork::Host,
        NetworkMode::None => StepNetwork::None,
        NetworkMode::Bridge => StepNetwork::Bridge(bridge(settings)?),
    };
    let names = match (&network, &steps.host_name) {
        (StepNetwork::Bridge(bridge), Some(name)) => {
            vec![(name.clone(), bridge.gateway().into())]
        }
        _ => Vec::new(),
    };
    Ok(Surroundings {
        network,
        names,
        proxies: steps.proxies.clone(),
        certificates: steps.certificates.clone(),
    })
}

fn bridge(settings: &Settings) -> anyhow::Result<Arc<Bridge>> {
    let worker = &settings.config.worker.oci;
    let named = |key: &Option<String>, default: &str| {
        let given = key.as_deref().filter(|text| !text.is_empty());
        given.unwrap_or(default).to_owned()
    };
    let bridge = Bridge::open(BridgeConfig {
        name: named(&worker.bridge_name, DEFAULT_BRIDGE),
        subnet: named(&worker.bridge_subnet, DEFAULT_SUBNET).parse()?,
        idle: match worker.cni_pool_size {
            0 => IDLE_NETWORKS,
            size => size,
        },
        rules: settings.steps.rules.clone(),
    })?;
    let ahead = Arc::clone(&bridge);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = ahead.warm(FIRST_NETWORKS) {
            tracing::warn!(%error, "no network for steps yet");
        }
    });
    Ok(bridge)
}

/// Unmounts what an earlier daemon left mounted.
fn clear(scratch: &PathBuf) -> anyhow::Result<()> {
    std::fs::create_dir_all(scratch).with_context(|| format!("creating {}", scratch.display()))?;
    let scratch = scratch.canonicalize()?;
    kiln_sys::mount::unmount_below(&scratch)?;
    for entry in std::fs::read_dir(&scratch)?.flatten() {
        // Only mount points and sockets are here; what can't be removed was not ours.
        if std::fs::remove_dir(entry.path()).is_err() {
            tracing::debug!(path = ?entry.path(), "an earlier daemon's scratch file stays");
        }
    }
    Ok(())
}

fn dns(settings: &Settings) -> anyhow::Result<Dns> {
    let Some(dns) = &settings.config.dns else {
        return Ok(Dns::default());
    };
    let nameservers = dns
        .nameservers
        .iter()
        .map(|server| {
            server
                .parse()
                .with_context(|| format!("[dns] nameservers: {server:?}"))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(Dns {
        nameservers,
        search: dns.search_domains.clone(),
        options: dns.options.clone(),
    })
}
