//! Ports of `EXPOSE`.

use std::net::IpAddr;

use crate::lint::{Linter, Rule};
use crate::parse::Lines;

/// Why a text names no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// There is no number.
    #[error("invalid port: {}: no port specified", crate::text::quote(.0))]
    Missing(String),
    /// The protocol isn't `tcp`, `udp` or `sctp`.
    #[error("invalid port: {}: invalid proto: {proto}", crate::text::quote(port))]
    Proto {
        /// The whole text.
        port: String,
        /// The protocol.
        proto: String,
    },
    /// The address in front of a port isn't one.
    #[error("invalid IP address: {0}")]
    Address(String),
    /// The number or range isn't one.
    #[error("invalid containerPort: {0}")]
    Container(String),
    /// The number or range of the host isn't one.
    #[error("invalid hostPort: {0}")]
    Host(String),
    /// Two ranges of different sizes.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The container's.
        container: String,
        /// The host's.
        host: String,
    },
}

/// `port/protocol` of each port that `text` names.
pub(crate) fn ports(text: &str, lines: Lines, lint: &Linter) -> Result<Vec<String>, PortError> {
    let mut parts = text.rsplitn(3, ':');
    let container = parts.next().unwrap_or("");
    let host = parts.next().unwrap_or("");
    let address = parts.next().unwrap_or("");
    let (port, proto) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(PortError::Missing(text.to_owned()));
    }
    let lower = proto.to_lowercase();
    if !matches!(lower.as_str(), "" | "tcp" | "udp" | "sctp") {
        return Err(PortError::Proto {
            port: text.to_owned(),
            proto: proto.to_owned(),
        });
    }
    if proto != lower {
        let message =
            format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
        lint.report(Rule::ExposeProtoCasing, lines, message);
    }
    if !address.is_empty() || !host.is_empty() {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
        );
        lint.report(Rule::ExposeInvalidFormat, lines, message);
    }
    if !address.is_empty() {
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        if bare.unwrap_or(address).parse::<IpAddr>().is_err() {
            return Err(PortError::Address(address.to_owned()));
        }
    }
    let (start, end) = range(port).ok_or_else(|| PortError::Container(port.to_owned()))?;
    if !host.is_empty() {
        let (first, last) = range(host).ok_or_else(|| PortError::Host(host.to_owned()))?;
        if end - start != last - first && end != start {
            return Err(PortError::Ranges {
                container: port.to_owned(),
                host: host.to_owned(),
            });
        }
    }
    let proto = if lower.is_empty() { "tcp" } else { &lower };
    Ok((start..=end)
        .map(|port| format!("{port}/{proto}"))
        .collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let (start, end) = (start.parse().ok()?, end.parse().ok()?);
    (start <= end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        let lint = Linter::default();
        let read = |text| ports(text, Lines::one(1), &lint).map_err(|e| e.to_string());
        assert_eq!(read("80"), Ok(vec!["80/tcp".into()]));
        assert_eq!(read("53/UDP"), Ok(vec!["53/udp".into()]));
        assert_eq!(read("1-2/sctp"), Ok(vec!["1/sctp".into(), "2/sctp".into()]));
        assert_eq!(read("127.0.0.1:1:2"), Ok(vec!["2/tcp".into()]));
        assert_eq!(read("[::1]:1:2"), Ok(vec!["2/tcp".into()]));
        assert_eq!(lint.take().len(), 3);
        for (text, want) in [
            ("99999x", "invalid containerPort: 99999x"),
            ("70000", "invalid containerPort: 70000"),
            ("2-1", "invalid containerPort: 2-1"),
            ("80/x", "invalid port: \"80/x\": invalid proto: x"),
            ("", "invalid port: \"\": no port specified"),
            ("x:1:2", "invalid IP address: x"),
            ("x:2", "invalid hostPort: x"),
            (
                "1-2:3-5",
                "invalid ranges specified for container and host Ports: 3-5 and 1-2",
            ),
        ] {
            assert_eq!(read(text), Err(want.to_owned()), "{text}");
        }
    }
}
