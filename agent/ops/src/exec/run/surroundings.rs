//! What every step gets of the machine that it runs on: a network, names, proxies, certificates.
//!
//! Nothing of it is part of a cache key, and nothing of it stays in a layer: the certificates are below `/dev`, which is
//! the container's own. What the client says goes first.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_executor::{ContainerMount, Network};
use kiln_network::{Bridge, Lease, NetworkError};
use kiln_proto::pb::{self, NetMode};
use kiln_sys::mount::{MountSpec, Mountable};

/// Where steps find the certificates.
const CERTIFICATES: &str = "/dev/kiln-certificates.pem";

/// What programs look at to find them.
const CERTIFICATE_VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
];

/// The network of steps that don't ask for one.
#[derive(Debug, Clone, Default)]
pub enum StepNetwork {
    /// The daemon's own.
    #[default]
    Host,
    /// None.
    None,
    /// A namespace of its own behind this.
    Bridge(Arc<Bridge>),
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The network.
    pub network: StepNetwork,
    /// Names for `/etc/hosts` of steps that have a network.
    pub names: Vec<(String, IpAddr)>,
    /// `http_proxy` and the like, by their names in upper case.
    pub proxies: Vec<(String, String)>,
    /// Certificates to trust: the public ones and more.
    pub certificates: Option<PathBuf>,
}

impl Surroundings {
    /// The network for a step. The lease is given back when the step has ended. May block.
    pub(super) fn network(&self, mode: NetMode) -> Result<(Network, Option<Lease>), NetworkError> {
        Ok(match (mode, &self.network) {
            (NetMode::Host, _) | (NetMode::Unset, StepNetwork::Host) => (Network::Host, None),
            (NetMode::None, _) | (NetMode::Unset, StepNetwork::None) => (Network::None, None),
            (NetMode::Unset, StepNetwork::Bridge(bridge)) => {
                let lease = bridge.take()?;
                (Network::Namespace(lease.path()), Some(lease))
            }
        })
    }

    /// Completes the environment.
    pub(super) fn environment(&self, meta: &pb::Meta, env: &mut Vec<String>) {
        let is_set = |env: &[String], name: &str| {
            let keys = env.iter().filter_map(|entry| entry.split_once('='));
            keys.into_iter()
                .any(|(key, _)| key.eq_ignore_ascii_case(name))
        };
        // Proxies of the client and of the machine belong together each.
        if meta.proxy_env.is_none() {
            for (name, value) in &self.proxies {
                if !is_set(env, name) {
                    env.push(format!("{name}={value}"));
                    env.push(format!("{}={value}", name.to_ascii_lowercase()));
                }
            }
        }
        if self.certificates.is_some() {
            for name in CERTIFICATE_VARIABLES {
                if !is_set(env, name) {
                    env.push(format!("{name}={CERTIFICATES}"));
                }
            }
        }
    }

    /// Mounts that leave nothing behind.
    pub(super) fn mounts(&self) -> impl Iterator<Item = ContainerMount> + use<> {
        self.certificates
            .clone()
            .into_iter()
            .map(|file| ContainerMount {
                target: CERTIFICATES.into(),
                source: Mountable::new(vec![MountSpec::bind(file, true)], ()),
                subpath: PathBuf::new(),
                readonly: true,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_says_goes_first() {
        let surroundings = Surroundings {
            proxies: vec![
                ("HTTP_PROXY".into(), "http://p:1".into()),
                ("NO_PROXY".into(), "a".into()),
            ],
            certificates: Some("/certificates".into()),
            ..Surroundings::default()
        };
        let check = |proxy: Option<pb::ProxyEnv>, env: &[&str], expected: &[&str]| {
            let mut env: Vec<String> = env.iter().map(ToString::to_string).collect();
            let meta = pb::Meta {
                proxy_env: proxy,
                ..pb::Meta::default()
            };
            surroundings.environment(&meta, &mut env);
            env.retain(|entry| !entry.ends_with(CERTIFICATES));
            assert_eq!(env, expected);
        };
        let ours = ["HTTP_PROXY=http://p:1", "http_proxy=http://p:1"];
        check(
            None,
            &[],
            &[&ours[..], &["NO_PROXY=a", "no_proxy=a"]].concat(),
        );
        check(
            None,
            &["no_proxy=b"],
            &[&["no_proxy=b"], &ours[..]].concat(),
        );
        check(Some(pb::ProxyEnv::default()), &[], &[]);
        let mut env = vec!["SSL_CERT_FILE=/mine".to_owned()];
        surroundings.environment(&pb::Meta::default(), &mut env);
        let of_openssl = env
            .iter()
            .filter(|entry| entry.starts_with("SSL_CERT_FILE="));
        assert_eq!(of_openssl.count(), 1);
        assert!(env.contains(&format!("CURL_CA_BUNDLE={CERTIFICATES}")));
        assert_eq!(surroundings.mounts().count(), 1);
    }
}
