//! Dangerous things need two consents: the daemon's configuration and the client's `--allow`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use kiln_errdefs::{Kind, SharedError, WithDetail};
use kiln_llb::{Edge, post_order};
use kiln_proto::pb;

/// Something that a step may only do with consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entitlement {
    /// The daemon's own network.
    NetworkHost,
    /// All capabilities and devices.
    SecurityInsecure,
    /// Devices by CDI names.
    Device,
}

/// A word that names no entitlement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown entitlement {0}")]
pub struct UnknownEntitlement(pub String);

impl Entitlement {
    /// The word that clients and configuration use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
            Self::Device => "device",
        }
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Entitlement {
    type Err = UnknownEntitlement;

    /// `device=NAME` is an entitlement for one device; devices aren't told apart yet.
    fn from_str(text: &str) -> Result<Self, UnknownEntitlement> {
        let name = text.split('=').next().unwrap_or_default();
        [Self::NetworkHost, Self::SecurityInsecure, Self::Device]
            .into_iter()
            .find(|one| one.as_str() == name)
            .ok_or_else(|| UnknownEntitlement(text.to_owned()))
    }
}

/// What a build may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entitlements(BTreeSet<Entitlement>);

impl FromIterator<Entitlement> for Entitlements {
    fn from_iter<I: IntoIterator<Item = Entitlement>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl Entitlements {
    /// What a client asked for, each of which the daemon must allow too.
    pub(crate) fn grant(asked: &[String], allowed: &Self) -> Result<Self, SharedError> {
        asked
            .iter()
            .map(|text| {
                let one: Entitlement = text.parse().map_err(|error: UnknownEntitlement| {
                    WithDetail::message(Kind::User, error.to_string()).shared()
                })?;
                if allowed.0.contains(&one) {
                    Ok(one)
                } else {
                    Err(WithDetail::message(
                        Kind::Denied,
                        format!(
                            "granting entitlement {one} is not allowed by build daemon configuration"
                        ),
                    )
                    .shared())
                }
            })
            .collect()
    }

    /// Refuses a graph with a step that does what the build may not.
    pub(crate) fn check(&self, edge: &Edge) -> Result<(), SharedError> {
        for vertex in post_order(&edge.vertex) {
            let Some(pb::op::Op::Exec(exec)) = &vertex.op.op else {
                continue;
            };
            let wanted = [
                (exec.network == pb::NetMode::Host as i32).then_some(Entitlement::NetworkHost),
                (exec.security == pb::SecurityMode::Insecure as i32)
                    .then_some(Entitlement::SecurityInsecure),
                (!exec.cdi_devices.is_empty()).then_some(Entitlement::Device),
            ];
            self.require(wanted.into_iter().flatten())?;
        }
        Ok(())
    }

    /// Refuses what isn't granted.
    pub(crate) fn require(
        &self,
        wanted: impl IntoIterator<Item = Entitlement>,
    ) -> Result<(), SharedError> {
        match wanted.into_iter().find(|one| !self.0.contains(one)) {
            None => Ok(()),
            Some(one) => {
                Err(WithDetail::message(Kind::Denied, format!("{one} is not allowed")).shared())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_must_consent() {
        let allowed: Entitlements = [Entitlement::NetworkHost].into_iter().collect();
        for (asked, error) in [
            (&[][..], None),
            (&["network.host"], None),
            (
                &["security.insecure"],
                Some(
                    "granting entitlement security.insecure is not allowed by build daemon configuration",
                ),
            ),
            (&["all"], Some("unknown entitlement all")),
        ] {
            let asked: Vec<String> = asked.iter().map(|&text| text.to_owned()).collect();
            let granted = Entitlements::grant(&asked, &allowed);
            assert_eq!(
                granted.err().map(|error| error.to_string()).as_deref(),
                error
            );
        }
        let none = Entitlements::default();
        let refused = none
            .require([Entitlement::NetworkHost])
            .expect_err("refused");
        assert_eq!(refused.to_string(), "network.host is not allowed");
    }
}
