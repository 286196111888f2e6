//! The way to a host: straight, or through a proxy of the settings, as the engine goes.

use std::fmt::Display;
use std::net::SocketAddr;

use hyper_util::client::proxy::matcher::Matcher;
use kiln_config::ProxySettings;
use reqwest::{ClientBuilder, NoProxy, Proxy};

use super::Layer;
use super::probe::{Failed, PATIENCE};

/// Where a connection is opened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// `host:port`
    pub(super) place: String,
    pub(super) is_proxy: bool,
}

/// How a host (with a port, if it has one) is reached.
pub(super) fn route(host: &str, tls: bool, proxy: &ProxySettings) -> Route {
    let scheme = if tls { "https" } else { "http" };
    let matcher = Matcher::builder()
        .http(&*proxy.http)
        .https(&*proxy.https)
        .no(&*proxy.no_proxy)
        .build();
    let through = format!("{scheme}://{host}/").parse().ok();
    let through = through.and_then(|uri| matcher.intercept(&uri));
    match through
        .as_ref()
        .and_then(|found| found.uri().host().map(|host| (host, found.uri())))
    {
        Some((host, uri)) => Route {
            place: with_port(
                &uri.port()
                    .map_or(host.to_owned(), |port| format!("{host}:{port}")),
                uri.scheme_str() == Some("https"),
            ),
            is_proxy: true,
        },
        None => Route {
            place: with_port(host, tls),
            is_proxy: false,
        },
    }
}

fn with_port(host: &str, tls: bool) -> String {
    match host.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            host.to_owned()
        }
        _ => format!("{host}:{}", if tls { 443 } else { 80 }),
    }
}

/// Its addresses, and words.
pub(super) async fn resolve(route: &Route) -> Result<(Vec<SocketAddr>, String), Failed> {
    let found = tokio::net::lookup_host(&route.place).await;
    let found: Vec<_> = found
        .map_err(|error| (Layer::Dns, of(route, error)))?
        .collect();
    if found.is_empty() {
        return Err((Layer::Dns, of(route, "the name has no address")));
    }
    let names: Vec<String> = found
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    Ok((found, of(route, names.join(", "))))
}

/// What goes through a proxy is told of the proxy.
fn of(route: &Route, words: impl Display) -> String {
    match route.is_proxy {
        true => format!("the proxy {}: {words}", route.place),
        false => words.to_string(),
    }
}

/// Whether one of them takes a connection, and words.
pub(super) async fn connect(
    route: &Route,
    addresses: &[SocketAddr],
) -> Result<((), String), Failed> {
    let mut reason = String::new();
    for address in addresses {
        match tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(((), of(route, format!("{address} accepts")))),
            Ok(Err(error)) => reason = format!("{address}: {error}"),
            Err(_) => reason = format!("{address}: no answer within {} s", PATIENCE.as_secs()),
        }
    }
    Err((Layer::Tcp, of(route, reason)))
}

/// A client that goes through these proxies and no others.
pub(super) fn through(
    builder: ClientBuilder,
    proxy: &ProxySettings,
) -> Result<ClientBuilder, reqwest::Error> {
    let except = || NoProxy::from_string(&proxy.no_proxy);
    let mut builder = builder.no_proxy();
    if !proxy.http.is_empty() {
        builder = builder.proxy(Proxy::http(&proxy.http)?.no_proxy(except()));
    }
    if !proxy.https.is_empty() {
        builder = builder.proxy(Proxy::https(&proxy.https)?.no_proxy(except()));
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_for_its_scheme_and_not_for_what_is_excepted() {
        let proxy = ProxySettings {
            http: "http://me:secret@plain.example:3128".into(),
            https: "http://safe.example".into(),
            no_proxy: "inside.example,10.0.0.0/8".into(),
        };
        for (host, tls, place, is_proxy) in [
            ("registry.example", true, "safe.example:80", true),
            ("registry.example:5000", false, "plain.example:3128", true),
            ("inside.example:5000", true, "inside.example:5000", false),
            ("a.inside.example", false, "a.inside.example:80", false),
            ("10.1.2.3", true, "10.1.2.3:443", false),
            ("[::1]:5000", false, "plain.example:3128", true),
        ] {
            let expected = Route {
                place: place.to_owned(),
                is_proxy,
            };
            assert_eq!(route(host, tls, &proxy), expected, "{host}");
        }
        assert!(!route("registry.example", true, &ProxySettings::default()).is_proxy);
    }
}
