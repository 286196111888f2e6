//! What the daemon runs with: the command line over the configuration file over the defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use kiln_config::{BuildkitdConfig, DiskSpace, load_file};
use kiln_engine::{Entitlement, Entitlements};

use crate::args::Args;

const CONFIG: &str = "/etc/buildkit/buildkitd.toml";
const ROOT: &str = "/var/lib/kiln";
const ADDRESS: &str = "unix:///run/buildkit/buildkitd.sock";

/// Where to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A host and a port.
    Tcp(String),
    /// Sockets that were handed over by who started the daemon.
    Inherited,
}

/// TLS for `tcp://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
}

/// What the network of steps is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetworkMode {
    /// The host's; in a guest a bridge.
    Auto,
    /// The host's.
    Host,
    /// One of their own each, behind a bridge.
    Bridge,
    /// None.
    None,
}

/// What the machine gives to every step beside its network.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepSettings {
    /// What they may do on a bridge.
    pub(crate) rules: kiln_network::Rules,
    /// What they call the machine on a bridge.
    pub(crate) host_name: Option<String>,
    /// Proxies, by the names of their variables.
    pub(crate) proxies: Vec<(String, String)>,
    /// Certificates to trust: the public ones and more.
    pub(crate) certificates: Option<PathBuf>,
}

/// Garbage collection's limits from flags and configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct GcSettings {
    pub(crate) enabled: bool,
    pub(crate) reserved_space: Option<DiskSpace>,
    pub(crate) max_used_space: Option<DiskSpace>,
    pub(crate) min_free_space: Option<DiskSpace>,
}

/// Everything the daemon is told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) root: PathBuf,
    pub(crate) addresses: Vec<Address>,
    pub(crate) socket_uid: Option<u32>,
    pub(crate) socket_group: Option<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) debug: bool,
    pub(crate) trace: bool,
    pub(crate) json_log: bool,
    pub(crate) entitlements: Entitlements,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) platforms: Vec<String>,
    pub(crate) network: NetworkMode,
    pub(crate) steps: StepSettings,
    pub(crate) runtime: Option<String>,
    pub(crate) max_parallelism: Option<usize>,
    pub(crate) gc: GcSettings,
    pub(crate) config: BuildkitdConfig,
}

impl Settings {
    /// Reads the configuration and joins it with the command line.
    pub(crate) fn load(args: Args) -> anyhow::Result<Self> {
        let (path, required) = match &args.config {
            Some(path) => (path.as_path(), true),
            None => (Path::new(CONFIG), false),
        };
        let config = load_file(path, required)?;
        Self::resolve(args, config)
    }

    /// Pure: what is asked for, or why it can't be.
    pub(crate) fn resolve(args: Args, config: BuildkitdConfig) -> anyhow::Result<Self> {
        refuse_unserved(&args, &config)?;
        let worker = &config.worker.oci;
        let addresses = pick(args.addr, config.grpc.address.clone(), || {
            vec![ADDRESS.to_owned()]
        })
        .iter()
        .map(|text| parse_address(text))
        .collect::<anyhow::Result<Vec<_>>>()?;
        let tls = tls(
            args.tlscert.or_else(|| config.grpc.tls.cert.clone()),
            args.tlskey.or_else(|| config.grpc.tls.key.clone()),
            args.tlscacert.or_else(|| config.grpc.tls.ca.clone()),
        )?;
        if tls.is_none() && !args.insecure_tcp {
            for address in &addresses {
                if let Address::Tcp(address) = address {
                    bail!(
                        "refusing tcp://{address} without TLS: give --tlscert, --tlskey and --tlscacert, or --insecure-tcp if everybody who can connect may be root here"
                    );
                }
            }
        }
        let mut labels = worker.labels.clone();
        for label in &args.oci_worker_labels {
            let (name, value) = label
                .split_once('=')
                .with_context(|| format!("--oci-worker-labels {label:?}: NAME=VALUE is wanted"))?;
            labels.insert(name.to_owned(), value.to_owned());
        }
        let entitlements = pick(
            args.allow_insecure_entitlement,
            config.insecure_entitlements.clone(),
            Vec::new,
        )
        .iter()
        .map(|text| text.parse::<Entitlement>())
        .collect::<Result<_, _>>()?;
        let size = |flag: Option<String>, key: Option<DiskSpace>| -> anyhow::Result<_> {
            Ok(flag.map(|text| text.parse()).transpose()?.or(key))
        };
        // The old flag counts megabytes.
        let keep = args.oci_worker_gc_keepstorage.map(|text| {
            if text.bytes().all(|c| c.is_ascii_digit()) {
                format!("{text}MB")
            } else {
                text
            }
        });
        let gc = GcSettings {
            enabled: args.oci_worker_gc.or(worker.gc).unwrap_or(true),
            reserved_space: size(
                args.oci_worker_gc_reserved_space.or(keep),
                worker.reserved_space.or(worker.gc_keep_storage),
            )?,
            max_used_space: size(args.oci_worker_gc_max_used_space, worker.max_used_space)?,
            min_free_space: size(args.oci_worker_gc_min_free_space, worker.min_free_space)?,
        };
        let format = args.log_format.or_else(|| config.log.format.clone());
        let json_log = match format.as_deref() {
            None | Some("" | "text") => false,
            Some("json") => true,
            Some(other) => bail!("log format {other:?}: text or json is wanted"),
        };
        let network = network(
            args.oci_worker_net
                .as_deref()
                .or(worker.network_mode.as_deref()),
        )?;
        Ok(Self {
            root: args
                .root
                .or_else(|| config.root.clone())
                .unwrap_or_else(|| ROOT.into()),
            addresses,
            socket_uid: config.grpc.uid,
            socket_group: args
                .group
                .or_else(|| config.grpc.gid.map(|gid| gid.to_string())),
            tls,
            debug: args.debug.unwrap_or(config.debug),
            trace: args.trace.unwrap_or(config.trace),
            json_log,
            entitlements,
            labels,
            platforms: pick(args.oci_worker_platform, worker.platforms.clone(), Vec::new),
            network,
            steps: StepSettings::default(),
            runtime: args.oci_worker_binary.or_else(|| worker.binary.clone()),
            max_parallelism: args
                .oci_max_parallelism
                .or((worker.max_parallelism > 0).then_some(worker.max_parallelism)),
            gc,
            config,
        })
    }
}

