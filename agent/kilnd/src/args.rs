//! The command line: buildkitd's flags by their names, and a few of Kiln's.

use std::path::PathBuf;

use clap::Parser;

const EXAMPLES: &str = "\
Examples:
  kilnd
      serve on unix:///run/buildkit/buildkitd.sock, keep state in /var/lib/kiln
  kilnd --root /srv/kiln --addr unix:///srv/kiln/buildkitd.sock
      then: docker buildx create --name kiln --driver remote unix:///srv/kiln/buildkitd.sock
  kilnd --addr tcp://0.0.0.0:1234 --tlscert cert.pem --tlskey key.pem --tlscacert ca.pem
      serve clients that have a certificate
  OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 kilnd
      send spans of builds, and those of clients, on to an OpenTelemetry collector
  kilnd --allow-insecure-entitlement network.host
      let builds that say `--allow network.host` use the host's network";

/// `--flag`, `--flag=true` and `--flag=false`, as Go's flags have it.
macro_rules! switch {
    () => {
        "true"
    };
}

/// Builds container images: a drop-in for buildkitd.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "kilnd", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say more
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!())]
    pub debug: Option<bool>,
    /// Say everything
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!())]
    pub trace: Option<bool>,
    /// Form of log lines: text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Directory for the state
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Address to serve on (unix://, tcp://, fd://); may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub addr: Vec<String>,
    /// Group that may use the unix socket, by name or number
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Accepted for buildkitd's sake; there is no debug server
    #[arg(long, value_name = "ADDRESS")]
    pub debugaddr: Option<String>,
    /// Certificate of the server (PEM)
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Key of the server (PEM)
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// Authority that clients' certificates must come from (PEM)
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// Serve tcp:// without TLS: anybody who can connect is root on this machine
    #[arg(long)]
    pub insecure_tcp: bool,
    /// Entitlement that clients may ask for (network.host, security.insecure, device); may be repeated
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub allow_insecure_entitlement: Vec<String>,
    /// Socket for OpenTelemetry inside of build containers; accepted, and not served yet
    #[arg(long, value_name = "FILE")]
    pub otel_socket_path: Option<PathBuf>,
    /// Accepted for buildkitd's sake; there is one worker
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!(), value_name = "BOOL|auto")]
    pub oci_worker: Option<String>,
    /// Accepted for buildkitd's sake where it is false
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!(), value_name = "BOOL|auto")]
    pub containerd_worker: Option<String>,
    /// Label of the worker, NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',')]
    pub oci_worker_labels: Vec<String>,
    /// Snapshotter: overlayfs or auto
    #[arg(long, value_name = "NAME")]
    pub oci_worker_snapshotter: Option<String>,
    /// Platform that the worker runs, instead of what it finds; may be repeated
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub oci_worker_platform: Vec<String>,
    /// Network of steps: auto, host, bridge (one of its own for each) or none
    #[arg(long, value_name = "MODE")]
    pub oci_worker_net: Option<String>,
    /// CNI configuration; a missing file falls back to the host's network where the mode is auto
    #[arg(long, value_name = "FILE")]
    pub oci_cni_config_path: Option<PathBuf>,
    /// Directory of CNI plugins
    #[arg(long, value_name = "DIR")]
    pub oci_cni_binary_dir: Option<PathBuf>,
    /// External runtime (runc) instead of the built-in one
    #[arg(long, value_name = "NAME")]
    pub oci_worker_binary: Option<String>,
    /// Work without root
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!())]
    pub oci_worker_rootless: Option<bool>,
    /// Collect garbage by itself
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!())]
    pub oci_worker_gc: Option<bool>,
    /// Old name of --oci-worker-gc-reserved-space
    #[arg(long, value_name = "MB")]
    pub oci_worker_gc_keepstorage: Option<String>,
    /// Space that garbage collection always leaves to the cache
    #[arg(long, value_name = "SIZE")]
    pub oci_worker_gc_reserved_space: Option<String>,
    /// Space that the cache never exceeds for long
    #[arg(long, value_name = "SIZE")]
    pub oci_worker_gc_max_used_space: Option<String>,
    /// Free space of the disk that garbage collection aims at
    #[arg(long, value_name = "SIZE")]
    pub oci_worker_gc_min_free_space: Option<String>,
    /// How many steps run at once
    #[arg(long, value_name = "N")]
    pub oci_max_parallelism: Option<usize>,
    /// Accepted for buildkitd's sake: AppArmor profiles aren't applied
    #[arg(long, value_name = "NAME")]
    pub oci_worker_apparmor_profile: Option<String>,
    /// Accepted for buildkitd's sake where it is false
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!())]
    pub oci_worker_selinux: Option<bool>,
    /// Accepted for buildkitd's sake where it is false
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!())]
    pub oci_worker_no_process_sandbox: Option<bool>,
    /// Turn CDI devices off
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = switch!())]
    pub cdi_disabled: Option<bool>,
    /// Directory of CDI specifications; may be repeated
    #[arg(long, value_name = "DIR")]
    pub cdi_spec_dir: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_that_test_suites_use() {
        let args = Args::parse_from([
            "kilnd",
            "--oci-worker=true",
            "--containerd-worker=false",
            "--oci-worker-gc=false",
            "--oci-worker-labels=org.example=a",
            "--config=/etc/x.toml",
            "--root",
            "/r",
            "--addr",
            "unix:///s",
            "--addr=tcp://127.0.0.1:1",
            "--debug",
        ]);
        assert_eq!(args.oci_worker_gc, Some(false));
        assert_eq!(args.debug, Some(true));
        assert_eq!(args.addr, ["unix:///s", "tcp://127.0.0.1:1"]);
        assert_eq!(args.oci_worker_labels, ["org.example=a"]);
        assert_eq!(args.containerd_worker.as_deref(), Some("false"));
    }

    #[test]
    fn the_command_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }
}
