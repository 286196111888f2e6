//! From a client's words about a process to numbers.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use kiln_executor::ProcessSpec;
use kiln_proto::pb;
use kiln_sys::rootfs::RootDir;

use crate::{Error, users};

/// Where programs are looked for if the client doesn't say.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a client says of a process.
#[derive(Debug, Clone, Default)]
pub struct Process<'a> {
    /// The program and its arguments.
    pub args: &'a [String],
    /// `NAME=value`, in order.
    pub env: &'a [String],
    /// Proxies, added to the environment.
    pub proxy: Option<&'a pb::ProxyEnv>,
    /// Secrets, added last.
    pub secret_env: Vec<String>,
    /// The working directory; `/` if empty.
    pub cwd: &'a str,
    /// `user`, `user:group`, names or numbers.
    pub user: &'a str,
    /// Give it a terminal.
    pub terminal: bool,
}

impl Process<'_> {
    /// Looks names up in the root and completes the environment.
    pub fn resolve(self, root: &RootDir) -> Result<ProcessSpec, Error> {
        let user = users::lookup(root, self.user)?;
        let mut env = self.env.to_vec();
        env.extend(self.proxy.into_iter().flat_map(proxies));
        add_default(&mut env, "PATH", DEFAULT_PATH);
        if self.terminal {
            add_default(&mut env, "TERM", "xterm");
        }
        env.extend(self.secret_env);
        add_default(&mut env, "HOME", &user.home.to_string_lossy());
        let cwd = if self.cwd.is_empty() {
            Path::new("/")
        } else {
            Path::new(self.cwd)
        };
        Ok(ProcessSpec {
            args: self.args.to_vec(),
            env,
            cwd: PathBuf::from("/").join(cwd),
            uid: user.uid,
            gid: user.gid,
            additional_gids: user.groups,
            terminal: self.terminal,
        })
    }
}

fn add_default(env: &mut Vec<String>, name: &str, value: &str) {
    let is_set = |entry: &String| entry.split_once('=').is_some_and(|(key, _)| key == name);
    if !env.iter().any(is_set) {
        env.push(format!("{name}={value}"));
    }
}

fn proxies(proxy: &pb::ProxyEnv) -> impl Iterator<Item = String> {
    [
        ("HTTP_PROXY", &proxy.http_proxy),
        ("HTTPS_PROXY", &proxy.https_proxy),
        ("FTP_PROXY", &proxy.ftp_proxy),
        ("NO_PROXY", &proxy.no_proxy),
        ("ALL_PROXY", &proxy.all_proxy),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .flat_map(|(name, value)| {
        [
            format!("{name}={value}"),
            format!("{}={value}", name.to_ascii_lowercase()),
        ]
    })
}

/// Names that the client adds to `/etc/hosts`.
pub fn extra_hosts(hosts: &[pb::HostIp]) -> Result<Vec<(String, IpAddr)>, Error> {
    hosts
        .iter()
        .map(|entry| {
            let address = entry
                .ip
                .parse()
                .map_err(|_| Error::Address(entry.ip.clone()))?;
            Ok((entry.host.clone(), address))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_completed_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        let proxy = pb::ProxyEnv {
            http_proxy: "http://p".into(),
            ..pb::ProxyEnv::default()
        };
        let process = Process {
            env: &["A=1".to_owned(), "HOMEPAGE=x".to_owned()],
            proxy: Some(&proxy),
            secret_env: vec!["S=s".into()],
            terminal: true,
            ..Process::default()
        };
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(
            process.resolve(&root).unwrap().env,
            [
                "A=1",
                "HOMEPAGE=x",
                "HTTP_PROXY=http://p",
                "http_proxy=http://p",
                &path,
                "TERM=xterm",
                "S=s",
                "HOME=/"
            ]
        );
        let process = Process {
            env: &["PATH=/x".to_owned(), "HOME=/h".to_owned()],
            cwd: "work",
            user: "5:6",
            ..Process::default()
        };
        let spec = process.resolve(&root).unwrap();
        assert_eq!(spec.env, ["PATH=/x", "HOME=/h"]);
        assert_eq!(
            (spec.cwd.as_path(), spec.uid, spec.gid),
            (Path::new("/work"), 5, 6)
        );
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let host = |ip: &str| pb::HostIp {
            host: "h".into(),
            ip: ip.into(),
        };
        assert_eq!(
            extra_hosts(&[host("::1")]).unwrap(),
            [("h".to_owned(), "::1".parse().unwrap())]
        );
        let error = extra_hosts(&[host("host-gateway")]).unwrap_err();
        assert_eq!(error.to_string(), "failed to parse IP host-gateway");
    }
}