fn pick<T>(flags: Vec<T>, keys: Vec<T>, default: impl FnOnce() -> Vec<T>) -> Vec<T> {
    if !flags.is_empty() {
        flags
    } else if !keys.is_empty() {
        keys
    } else {
        default()
    }
}

/// What is known, and would be a lie to accept.
fn refuse_unserved(args: &Args, config: &BuildkitdConfig) -> anyhow::Result<()> {
    let on = |text: &Option<String>| text.as_deref().is_some_and(|text| text == "true");
    if on(&args.containerd_worker) || config.worker.containerd.enabled == Some(true) {
        bail!(
            "there is no containerd worker: leave --containerd-worker and worker.containerd.enabled off"
        );
    }
    if args
        .oci_worker
        .as_deref()
        .is_some_and(|text| text == "false")
        || config.worker.oci.enabled == Some(false)
    {
        bail!("the OCI worker is the only one: it can't be turned off");
    }
    let snapshotter =
        args.oci_worker_snapshotter
            .as_deref()
            .or(config.worker.oci.snapshotter.as_deref());
    if let Some(name) = snapshotter
        && !matches!(name, "" | "auto" | "overlayfs")
    {
        bail!("snapshotter {name:?} is not available: overlayfs or auto is wanted");
    }
    if args
        .oci_worker_rootless
        .unwrap_or(config.worker.oci.rootless)
    {
        bail!("rootless mode is not available yet");
    }
    Ok(())
}

fn network(mode: Option<&str>) -> anyhow::Result<NetworkMode> {
    Ok(match mode {
        None | Some("" | "auto") => NetworkMode::Auto,
        Some("host") => NetworkMode::Host,
        Some("bridge") => NetworkMode::Bridge,
        Some("none") => NetworkMode::None,
        Some("cni") => {
            bail!("network mode \"cni\" is not available: auto, host, bridge or none is wanted")
        }
        Some(other) => {
            bail!("unknown network mode {other:?}: auto, host, bridge or none is wanted")
        }
    })
}

fn tls(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> anyhow::Result<Option<Tls>> {
    match (cert, key, client_ca) {
        (None, None, None) => Ok(None),
        (Some(cert), Some(key), client_ca) => Ok(Some(Tls {
            cert,
            key,
            client_ca,
        })),
        _ => bail!("TLS needs a certificate and a key: --tlscert and --tlskey go together"),
    }
}

fn parse_address(text: &str) -> anyhow::Result<Address> {
    match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
        Some(("tcp", address)) if !address.is_empty() => Ok(Address::Tcp(address.to_owned())),
        Some(("fd", _)) => Ok(Address::Inherited),
        _ => bail!("address {text:?}: unix:///PATH, tcp://HOST:PORT or fd:// is wanted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn resolve(args: &[&str], config: &str) -> anyhow::Result<Settings> {
        let args = Args::parse_from(std::iter::once("kilnd").chain(args.iter().copied()));
        let config = kiln_config::parse(config, Path::new("buildkitd.toml"))?;
        Settings::resolve(args, config)
    }

    #[test]
    fn flags_win_over_keys_and_keys_over_defaults() {
        let settings = resolve(&[], "").expect("defaults");
        assert_eq!(settings.root, Path::new(ROOT));
        assert!(settings.gc.enabled);
        assert_eq!(settings.addresses.len(), 1);

        let config = "root = \"/a\"\ninsecure-entitlements = [\"network.host\"]\n[worker.oci]\nmax-parallelism = 3\ngc = false\n";
        let settings = resolve(&[], config).expect("keys");
        assert_eq!(settings.root, Path::new("/a"));
        assert_eq!(settings.max_parallelism, Some(3));
        assert!(!settings.gc.enabled);
        assert_eq!(
            settings.entitlements,
            [Entitlement::NetworkHost].into_iter().collect()
        );

        let settings = resolve(
            &["--root=/b", "--oci-max-parallelism=5", "--oci-worker-gc"],
            config,
        )
        .expect("flags");
        assert_eq!(settings.root, Path::new("/b"));
        assert_eq!(settings.max_parallelism, Some(5));
        assert!(settings.gc.enabled);
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        for (args, config, words) in [
            (&["--addr=tcp://0.0.0.0:1"][..], "", "without TLS"),
            (&["--addr=udp://x"], "", "udp://x"),
            (&["--containerd-worker=true"], "", "containerd"),
            (&["--oci-worker-snapshotter=zfs"], "", "zfs"),
            (&["--oci-worker-net=token"], "", "token"),
            (&["--tlscert=/c"], "", "--tlskey"),
            (&["--allow-insecure-entitlement=all"], "", "all"),
            (&["--oci-worker-labels=x"], "", "NAME=VALUE"),
            (&["--log-format=xml"], "", "xml"),
            (&[], "[worker.oci]\nrootless = true\n", "rootless"),
        ] {
            let error = resolve(args, config).expect_err(words);
            assert!(format!("{error:#}").contains(words), "{error:#}");
        }
        assert!(resolve(&["--addr=tcp://0.0.0.0:1", "--insecure-tcp"], "").is_ok());
    }
}
