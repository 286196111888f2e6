//! Clock, names, certificates, proxies: what a system's configuration files say elsewhere.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use kiln_link::machine::{Setup, registry_file};
use rustix::time::{ClockId, Timespec};

const HOSTNAME: &str = "kiln";
/// All certificates to trust, of the public and of the host.
pub(super) const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Sets the clock.
pub(crate) fn set_clock(now: SystemTime) -> io::Result<()> {
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(io::Error::other)?;
    let time = Timespec {
        tv_sec: since.as_secs() as i64,
        tv_nsec: i64::from(since.subsec_nanos()),
    };
    Ok(rustix::time::clock_settime(ClockId::Realtime, time)?)
}

pub(super) fn set_clock_nanos(nanos: u64) -> io::Result<()> {
    set_clock(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos))
}

/// Makes the system what the host wants it to be. To be called before names are looked up or children started.
pub(super) fn configure(setup: &Setup) -> anyhow::Result<()> {
    let hostname = match setup.hostname.as_str() {
        "" => HOSTNAME,
        given => given,
    };
    rustix::system::sethostname(hostname.as_bytes()).context("the machine's name")?;
    let hosts = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {hostname}\n");
    for (path, text) in [
        ("/etc/hostname", format!("{hostname}\n")),
        ("/etc/hosts", hosts),
        ("/etc/resolv.conf", super::network::resolver(&setup.network)),
        ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n".to_owned()),
        ("/etc/group", "root:x:0:\n".to_owned()),
    ] {
        fs::write(path, text).context(path)?;
    }
    fs::create_dir_all("/root").context("/root")?;
    if !setup.certificates.is_empty() {
        let public = fs::read_to_string(CERTIFICATES).context(CERTIFICATES)?;
        let all = format!("{}\n{}\n", public.trim_end(), setup.certificates.trim());
        fs::write(CERTIFICATES, all).context(CERTIFICATES)?;
    }
    hand_out(Path::new("/"), &setup.registry_files)?;
    kiln_sys::environment::set_early("SSL_CERT_FILE", CERTIFICATES);
    for (name, value) in proxies(setup) {
        kiln_sys::environment::set_early(&name, &value);
        kiln_sys::environment::set_early(&name.to_ascii_lowercase(), &value);
    }
    Ok(())
}

/// Puts files of registries where the configuration has them, beneath `root`.
fn hand_out(root: &Path, files: &[String]) -> anyhow::Result<()> {
    for (index, text) in files.iter().enumerate() {
        let path = registry_file(index);
        let path = root.join(path.strip_prefix("/").unwrap_or(&path));
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        // One of them may be a key.
        let mut file = fs::OpenOptions::new();
        let file = file.write(true).create(true).truncate(true).mode(0o600);
        file.open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Proxies by the names of their variables. The host itself is reached without one.
pub(super) fn proxies(setup: &Setup) -> Vec<(String, String)> {
    let proxy = &setup.proxy;
    let mut all = Vec::new();
    for (name, value) in [("HTTP_PROXY", &proxy.http), ("HTTPS_PROXY", &proxy.https)] {
        if !value.is_empty() {
            all.push((name.to_owned(), value.clone()));
        }
    }
    let mut direct: Vec<&str> = vec![proxy.none_for.as_str()];
    if !all.is_empty() && !setup.forward.is_empty() {
        direct.push(super::offer::HOST);
    }
    direct.retain(|names| !names.is_empty());
    if !direct.is_empty() {
        all.push(("NO_PROXY".to_owned(), direct.join(",")));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_registries_are_where_the_configuration_has_them() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        hand_out(root.path(), &["a".to_owned(), "b".to_owned()]).unwrap();
        let path = root.path().join("run/kiln/registry/1.pem");
        assert_eq!(fs::read_to_string(&path).unwrap(), "b");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
