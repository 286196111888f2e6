//! Proxies on the host's own loopback, as the machine reaches them: by the host's name there, through an allowed port.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kiln_config::HostSettings;

/// What the guest calls the host.
const HOST: &str = "host.kiln.internal";

/// The ports of the host's loopback that builds may reach: those with rules, and those of proxies there.
pub(super) fn allowed(settings: &HostSettings) -> BTreeSet<u16> {
    let proxies = [&settings.proxy.http, &settings.proxy.https];
    let proxies = proxies.into_iter().filter_map(|url| for_guest(url).1);
    let rules = settings.allow.iter().map(|rule| rule.port);
    rules.chain(proxies).collect()
}

/// A proxy's URL for the guest, and its port if that is on the host's loopback.
pub(super) fn for_guest(url: &str) -> (String, Option<u16>) {
    rewritten(url).map_or_else(|| (url.to_owned(), None), |(url, port)| (url, Some(port)))
}

fn rewritten(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (format!("{user}@"), place),
        None => (String::new(), authority),
    };
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (place, if scheme == "https" { 443 } else { 80 }),
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_loopback.then(|| (format!("{scheme}://{user}{HOST}:{port}{path}"), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proxies_on_the_loopback_are_called_otherwise() {
        for (url, expected, port) in [
            ("", "", None),
            ("http://proxy:3128", "http://proxy:3128", None),
            (
                "http://127.0.0.1.nip.io:1",
                "http://127.0.0.1.nip.io:1",
                None,
            ),
            (
                "http://localhost:3128",
                "http://host.kiln.internal:3128",
                Some(3128),
            ),
            (
                "http://me:x@127.0.0.1:8080/",
                "http://me:x@host.kiln.internal:8080/",
                Some(8080),
            ),
            ("https://[::1]", "https://host.kiln.internal:443", Some(443)),
            ("http://[::1]:99", "http://host.kiln.internal:99", Some(99)),
            ("http://LOCALHOST", "http://host.kiln.internal:80", Some(80)),
        ] {
            assert_eq!(for_guest(url), (expected.to_owned(), port), "{url}");
        }
    }
}
