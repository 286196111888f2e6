//! The files that name hosts inside a container: `/etc/hosts` and `/etc/resolv.conf`.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// What containers are called where the client doesn't say.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// Asked where the host's own servers can't be reached from a container.
const FALLBACK: [&str; 4] = [
    "8.8.8.8",
    "8.8.4.4",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
];

/// How names are resolved, as the daemon's configuration has it. What is empty is the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of servers.
    pub nameservers: Vec<IpAddr>,
    /// Domains to try.
    pub search: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

/// Makes the files, and keeps them in a directory of its own by their content: a file that a
/// container has is never changed.
#[derive(Debug, Clone)]
pub struct HostFiles {
    directory: PathBuf,
    dns: Dns,
}

impl HostFiles {
    /// Keeps files in `directory`, which is made.
    pub fn new(directory: PathBuf, dns: Dns) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        Ok(Self { directory, dns })
    }

    /// `/etc/hosts` for a container, with names the client added.
    pub fn hosts(&self, hostname: &str, extra: &[(String, IpAddr)]) -> io::Result<PathBuf> {
        self.keep("hosts", &hosts(hostname, extra))
    }

    /// `/etc/resolv.conf`; `host_network` tells that the container can reach the host's loopback.
    pub fn resolv_conf(&self, host_network: bool) -> io::Result<PathBuf> {
        let mut text = read_or_empty(Path::new("/etc/resolv.conf"))?;
        // The stub of systemd-resolved listens on the host's loopback only.
        if !host_network
            && Resolver::parse(&text).nameservers == [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53))]
        {
            text = read_or_empty(Path::new("/run/systemd/resolve/resolv.conf"))?;
        }
        self.keep("resolv", &resolver(&text, &self.dns, host_network))
    }

    fn keep(&self, kind: &str, text: &str) -> io::Result<PathBuf> {
        let digest = hex(&Sha256::digest(text.as_bytes())[..8]);
        let path = self.directory.join(format!("{kind}-{digest}"));
        if !path.exists() {
            use std::io::Write as _;
            let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
            file.write_all(text.as_bytes())?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            file.as_file().set_permissions(mode)?;
            file.persist(&path)?;
        }
        Ok(path)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a string can't fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn read_or_empty(path: &Path) -> io::Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(e),
    }
}

fn hosts(hostname: &str, extra: &[(String, IpAddr)]) -> String {
    let hostname = if hostname.is_empty() {
        DEFAULT_HOSTNAME
    } else {
        hostname
    };
    let mut out =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        let _ = writeln!(out, "{address}\t{name}");
    }
    out
}

#[derive(Debug, Default)]
struct Resolver {
    nameservers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
    other: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // An address may name an interface, which a container doesn't have.
                    let address: Option<IpAddr> =
                        words.next().and_then(|a| a.split('%').next()?.parse().ok());
                    out.nameservers.extend(address);
                }
                Some("search" | "domain") => out.search = words.map(str::to_owned).collect(),
                Some("options") => out.options.extend(words.map(str::to_owned)),
                _ => out.other.push(line.to_owned()),
            }
        }
        out
    }
}

fn resolver(host: &str, dns: &Dns, host_network: bool) -> String {
    let mut conf = Resolver::parse(host);
    let overridden = !dns.nameservers.is_empty();
    if overridden {
        conf.nameservers.clone_from(&dns.nameservers);
    }
    if !dns.search.is_empty() {
        conf.search.clone_from(&dns.search);
    }
    if !dns.options.is_empty() {
        conf.options.clone_from(&dns.options);
    }
    if !overridden && (!host_network || conf.nameservers.is_empty()) {
        conf.nameservers.retain(|address| !address.is_loopback());
        if conf.nameservers.is_empty() {
            conf.nameservers = FALLBACK
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect();
        }
    }
    let mut out = String::new();
    for server in &conf.nameservers {
        let _ = writeln!(out, "nameserver {server}");
    }
    for (word, values) in [("search", &conf.search), ("options", &conf.options)] {
        if !values.is_empty() {
            let _ = writeln!(out, "{word} {}", values.join(" "));
        }
    }
    for line in &conf.other {
        let _ = writeln!(out, "{line}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_the_name_and_what_was_added() {
        assert_eq!(
            hosts("", &[("db".into(), "10.0.0.5".parse().unwrap())]),
            "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.5\tdb\n"
        );
    }

    #[test]
    fn a_resolver_is_what_a_container_can_reach() {
        let dns = Dns {
            nameservers: vec!["192.0.2.9".parse().unwrap()],
            search: vec!["corp".into()],
            options: vec!["ndots:2".into()],
        };
        let host = "# c\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a b\noptions edns0\nsortlist x\n";
        let cases = [
            (
                host,
                Dns::default(),
                true,
                "nameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver fe80::1\nsearch a b\noptions edns0\nsortlist x\n",
            ),
            (
                host,
                Dns::default(),
                false,
                "nameserver 192.0.2.1\nnameserver fe80::1\nsearch a b\noptions edns0\nsortlist x\n",
            ),
            (
                host,
                dns,
                false,
                "nameserver 192.0.2.9\nsearch corp\noptions ndots:2\nsortlist x\n",
            ),
            (
                "nameserver 127.0.0.1\n",
                Dns::default(),
                false,
                "nameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n",
            ),
            (
                "nameserver 127.0.0.1\n",
                Dns::default(),
                true,
                "nameserver 127.0.0.1\n",
            ),
        ];
        for (host, dns, host_network, expected) in cases {
            assert_eq!(resolver(host, &dns, host_network), expected);
        }
    }

    #[test]
    fn equal_files_are_one() {
        let dir = tempfile::tempdir().unwrap();
        let files = HostFiles::new(dir.path().join("h"), Dns::default()).unwrap();
        assert_eq!(
            files.hosts("a", &[]).unwrap(),
            files.hosts("a", &[]).unwrap()
        );
        assert_ne!(
            files.hosts("a", &[]).unwrap(),
            files.hosts("b", &[]).unwrap()
        );
    }
}
